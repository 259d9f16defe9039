"""How far a command is, on a terminal and in a log."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from pneumonia.cli import progress as progress_module
from pneumonia.cli.progress import ProgressBar
from tests.conftest import QUICK

COLUMNS = 80


def on_terminal(*arguments: object) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns: its exit code, and all that was written."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "pneumonia", *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65_536):
                written += block
        except OSError:  # how a terminal ends
            pass
    os.close(ours)
    return process.returncode, written.decode()


def screen(written: str) -> list[str]:
    """The lines that stay, when each carriage return has written over what was there."""
    lines = []
    for line in written.split("\r\n"):
        shown: list[str] = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return lines


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_a_terminal_shows_a_bar_an_epoch_and_keeps_only_the_results(xrays: Path) -> None:
    code, written = on_terminal("train", "--data", xrays, *QUICK)
    assert code == 0, written
    assert re.search(r"epoch 1/\d+:.*images/s", written)
    stays = screen(written)
    assert not [line for line in stays if "images/s" in line], "a bar is left on the screen"
    assert [line for line in stays if re.match(r"epoch 1/\d+  loss ", line)]
    assert [line for line in stays if line.startswith("model     models:/")]
    assert [line for line in stays if re.match(r"test +\d", line)], "the table of images"
    assert [line for line in stays if line.startswith("test      accuracy")]
    too_wide = [line for line in stays if len(line) > COLUMNS]
    assert not [line for line in too_wide if " " in line.strip()], "only what is one word"


@pytest.mark.slow
def test_predict_shows_a_count_on_a_terminal(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    output = tmp_path / "rows.csv"
    code, written = on_terminal("predict", *model, xrays / "test", "--output", output)
    assert code == 0, written
    assert "scoring: " in written
    assert re.match(r"\d+ images: ", [line for line in screen(written) if line][-1])


@pytest.fixture(autouse=True)
def not_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Progress is shown unless a command is quiet."""
    caplog.set_level(logging.INFO, "pneumonia")


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A bar of a command whose output is no terminal, and that writes every line."""
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN_LINES", 0.0)
    with click.Context(click.Command("train")):
        return ProgressBar()


def test_a_log_gets_plain_lines(
    bar: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    bar("epoch 1/2", 512, 4001)
    bar("scoring", 1234)
    assert capsys.readouterr().err == "epoch 1/2 512/4,001\nscoring 1,234\n"


def test_a_log_gets_no_line_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("train")):
        bar = ProgressBar()
    bar("epoch 1/2", 512, 4001)
    assert capsys.readouterr().err == ""
