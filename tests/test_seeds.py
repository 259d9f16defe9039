"""One training repeated with several seeds."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import Result

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


@pytest.mark.parametrize("option", [("--trials", "3"), ("--resume",), ("--jobs", "2")])
def test_seeds_are_of_fixed_settings(xrays: Path, run_cli: Cli, option: tuple[str, ...]) -> None:
    result = run_cli("train", "--data", xrays, "--seeds", "2", *option)
    assert result.exit_code == 2
    assert f"--seeds trains fixed settings: leave {option[0]} out" in result.stderr
