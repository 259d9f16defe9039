"""Doing a training once more; and that nothing sees the test images before the end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import Result

from pneumonia.data.dataset import DataSet, Images
from pneumonia.tracking import candidate

Cli = Callable[..., Result]
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--network", "simple_cnn")


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_a_training_is_done_again_with_equal_results(
    xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    data = Path(shutil.copytree(xrays, tmp_path / "copied"))
    assert run_cli("train", "--data", data, *QUICK).exit_code == 0
    client = mlflow.MlflowClient()
    (original,) = client.search_runs(["0"])
    result = run_cli("reproduce", original.info.run_id)
    assert result.exit_code == 0, result.stderr
    assert "largest difference 0" in result.stdout
    again = client.search_runs(["0"])[0]
    assert again.data.tags["reproduces"] == original.info.run_id
    assert again.data.metrics["test/loss"] == original.data.metrics["test/loss"]
    assert len(client.search_model_versions("name='simple_cnn'")) == 1

    client.log_metric(original.info.run_id, "best/loss", 9.0, step=99)
    client.set_tag(original.info.run_id, "version.torch", "1.0")
    result = run_cli("reproduce", original.info.run_id)
    assert result.exit_code == 3
    assert "version.torch: 1.0 then" in result.stdout
    assert "1 of " in result.stderr
    assert "best/loss" in result.stderr

    next((data / "train" / "NORMAL").iterdir()).unlink()
    result = run_cli("reproduce", original.info.run_id)
    assert result.exit_code == 3
    assert "are not those of run" in result.stderr


def test_what_was_never_trained_cannot_be_reproduced(workplace: Path, run_cli: Cli) -> None:
    del workplace
    run = mlflow.MlflowClient().create_run("0")
    result = run_cli("reproduce", run.info.run_id)
    assert result.exit_code == 2
    assert "was not begun by 'pneumonia train'" in result.stderr


@pytest.mark.usefixtures("workplace")
def test_no_test_image_is_seen_before_the_threshold_is_chosen(
    xrays: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli
) -> None:
    seen: list[str] = []

    class Roles(dict[str, Images]):
        """The images of each role, which note when the test images are asked for."""

        def __getitem__(self, role: str) -> Images:
            if role == "test":
                seen.append("test images")
            return super().__getitem__(role)

        def values(self) -> Any:
            seen.append("test images")
            return super().values()

        def items(self) -> Any:
            seen.append("test images")
            return super().items()

    original_open, original_choose = DataSet.open, candidate.log_operating_point

    def choose(*arguments: Any) -> Any:
        chosen = original_choose(*arguments)
        seen.append("chosen")
        return chosen

    monkeypatch.setattr(
        DataSet, "open", lambda *arguments, **options: Roles(original_open(*arguments, **options))
    )
    monkeypatch.setattr(candidate, "log_operating_point", choose)
    result = run_cli("train", "--data", xrays, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert seen[0] == "chosen"
    assert seen.count("test images") > 0
