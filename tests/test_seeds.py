"""One training repeated with several seeds."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from click.testing import Result

from pneumonia.data.decode import network_input
from pneumonia.tracking.models import load_model
from pneumonia.workflows import train_seeds

Cli = Callable[..., Result]
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_each_seed_is_a_run_and_the_parent_has_their_spread(xrays: Path, run_cli: Cli) -> None:
    result = run_cli("train", "--data", xrays, *QUICK, "--seeds", "2", "--seed", "7")
    assert result.exit_code == 0, result.stderr
    runs = mlflow.MlflowClient().search_runs(["0"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "seeds"]
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert {run.data.params["seed"] for run in children} == {"7", "8"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    aucs = [run.data.metrics["test/auc"] for run in children]
    assert parent.data.metrics["seeds/test_auc_mean"] == pytest.approx(np.mean(aucs))
    assert parent.data.metrics["seeds/test_auc_sd"] == pytest.approx(np.std(aucs, ddof=1))
    assert f"test_auc                       {np.mean(aucs):.4f} ± " in result.stdout
    digests = {run.data.params["dataset/digest"] for run in runs}
    assert len(digests) == 1  # one split


@pytest.mark.slow
def test_the_ensemble_of_the_seeds_is_one_model(workplace: Path, xrays: Path, run_cli: Cli) -> None:
    command = ("train", "--data", xrays, *QUICK, "--seeds", "2", "--register", "false")
    trained = run_cli(*command)
    assert trained.exit_code == 0, trained.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (parent,) = client.search_runs(["0"], "tags.kind = 'seeds'")
    single, other = client.search_runs(["0"], "tags.kind = 'train'")
    result = run_cli("ensemble", parent.info.run_id)
    assert result.exit_code == 0, result.stderr
    assert "models:/resnet34/1" in result.stdout
    (run,) = client.search_runs(["0"], "tags.kind = 'ensemble'")
    assert {run.data.params["member/0"], run.data.params["member/1"]} == {
        single.info.run_id,
        other.info.run_id,
    }

    grey = torch.randint(0, 256, (4, 32, 32), dtype=torch.uint8)
    models = [load_model(uri) for uri in re.findall(r"models:/m-\w+", trained.stdout)]
    both = load_model("models:/resnet34/1")
    pixels = network_input(grey)
    with torch.inference_mode():
        alone = [model.network(pixels).softmax(dim=1) for model in models]
        assert torch.allclose(both.network(pixels).softmax(dim=1), sum(alone) / 2, atol=1e-6)

    for runs, reason in (
        ((single.info.run_id,), "two or more different trainings"),
        ((single.info.run_id, single.info.run_id), "two or more different trainings"),
        ((single.info.run_id, run.info.run_id), "no finished training"),
    ):
        refused = run_cli("ensemble", *runs)
        assert refused.exit_code == 2
        assert reason in refused.stderr
    assert run_cli("train", "--data", xrays, *QUICK, "--image-size", "48").exit_code == 0
    larger = client.search_runs(["0"], "params.image_size = '48'")[0].info.run_id
    refused = run_cli("ensemble", single.info.run_id, larger)
    assert refused.exit_code == 2
    assert "differ in image_size (32 and 48)" in refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_a_stopped_training_of_several_seeds_goes_on(
    xrays: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished seed is not trained again, and the results are those of an undisturbed one."""
    data = shutil.copytree(xrays, tmp_path / "xrays")
    command = ("train", "--data", data, *QUICK, "--register", "false", "--seeds", "2")
    undisturbed = run_cli(*command, "--json")
    assert undisturbed.exit_code == 0, undisturbed.stderr
    train_run = train_seeds.train_run

    def stop_at_the_second(*given: Any, **named: Any) -> Any:
        if given[1].experiment.training.seed == 1:
            raise KeyboardInterrupt
        return train_run(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(train_seeds, "train_run", stop_at_the_second)
        stopped = run_cli(*command)
    assert stopped.exit_code == 130
    resume = re.search(r"pneumonia (train --seeds 2 --resume (\w{32}))", stopped.stderr)
    assert resume
    other = run_cli("train", "--seeds", "3", "--resume", resume[2])
    assert other.exit_code == 2
    assert "was begun with --seeds 2, not 3" in other.stderr
    image = next((data / "train" / "NORMAL").iterdir())
    elsewhere = image.rename(tmp_path / image.name)
    changed = run_cli(*resume[1].split())
    elsewhere.rename(image)
    assert changed.exit_code == 3
    assert "are not those that run" in changed.stderr
    alone = run_cli("train", "--resume", resume[2])
    assert alone.exit_code == 2
    assert f"'pneumonia {resume[1]}' continues it" in alone.stderr

    resumed = run_cli(*resume[1].split(), "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert "-s0 is trained already" in resumed.stderr
    assert json.loads(resumed.stdout)["spread"] == json.loads(undisturbed.stdout)["spread"]
    run = mlflow.MlflowClient().get_run(resume[2])
    assert run.info.status == "FINISHED"
    again = run_cli(*resume[1].split())
    assert again.exit_code == 2
    assert "has finished: there is nothing to resume" in again.stderr


@pytest.mark.parametrize("option", [("--trials", "3"), ("--pruner", "none")])
def test_seeds_are_of_fixed_settings(xrays: Path, run_cli: Cli, option: tuple[str, ...]) -> None:
    result = run_cli("train", "--data", xrays, "--seeds", "2", *option)
    assert result.exit_code == 2
    assert f"--seeds trains fixed settings: leave {option[0]} out" in result.stderr
