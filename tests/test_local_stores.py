"""Local stores as people have them: moved, copied, unwritable, damaged, in folders of any name."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.errors import UsageError
from pneumonia.search.storage_url import local_file
from pneumonia.tracking.store_uri import chosen_uri, local_database
from tests.conftest import QUICK, _forget_store, copy_store

Cli = Callable[..., Result]


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose store names its artifacts where they are."""
    folder = tmp_path / "project"
    copy_store(trained.folder, folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            query = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            store.execute(query, (str(trained.folder), str(folder)))
    monkeypatch.chdir(folder)
    return folder


def image_of(folder: Path) -> Path:
    return next(folder.rglob("test/NORMAL/*.jpeg"))


@pytest.mark.slow
@pytest.mark.parametrize("copied", [False, True])
def test_a_moved_project_is_told_and_fixed_and_its_old_place_stays_as_it_was(
    project: Path,
    copied: bool,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = project.with_name("moved")
    (shutil.copytree if copied else shutil.move)(project, moved)
    before = files_below(project)
    monkeypatch.chdir(moved)
    predict = ("predict", "--model-uri", "models:/resnet34/1", image_of(xrays))
    for command in (predict, ("train", "--data", xrays, *QUICK)):
        result = run_cli(*command)
        assert result.exit_code == 1
        assert str(project) in result.stderr
        assert "doctor --fix" in result.stderr
    assert files_below(project) == before
    assert project.exists() == copied

    fixed = run_cli("doctor", "--fix")
    assert "fixed" in fixed.stdout
    assert "beside the store" not in run_cli("doctor").stdout
    assert run_cli(*predict).exit_code == 0
    assert run_cli("train", "--data", xrays, *QUICK).exit_code == 0
    assert files_below(project) == before


def test_a_link_to_the_project_is_no_move(
    project: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.with_name("link").symlink_to(project)
    monkeypatch.chdir(project.with_name("link"))
    uri = f"sqlite:///{project.with_name('link')}/mlflow.db"
    command = ("predict", "--tracking-uri", uri, "--model-uri", "models:/resnet34/1")
    assert run_cli(*command, image_of(xrays)).exit_code == 0


@pytest.mark.slow
def test_artifacts_kept_elsewhere_on_purpose_are_no_move(
    empty_folder: Path, xrays: Path, run_cli: Cli
) -> None:
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    client.create_experiment("elsewhere", (empty_folder / "disk" / "mlruns").as_uri())
    command = ("train", "--data", xrays, *QUICK, "--experiment-name", "elsewhere")
    result = run_cli(*command)
    assert result.exit_code == 0, result.stderr
    assert files_below(empty_folder / "disk")


def test_a_stopped_run_of_a_moved_project_does_not_make_the_old_store_anew(
    project: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forget_store()
    monkeypatch.setenv("PNEUMONIA_STATE", str(project.with_name("state")))
    folder = project.with_name("state") / "runs" / "abc"
    folder.mkdir(parents=True)
    old = project.with_name("old")
    (folder / "owner.json").write_text(f'{{"tracking_uri": "sqlite:///{old}/mlflow.db"}}')
    result = run_cli("train", "--resume", "abc")
    assert result.exit_code == 2
    assert "'abc' cannot be resumed" in result.stderr
    assert not old.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a#b", "50% off", "ünï cødé 肺", "it's", "a&b=c"])
def test_a_project_folder_of_any_usable_name_works(
    name: str,
    tmp_path: Path,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = run_cli("train", "--data", xrays, *QUICK)
    assert result.exit_code == 0, result.stderr
    predicted = run_cli("predict", "--model-uri", "models:/resnet34/1", image_of(xrays))
    assert predicted.exit_code == 0, predicted.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert any(folder.rglob("best.pt"))


@pytest.mark.parametrize("name", ["what?", "100%41", "a?b#c"])
@pytest.mark.parametrize("command", [("train",), ("train", "--trials", 2), ("study", "list")])
def test_a_project_folder_no_database_url_can_name_is_refused_at_once(
    name: str,
    command: tuple[str, ...],
    tmp_path: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = run_cli(*command)
    assert result.exit_code == 2
    assert name in result.stderr
    assert "rename the folder" in result.stderr
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


@given(st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1))
def test_a_local_store_is_the_file_that_its_url_names(name: str) -> None:
    import sqlalchemy

    path = Path("/srv") / name / "store.db"
    for absolute, file in ((chosen_uri, local_database), (lambda url: url, local_file)):
        try:
            url = absolute(f"sqlite:///{path}")
            found = file(url)
        except UsageError:
            continue
        assert str(found) == sqlalchemy.make_url(url).database


def test_a_store_of_a_newer_mlflow_is_told(workplace: Path, run_cli: Cli) -> None:
    with closing(sqlite3.connect(workplace / "mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    result = run_cli("ui")
    assert result.exit_code == 1
    assert "another version" in result.stderr
    assert "Traceback" not in result.stderr
    assert "pip install -U mlflow" in result.stderr


@pytest.mark.parametrize("content", [b"a picture of a database" * 40, b"{}\n"])
@pytest.mark.parametrize("file", ["mlflow.db", "optuna.db"])
def test_a_file_that_is_no_database_is_told_and_kept(
    content: bytes, file: str, empty_folder: Path, xrays: Path, run_cli: Cli
) -> None:
    (empty_folder / file).write_bytes(content)
    result = run_cli("train", "--data", xrays, *QUICK, "--trials", 2)
    assert result.exit_code in (1, 2)
    assert file in result.stderr
    assert "not an sqlite database" in result.stderr
    assert (empty_folder / file).read_bytes() == content


@pytest.mark.parametrize("command", ["train", "cross-validate"])
def test_artifacts_that_cannot_be_stored_are_a_failure_before_training(
    command: str, workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    (workplace / "mlruns").write_text("a file where a folder should be")
    result = run_cli(command, "--data", xrays, *QUICK)
    assert result.exit_code == 1
    assert "cannot store artifacts" in result.stderr
    assert "epoch 1/1" not in result.stderr
    assert "does not answer" not in result.stderr
    (run,) = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db").search_runs(["0"])
    assert run.info.status == "FAILED"
