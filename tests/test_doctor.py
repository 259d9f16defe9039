"""What dead processes leave behind is reported and fixed; what is in use is left alone."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import pytest
from click.testing import Result
from filelock import FileLock
from optuna.trial import TrialState
from PIL import Image

from pneumonia.data.cache import default_folder, open_cache
from pneumonia.data.decode import Preprocessing
from pneumonia.data.demo import DEMO_FOLDER
from pneumonia.processes import this_process
from pneumonia.search.queue import TrialQueue
from pneumonia.search.storage import open_storage, queue_of
from pneumonia.search.trials import number_of
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.outbox import Entry
from pneumonia.tracking.run_lifecycle import continue_run
from pneumonia.tracking.store import connect

Cli = Callable[..., Result]
Tags = dict[str, str]
ELSEWHERE = {"process.host": "another-machine", "process.id": "1", "process.started": "1.00"}


@dataclass
class Sandbox:
    """A working directory with a tracking store, a cache and a state folder of its own."""

    folder: Path
    cli: Cli
    client: mlflow.MlflowClient

    def doctor(self, *arguments: str, code: int) -> str:
        result = self.cli("doctor", *arguments)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.stdout

    def run(self, tags: Tags, name: str = "some") -> str:
        return str(self.client.create_run("0", tags=tags, run_name=name).info.run_id)

    def status(self, run_id: str) -> str:
        return str(self.client.get_run(run_id).info.status)

    def state(self, run_id: str, tags: Tags, monkeypatch: pytest.MonkeyPatch) -> LocalState:
        """What a process left of a run on this machine."""
        local = LocalState(run_id)
        with monkeypatch.context() as patch:
            patch.setattr("pneumonia.tracking.local_state.this_process", lambda: tags)
            local.write_owner(f"sqlite:///{self.folder}/mlflow.db")
        local.checkpoint.write_bytes(bytes(5000))
        return local


@pytest.fixture(scope="module")
def empty_studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    open_storage(f"sqlite:///{folder}/optuna.db")
    return folder / "optuna.db"


@pytest.fixture
def apart(
    empty_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    own = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("PNEUMONIA_STATE", str(own / "state"))
    monkeypatch.setenv("PNEUMONIA_CACHE", str(own / "cache"))
    return empty_folder


@pytest.fixture
def sandbox(apart: Path, empty_store: Path, run_cli: Cli) -> Sandbox:
    shutil.copy(empty_store, apart / "mlflow.db")
    uri = f"sqlite:///{apart}/mlflow.db"
    connect(uri)
    return Sandbox(apart, run_cli, mlflow.MlflowClient(uri))


@pytest.fixture
def studies(sandbox: Sandbox, empty_studies: Path) -> str:
    shutil.copy(empty_studies, sandbox.folder / "optuna.db")
    return f"sqlite:///{sandbox.folder}/optuna.db"


def test_a_new_installation_is_well_and_nothing_is_made(apart: Path, run_cli: Cli) -> None:
    result = run_cli("doctor")
    assert result.exit_code == 0, result.output
    for reported in (
        "torch 2.",
        "CPU cores",
        "device cpu: fp32 works; bf16 works",
        "fp16 does not (precision 'fp16' needs a GPU)",
        "download.pytorch.org/models/resnet34",
        f"tracking store 'sqlite:///{apart}/mlflow.db': not there yet",
        f"study storage 'sqlite:///{apart}/optuna.db': not there yet",
    ):
        assert reported in result.stdout
    assert result.stdout.endswith("All is well.\n")
    assert list(apart.iterdir()) == []
    assert not default_folder().exists()


def test_a_server_that_is_away_is_wrong_and_its_password_is_not_shown(sandbox: Sandbox) -> None:
    report = sandbox.doctor("--tracking-uri", "http://me:secret@127.0.0.1:9", code=3)
    assert "wrong   the tracking store 'http://me:***@127.0.0.1:9' does not answer" in report
    assert "secret" not in report
    assert "Caches" in report


def test_a_storage_that_holds_no_studies_is_wrong_and_stays_as_it_is(sandbox: Sandbox) -> None:
    before = (sandbox.folder / "mlflow.db").read_bytes()
    report = sandbox.doctor("--storage", "sqlite:///mlflow.db", code=3)
    assert "wrong   cannot open the study storage" in report
    assert (sandbox.folder / "mlflow.db").read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_wrong(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sandbox.folder / "file").touch()
    monkeypatch.setenv("PNEUMONIA_STATE", str(sandbox.folder / "file"))
    assert "cannot be written to: allow it, or set PNEUMONIA_STATE" in sandbox.doctor(code=3)


def test_runs_of_dead_processes_are_marked_and_no_others(sandbox: Sandbox, dead: Tags) -> None:
    left, theirs, foreign = sandbox.run(dead), sandbox.run(ELSEWHERE), sandbox.run({})
    own = sandbox.run(this_process())
    sandbox.client.log_metric(left, "val/auc", 0.5, step=1)
    report = sandbox.doctor(code=3)
    assert f"left    run {left} (some) counts as running, but process" in report
    assert f"note    run {theirs} (some) is worked on by process 1 on another-machine" in report
    assert report.count("left  ") == 1
    assert sandbox.status(left) == "RUNNING"

    assert f"fixed   run {left}" in sandbox.doctor("--fix", code=0)
    assert sandbox.status(left) == "KILLED"
    known = sandbox.client.get_run(left)
    assert known.data.metrics == {"val/auc": 0.5}
    assert known.data.tags["error"].endswith("died")
    assert {sandbox.status(run) for run in (theirs, foreign, own)} == {"RUNNING"}
    assert left not in sandbox.doctor(code=0)


def begun_study(name: str, url: str, run_id: str, trials: int = 2) -> TrialQueue:
    study = optuna.create_study(study_name=name, storage=open_storage(url))
    study.set_user_attr("settings", {})
    study.set_user_attr("run_id", run_id)
    queue = queue_of(study, url)
    queue.fill(trials)
    return queue


def take_as(queue: TrialQueue, tags: Tags) -> optuna.Trial:
    trial = queue.study.ask()
    trial.set_user_attr("process", tags)
    return trial


def test_trials_of_dead_workers_wait_again(sandbox: Sandbox, studies: str, dead: Tags) -> None:
    queue = begun_study("night", studies, "0", trials=4)
    lost, own, theirs = (take_as(queue, tags) for tags in (dead, this_process(), ELSEWHERE))
    report = sandbox.doctor(code=3)
    assert f"left    trial {lost.number} of 'night': process {dead['process.id']}" in report
    assert "note    trial 2 of 'night' is worked on by process 1 on another-machine" in report
    assert "fixed   trial 0 of 'night'" in sandbox.doctor("--fix", code=0)
    assert [trial.number for trial in queue.running()] == [own.number, theirs.number]
    assert len(queue.trials()) == 4
    assert "trial 0" not in sandbox.doctor(code=0)


def test_a_trial_of_another_machine_is_run_again_once_its_heartbeat_is_long_past(
    sandbox: Sandbox, studies: str
) -> None:
    """The next worker takes a trial of another machine whose heartbeat is missing, not before."""
    queue = begun_study("night", studies, "0")
    database = studies.removeprefix("sqlite:///")
    trial = take_as(queue, ELSEWHERE)
    assert "trial 0 of 'night' is worked on by process 1" in sandbox.doctor("--fix", code=0)
    ended: list[int] = []

    def run_all() -> None:
        queue.recover()
        while queue.run_next(lambda _trial: 0.5, lambda trial: ended.append(number_of(trial))):
            queue.recover()

    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO trial_heartbeats (trial_id, heartbeat) "
            "SELECT trial_id, CURRENT_TIMESTAMP FROM trials WHERE state = 'RUNNING'"
        )
    run_all()
    assert ended == [1]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    run_all()
    assert ended == [1, 0]
    assert [t.state for t in queue.trials()] == [TrialState.COMPLETE] * 2
    assert queue.study.trials[trial.number].state == TrialState.FAIL


def test_a_study_whose_creation_died_is_deleted_and_another_program_s_is_not(
    sandbox: Sandbox, studies: str, dead: Tags
) -> None:
    for name, tags in (("half", dead), ("preparing", this_process()), ("theirs", ELSEWHERE)):
        study = optuna.create_study(study_name=name, storage=open_storage(studies))
        for key, value in {"settings": {}, **tags}.items():
            study.set_user_attr(key, value)
    optuna.create_study(study_name="foreign", storage=studies).ask()
    report = sandbox.doctor(code=3)
    assert f"left    process {dead['process.id']} on" in report
    assert "did not finish creating study 'half'; --fix: delete it" in report
    assert "note    study 'preparing' is being created" in report
    assert "note    study 'theirs' is not ready" in report
    assert "foreign" not in report
    assert "creating study 'half'; deleted" in sandbox.doctor("--fix", code=0)
    assert optuna.get_all_study_names(studies) == ["preparing", "theirs", "foreign"]


def test_a_search_is_not_left_while_somebody_works_on_its_study(
    sandbox: Sandbox, studies: str, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = sandbox.run({**dead, "kind": "search", "study": "night"}, "search")
    sandbox.state(run_id, dead, monkeypatch).write_run_config(
        {
            "tracking_uri": f"sqlite:///{sandbox.folder}/mlflow.db",
            "experiment": {"name": "demo", "training": {}, "data": {}, "space": {}},
            "search": {"study": "night", "storage": studies},
            "register_winner": True,
        }
    )
    queue = begun_study("night", studies, run_id)
    trial = take_as(queue, ELSEWHERE)
    assert "has died; other workers continue its study" in sandbox.doctor("--fix", code=0)
    assert sandbox.status(run_id) == "RUNNING"
    queue.study.tell(trial, 0.5)
    take_as(queue, dead)
    report = sandbox.doctor("--fix", code=0)
    assert "fixed   trial 1 of 'night'" in report
    assert f"marked KILLED; 'pneumonia train --resume {run_id}' resumes it" in report
    assert sandbox.status(run_id) == "KILLED"
    assert LocalState(run_id).run_config.exists()


def test_what_is_kept_is_removed_once_nobody_can_need_it(
    sandbox: Sandbox, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("stopped", "finished", "deleted", "purged", "at work")
    runs = {
        name: sandbox.run(this_process() if name == "at work" else dead, name) for name in names
    }
    kept = {
        name: sandbox.state(run_id, this_process() if name == "at work" else dead, monkeypatch)
        for name, run_id in runs.items()
    }
    sandbox.client.set_terminated(runs["stopped"], "KILLED")
    sandbox.client.set_terminated(runs["finished"], "FINISHED")
    sandbox.client.delete_run(runs["deleted"])
    kept["purged"].folder.rename(LocalState("0" * 32).folder)
    kept["purged"] = LocalState("0" * 32)
    torn = kept["stopped"].folder / "checkpoint.pt.abcdefgh.tmp"
    torn.write_bytes(bytes(10))
    sandbox.state("2" * 32, ELSEWHERE, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("pneumonia.tracking.local_state.this_process", lambda: dead)
        elsewhere = LocalState("1" * 32)
        elsewhere.write_owner("http://another:5000")

    report = sandbox.doctor(code=3)
    assert f"run {runs['stopped']} (stopped) was stopped, and keeps" in report
    assert "folders of runs in http://another:5000, which was not asked: 1" in report
    assert all(local.folder.exists() for local in kept.values())
    report = sandbox.doctor("--fix", code=0)
    assert {name for name in kept if kept[name].folder.exists()} == {"stopped", "at work"}
    assert kept["stopped"].checkpoint.exists()
    assert not torn.exists()
    assert elsewhere.folder.exists()
    assert f"run {'2' * 32} was deleted; it belongs to process 1 on another-machine" in report
    assert LocalState("2" * 32).checkpoint.exists()
    assert "left  " not in sandbox.doctor(code=0)


def test_what_was_resumed_meanwhile_is_not_removed(
    sandbox: Sandbox, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = sandbox.run(dead)
    sandbox.client.set_terminated(run_id, "FINISHED")
    local = sandbox.state(run_id, dead, monkeypatch)
    with local.claim("run"):
        report = sandbox.doctor("--fix", code=3)
    assert f"not fixed: another process works on run {run_id} already" in report
    assert local.checkpoint.exists()


def test_what_waits_to_be_delivered_is_reported_and_kept(
    sandbox: Sandbox, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = sandbox.run(dead)
    local = sandbox.state(run_id, dead, monkeypatch)
    local.outbox.mkdir()
    Entry("tags", {"late": "yes"}).write(local.outbox / "000001.json")
    (local.outbox / "000002.json.0.tmp").touch()
    report = sandbox.doctor("--fix", code=3)
    text = f"wrong   entries that wait to be logged to run {run_id}: 1; 'pneumonia sync' delivers"
    assert text in report
    assert sandbox.status(run_id) == "RUNNING"
    assert [file.name for file in local.outbox.iterdir()] == ["000001.json"]
    assert sandbox.cli("sync").exit_code == 0
    assert f"fixed   run {run_id}" in sandbox.doctor("--fix", code=0)
    assert sandbox.client.get_run(run_id).data.tags["late"] == "yes"


def test_a_run_that_is_resumed_never_looks_stale(
    sandbox: Sandbox, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = sandbox.run(dead)
    sandbox.client.set_terminated(run_id, "KILLED")
    reports = []
    update_run = mlflow.MlflowClient.update_run

    def look_on(*arguments: object, **options: object) -> None:
        update_run(*arguments, **options)
        reports.append(sandbox.doctor("--fix", code=0))

    monkeypatch.setattr(mlflow.MlflowClient, "update_run", look_on)
    continue_run(run_id)
    assert "runs at work on this machine: 1" in reports[0]
    assert sandbox.status(run_id) == "RUNNING"


def test_a_store_that_is_away_makes_no_run_look_deleted(
    sandbox: Sandbox, dead: Tags, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = sandbox.state(sandbox.run(dead), dead, monkeypatch)
    (sandbox.folder / "mlflow.db").rename(sandbox.folder / "moved.db")
    assert "mlflow.db, which was not asked: 1" in sandbox.doctor("--fix", code=0)
    assert local.checkpoint.exists()


def build_and_die(files: dict[str, Path]) -> None:
    """Be killed in the middle of building a cache."""
    if child := os.fork():
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        return
    open_cache(files, Preprocessing(32), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def test_a_cache_is_left_when_its_builder_was_killed_and_not_while_it_builds(
    sandbox: Sandbox,
) -> None:
    image = sandbox.folder / "image.png"
    Image.linear_gradient("L").save(image)
    files = {"digest": image}
    build_and_die(files)
    (building,) = (path for path in default_folder().iterdir() if path.is_dir())
    target = default_folder() / building.name.partition(".")[0]
    with FileLock(f"{target}.lock"):
        assert "note    caches being built at this moment: 1" in sandbox.doctor("--fix", code=0)
    report = sandbox.doctor(code=3)
    assert f"cache {str(building)!r}" in report
    assert f"lock {str(target) + '.lock'!r} locks nothing" in report
    sandbox.doctor("--fix", code=0)
    assert list(default_folder().iterdir()) == []

    open_cache(files, Preprocessing(32))
    assert "nothing is left behind" in sandbox.doctor("--fix", code=0)
    assert (target / "pixels.npy").exists()
    (target / "index.json").unlink()  # as when it was killed while it removed a damaged one
    assert f"fixed   cache {str(target)!r}" in sandbox.doctor("--fix", code=0)
    assert len(open_cache(files, Preprocessing(32)).rows) == 1


def test_networks_prepared_in_int8_are_cleaned_up_as_caches_are(sandbox: Sandbox) -> None:
    folder = default_folder()
    folder.mkdir(parents=True)
    older, newer = (folder / f"int8-{digit * 32}.onnx" for digit in "01")
    for age, prepared in ((9, older), (5, newer)):
        prepared.write_bytes(bytes(6 * 2**20))
        os.utime(prepared, (time.time() - age, time.time() - age))
    killed = folder / f"{older.name}.{'a' * 32}.tmp"
    killed.write_bytes(b"a part")
    with FileLock(f"{older}.lock"):
        assert "note    caches being built at this moment: 1" in sandbox.doctor("--fix", code=0)
    assert f"cache {str(killed)!r} (6 bytes) was never finished" in sandbox.doctor(code=3)
    sandbox.doctor("--fix", code=0)
    assert not killed.exists()
    assert older.exists()
    sandbox.doctor("--fix", "--cache-limit", "0.01", code=0)  # GiB
    assert [path for path in folder.iterdir() if path.suffix == ".onnx"] == [newer]


def test_a_demo_set_is_unfinished_when_nothing_was_drawn_for_an_hour(
    sandbox: Sandbox,
) -> None:
    unfinished = default_folder() / f".{DEMO_FOLDER}-{'0' * 32}"
    (unfinished / "train").mkdir(parents=True)
    sandbox.doctor(code=0)
    long_ago = time.time() - 4000
    for folder in (unfinished / "train", unfinished):
        os.utime(folder, (long_ago, long_ago))
    assert "left    demo set" in sandbox.doctor(code=3)
    sandbox.doctor("--fix", code=0)
    assert not unfinished.exists()
