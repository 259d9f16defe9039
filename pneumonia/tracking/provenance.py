"""Where a run came from: the code's commit, and the versions of what it ran on."""

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("pneumonia", "torch", "torchvision", "mlflow", "optuna", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, as tags."""
    found = {"version.python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[f"version.{package}"] = "not installed"
    return found


def git_state() -> dict[str, str]:
    """Commit of the code that runs, and whether there were uncommitted changes, as tags.

    An installed package has no commit, though a repository may surround its virtual environment.
    ``git.dirty`` then says why.
    """
    folder = Path(__file__).parent
    if shutil.which("git") is None:
        return {"git.dirty": "unknown: there is no git on this machine"}
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"git.dirty": "unknown: the package does not run from a git checkout"}
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"git.dirty": "unknown: the repository has no commit"}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    dirty = "unknown: git does not answer" if changed is None else str(bool(changed)).lower()
    return {"mlflow.source.git.commit": commit, "git.dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
