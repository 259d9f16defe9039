"""The commit a run names is that of the code that ran, or there is none."""

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pneumonia.tracking.provenance import git_state

PACKAGE = Path(__file__).parents[1] / "pneumonia"
START = """
import sys
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.store import connect
connect(sys.argv[1])
with parent_run(NewRun("one", {}, "0")):
    pass
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("committed", [True, False], ids=["checkout", "installed"])
def test_a_run_names_the_commit_of_the_package_and_no_other(
    committed: bool, tmp_path: Path, empty_store: Path
) -> None:
    """A repository around the virtual environment, or around the script, is not the code's."""
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    repository = tmp_path / "thesis"
    installed = repository / "venv" / "site-packages"
    shutil.copytree(PACKAGE, installed / "pneumonia", ignore=shutil.ignore_patterns("__pycache__"))
    script = repository / "start.py"
    script.write_text(START)
    git(tmp_path, "init", "--quiet", str(repository))
    git(repository, "add", "." if committed else "start.py")
    git(repository, "commit", "--quiet", "--message", "thesis")
    subprocess.run(
        [sys.executable, script, f"sqlite:///{store}"],
        check=True,
        cwd=repository,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    (run,) = mlflow.MlflowClient(f"sqlite:///{store}").search_runs(["0"])
    if committed:
        assert run.data.tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
        assert run.data.tags["git.dirty"] == "false"
    else:
        assert not [key for key in run.data.tags if key.startswith("mlflow.source.git")]
        assert "does not run from a git checkout" in run.data.tags["git.dirty"]


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state() == {"git.dirty": "unknown: there is no git on this machine"}
