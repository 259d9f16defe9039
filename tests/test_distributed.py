import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from click.testing import Result

from tests import torchrun_worker
from tests.faults.commands import Forks, pneumonia, wait_for

Cli = Callable[..., Result]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# So low a rate that rounding stays rounding: at 0.001 these few images take one process with one
# thread, and with two, to different networks.
QUICK = ("--image-size", 32, "--batch-size", 8, "--precision", "fp32", "--learning-rate", 1e-6)
SMALL = ("train", *QUICK, "--network", "simple_cnn", "--data")

pytestmark = pytest.mark.xdist_group("forks")


class Pair:
    """Two ranks as torchrun starts them, but forked from a process that has imported torch."""

    def __init__(
        self, forks: Forks, folder: Path, function: Callable[..., None], *arguments: object
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.folder = folder
        self.processes = [
            forks.call(
                folder,
                {**common, "TORCHELASTIC_RUN_ID": "pair", "RANK": rank, "LOCAL_RANK": rank},
                rank,
                function,
                *arguments,
            )
            for rank in "01"
        ]

    def error_output(self, rank: int) -> str:
        """What a rank wrote to stderr until now."""
        return (self.folder / f"{rank}.err").read_text()

    def exit_codes(self) -> list[int | None]:
        """How they ended, which they must within minutes."""
        for process in self.processes:
            process.join(timeout=300)
            process.kill()
        return [process.exitcode for process in self.processes]


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote to stdout and stderr, once it has ended, which it must."""
    try:
        return process.communicate(timeout=600)
    finally:
        process.terminate()  # torchrun takes its processes along


def the_run(folder: Path) -> tuple[mlflow.MlflowClient, mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs(["0"])
    return client, run


@pytest.mark.slow
def test_torchrun_trains_the_network_of_one_process_and_logs_it_once(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    # Without dropout, whose draws differ by rank, both learn the same.
    command = (*SMALL, xrays, "--epochs", 2, "--subset", 0.5, "--class-weights", "balanced")
    command = (*command, "--dropout", 0)
    process = start(workplace, "-m", "pneumonia", *command)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    (workplace / "one").mkdir()
    alone = run_cli(*command, "--tracking-uri", f"sqlite:///{workplace}/one/mlflow.db")
    assert alone.exit_code == 0, alone.stderr

    assert stdout.count("run  ") == stdout.count("models:/simple_cnn/1 (") == 1
    says = "2 processes: batches of 8 images, 4 each; learning rate 1e-06 as with one"
    assert stderr.count(says) == stderr.count("epoch 2/2") == 1
    client, run = the_run(workplace)
    client_of_one, run_of_one = the_run(workplace / "one")
    assert run.info.status == "FINISHED"
    assert run.data.tags["world_size"] == "2"
    assert int(run.data.params["dataset/validation/images"]) % 2 == 1
    assert [v.version for v in client.search_model_versions("name='simple_cnn'")] == [1]

    for key in [key for key in run.data.metrics if key.startswith(("train/", "val/"))]:
        history, expected = (
            [(entry.step, entry.value) for entry in of.get_metric_history(its.info.run_id, key)]
            for of, its in ((client, run), (client_of_one, run_of_one))
        )
        assert [step for step, _ in history] == [1, 2]
        if key.endswith("/loss"):  # the others may jump by an image; exactness is tested below
            assert history == [(step, pytest.approx(value, abs=1e-3)) for step, value in expected]
    weights, expected_weights = (
        torch.load(of.download_artifacts(its.info.run_id, "checkpoints/best.pt"))
        for of, its in ((client, run), (client_of_one, run_of_one))
    )
    assert weights.keys() == expected_weights.keys()
    for key, tensor in weights.items():  # running variances are larger than 1
        torch.testing.assert_close(tensor, expected_weights[key], atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_ranks_are_exact_and_stop_and_continue_together(
    workplace: Path, xrays: Path, forks: Forks
) -> None:
    pair = Pair(forks, workplace, torchrun_worker.compare, xrays, workplace / "found.json")
    assert pair.exit_codes() == [0, 0], pair.error_output(0)
    found = json.loads((workplace / "found.json").read_text())
    assert found["images"]["validation"] % 2 == 1
    assert not any("module" in key or "plain" in key for key in found["keys"])
    assert max(found["one process against two, in float64"]) < 1e-6
    # Bit for bit, dropout included, though only rank 1 was asked to stop.
    assert found["stopped and continued, by rank"] == [[0, 0], [0, 0]]


@pytest.mark.slow
def test_a_failing_rank_fails_the_run_with_its_reason(
    workplace: Path, xrays: Path, forks: Forks
) -> None:
    command = [*map(str, SMALL), str(xrays), "--epochs", "9"]
    pair = Pair(forks, workplace, torchrun_worker.fail, command)
    assert pair.exit_codes() == [1, 1]  # they do not hang
    assert "Error: unexpected ValueError: its cable is loose" in pair.error_output(1)
    assert "Error: rank 1 of 2 failed: its cable is loose" in pair.error_output(0)
    _, run = the_run(workplace)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "TrainingError: rank 1 of 2 failed: its cable is loose"


@pytest.mark.slow
def test_a_signal_to_both_ranks_ends_the_run_as_killed(
    workplace: Path, xrays: Path, forks: Forks
) -> None:
    command = [*map(str, SMALL), str(xrays), "--epochs", "999"]
    pair = Pair(forks, workplace, pneumonia, command)
    wait_for("epoch 1/999", workplace / "0.err")
    for process in pair.processes:
        process.terminate()
    assert pair.exit_codes() == [130, 130]
    assert "Interrupted: what was logged so far is kept." in pair.error_output(0)
    _, run = the_run(workplace)
    assert run.info.status == "KILLED"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("train", "--batch-size", "9"), "by 2 processes: use --batch-size 8"),
        (("train", "--trials", "2"), "torchrun trains one network: start a search without it"),
        (("cross-validate",), "start 'cross-validate' without it"),
        (("predict", "--model-uri", "models:/resnet34/1", "."), "start 'predict' without it"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    command: tuple[str, ...],
    says: str,
    workplace: Path,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    data = () if command[0] == "predict" else ("--data", xrays)
    result = run_cli(*command, *data)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (workplace / "mlruns").exists()
