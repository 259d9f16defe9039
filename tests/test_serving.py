"""The model as MLflow serves it: its own threshold, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

URI = "models:/resnet34/1"


def load_with_threshold(trained: SimpleNamespace, folder: Path, threshold: float) -> PyFuncModel:
    """The trained model with another threshold of its own."""
    mlflow.set_tracking_uri(trained.tracking_uri)
    copy = Path(mlflow.artifacts.download_artifacts(URI, dst_path=str(folder)))
    (config,) = copy.rglob("config.json")
    stored = json.loads(config.read_text())
    config.write_text(json.dumps({**stored, "threshold": threshold}))
    return mlflow.pyfunc.load_model(str(copy))


@pytest.mark.parametrize(("own", "label"), [(0.0, "PNEUMONIA"), (1.0, "NORMAL")])
def test_the_models_own_threshold_decides_unless_another_is_given(
    own: float, label: str, trained: SimpleNamespace, xrays: Path, tmp_path: Path
) -> None:
    """A default in the signature must not stand before the model's own threshold."""
    model = load_with_threshold(trained, tmp_path, own)
    images = pd.DataFrame({"image": [path.read_bytes() for path in xrays.rglob("test/*/*.jpeg")]})
    answers = model.predict(images)
    assert set(answers["threshold"]) == {own}
    assert set(answers["label"]) == {label}
    other = model.predict(images, params={"threshold": 1 - own})
    assert set(other["label"]) == {"NORMAL", "PNEUMONIA"} - {label}


@pytest.mark.parametrize("threshold", [float("nan"), 7.0, -0.5])
def test_what_is_no_threshold_is_refused(
    threshold: float, trained: SimpleNamespace, xrays: Path
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    model = mlflow.pyfunc.load_model(URI)
    images = pd.DataFrame({"image": [next(xrays.rglob("*.jpeg")).read_bytes()]})
    with pytest.raises(MlflowException, match=r"threshold .* is out of range"):
        model.predict(images, params={"threshold": threshold})
