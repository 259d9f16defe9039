"""That the fuzzing script tries every door, and tells what it finds."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pneumonia.errors import PneumoniaError
from tests.faults import fuzz

pytestmark = pytest.mark.slow


def test_no_input_of_a_small_run_breaks_anything() -> None:
    result = CliRunner().invoke(fuzz.main, ["--inputs", "400", "--seed", "1"])
    assert result.exit_code == 0, result.output
    counted = json.loads(result.stdout[result.stdout.index("{") :])
    for counts in counted["doors"].values():
        assert counts["taken"] + counts["refused"] >= 20
    assert counted["held"]["does not hang"] == 400


def test_an_unexpected_error_is_told(tmp_path: Path) -> None:
    def give(content: bytes) -> None:
        if content == b"refuse":
            raise PneumoniaError
        if content == b"break":
            raise RecursionError("too deep")

    refusals = (PneumoniaError,)
    assert fuzz.give_quietly(give, refusals, b"take") == (True, "")
    assert fuzz.give_quietly(give, refusals, b"refuse") == (False, "")
    assert fuzz.give_quietly(give, refusals, b"break") == (False, "RecursionError: too deep")
    watch = fuzz.Watch(str(tmp_path), on=True)
    watch("open", ("/etc/passwd", "r", 0))
    watch("open", (str(tmp_path / "mine"), "w", 0))
    assert not watch.breaches
    watch("open", ("/etc/passwd", "w", 0))
    watch("socket.connect", (None, ("127.0.0.1", 80)))
    assert len(watch.breaches) == 2
