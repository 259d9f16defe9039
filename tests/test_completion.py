"""Completion, by a real shell."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("pre",), {"predict"}),
        (("train", "--dry"), {"--dry-run"}),
        (("train", "--optimizer", "adam"), {"adam", "adamw"}),
    ],
)
def test_bash_completes(words: tuple[str, ...], wanted: set[str], tmp_path: Path) -> None:
    on_path = tmp_path / "pneumonia"
    on_path.write_text(f'#!/bin/sh\nexec {sys.executable} -m pneumonia "$@"\n')
    on_path.chmod(0o755)
    script = f"""
        eval "$(pneumonia completion bash)"
        COMP_WORDS=(pneumonia {" ".join(words)})
        COMP_CWORD={len(words)}
        _pneumonia_completion pneumonia {words[-1]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == wanted, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_too(shell: str, run_cli: Callable[..., Result]) -> None:
    result = run_cli("completion", shell)
    assert result.exit_code == 0
    assert "_PNEUMONIA_COMPLETE" in result.stdout
