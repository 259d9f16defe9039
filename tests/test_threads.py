"""Processes that compute on one machine share its cores."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pneumonia import cores
from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.cores import keeping_share, reserve_cores, shared_cores
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.processes import process_tags, this_process
from pneumonia.training.checkpoint import Checkpoint
from pneumonia.training.loop import train

CPU = torch.device("cpu")
ENTER = """
import sys, torch
from pneumonia.cores import shared_cores
with shared_cores(torch.device("cpu")):
    print(torch.get_num_threads(), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Four cores and threads that nobody has fixed; the folder where processes register."""
    monkeypatch.setenv("PNEUMONIA_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "available_cores", lambda: 4)
    monkeypatch.setattr(cores, "_SECONDS_BETWEEN_LOOKS", 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield tmp_path / "state" / "workers"
    torch.set_num_threads(before)


def register(folder: Path, name: str, tags: dict[str, str], threads: int = 0) -> Path:
    """Register a process."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**tags, "threads": str(threads)}))
    return file


@pytest.fixture
def others() -> Iterator[list[dict[str, str]]]:
    """Tags of three processes that live beside this one."""
    command = [sys.executable, "-c", "import sys; sys.stdin.readline()"]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    yield [process_tags(process.pid) for process in started]
    for process in started:
        process.communicate(b"\n")


def test_a_process_shrinks_when_another_starts_and_grows_when_it_ends(
    machine: Path, others: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The share is divided anew while a process computes, and one line says so."""
    with caplog.at_level(logging.INFO), shared_cores(CPU) as adapt:
        assert torch.get_num_threads() == 4
        other = register(machine, "other", others[0])
        adapt()
        assert torch.get_num_threads() == 2
        assert "using 2 of 4 cores: 1 other process computes on this machine" in caplog.text
        other.unlink()
        adapt()
        assert torch.get_num_threads() == 4
        register(machine, "0", others[0])
        adapt()
    assert torch.get_num_threads() == 4
    assert [file.name for file in machine.iterdir()] == ["0.json"]


def test_shares_never_add_up_to_more_than_the_cores(
    machine: Path, others: list[dict[str, str]]
) -> None:
    """Of four cores, three processes have two, one and one: the first process has two."""
    for number, tags in enumerate(others[:2]):
        register(machine, str(number), tags)
    with shared_cores(CPU) as adapt:
        assert torch.get_num_threads() == 2
        register(machine, "1", process_tags(os.getppid()))
        adapt()
        assert torch.get_num_threads() == 1


def test_a_process_counts_once_however_often_it_is_registered(
    machine: Path, others: list[dict[str, str]]
) -> None:
    """A worker is registered over all its trials, and each training registers too."""
    with keeping_share():
        assert len(list(machine.iterdir())) == 1
        with shared_cores(CPU) as adapt:
            assert torch.get_num_threads() == 4
            reserved = reserve_cores(int(others[0]["process.id"]))
            register(machine, "again", others[0])
            adapt()
            assert torch.get_num_threads() == 2
        reserved.unlink()
    assert [file.name for file in machine.iterdir()] == ["again.json"]


def test_a_process_with_fixed_threads_keeps_them_and_others_divide_the_rest(
    machine: Path, others: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OMP_NUM_THREADS is respected, in this process and in others."""
    register(machine, "other", others[0], threads=1)
    with shared_cores(CPU):
        assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with shared_cores(CPU) as adapt:
        adapt()
        assert torch.get_num_threads() == 4
        assert "4" in {json.loads(file.read_text())["threads"] for file in machine.iterdir()}


def test_dead_processes_and_those_of_other_machines_take_no_cores(
    machine: Path, dead: dict[str, str]
) -> None:
    """A dead process's file is removed; another machine's is left."""
    gone = register(machine, "gone", dead)
    away = register(machine, "away", this_process() | {"process.host": "another"})
    damaged = machine / "damaged.json"
    damaged.write_text("{")
    with shared_cores(CPU):
        assert torch.get_num_threads() == 4
    assert (gone.exists(), away.exists()) == (False, True)


def test_two_real_processes_share_and_a_killed_one_gives_its_cores_back() -> None:
    """A second Python process counts while it lives, and no longer when it was killed."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with subprocess.Popen(
        [sys.executable, "-c", ENTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) >= 1
        with shared_cores(CPU) as adapt:
            assert torch.get_num_threads() == 2
            other.kill()
            other.wait()
            adapt()
            assert torch.get_num_threads() == 4


def test_a_state_folder_that_cannot_be_written_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place to register, the process says so and computes."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PNEUMONIA_STATE", str(tmp_path / "file"))
    with shared_cores(CPU) as adapt:
        adapt()
        assert torch.get_num_threads() == 4
    assert "cannot share cores" in caplog.text


def test_training_adapts_and_a_resumed_one_says_that_its_threads_changed(
    machine: Path,
    others: list[dict[str, str]],
    xrays: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Training takes its share, and the checkpoint knows how many threads computed it."""
    settings = TrainingSettings(
        network="simple_cnn", image_size=32, epochs=1, batch_size=16, precision="fp32"
    )
    preprocessing = preprocessing_of(settings)
    images = load_data_set(DataSettings(data=str(xrays)), preprocessing).open(preprocessing)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "the same")
    other = register(machine, "other", others[0], threads=2)
    seen = []

    def stop(_epoch: object) -> None:
        seen.append(torch.get_num_threads())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        train(settings, images, stop, checkpoint)
    assert seen == [2]
    other.unlink()
    register(machine, "other", others[0], threads=3)
    with caplog.at_level(logging.INFO):
        train(settings, images, lambda _epoch: None, checkpoint)
    assert "written with 2 threads, and training continues with 1" in caplog.text
