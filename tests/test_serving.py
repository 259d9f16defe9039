"""The model as MLflow serves it: its own threshold, and what it refuses."""

import base64
import json
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import requests
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

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


def test_encodings_of_an_image_are_one_image(trained: SimpleNamespace, xrays: Path) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    model = mlflow.pyfunc.load_model(URI)
    path = next(xrays.rglob("test/*/*.jpeg"))
    content = path.read_bytes()
    plain = base64.b64encode(content).decode()
    forms = [
        content,
        plain,
        base64.encodebytes(content).decode(),  # wrapped at 76 characters
        "\r\n".join(textwrap.wrap(plain, 64)),
        f"data:image/jpeg;base64,{plain}",
        str(path),
    ]
    answers = [model.predict(pd.DataFrame({"image": [form]})).iloc[0] for form in forms]
    assert [answer["reason"] for answer in answers] == [""] * len(forms)
    assert len({answer["probability"] for answer in answers}) == 1
    (wrong,) = model.predict(pd.DataFrame({"image": ["data:image/jpeg,not base64"]}))["reason"]
    assert "base64" in wrong


def test_a_server_does_not_read_its_own_disk(
    trained: SimpleNamespace, xrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")  # put back afterwards
    mlflow.set_tracking_uri(trained.tracking_uri)
    app = scoring_server.init(mlflow.pyfunc.load_model(URI))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    path = next(xrays.rglob("test/*/*.jpeg"))
    images = [str(path), "/no/such/file", base64.b64encode(path.read_bytes()).decode()]
    request = {"instances": [{"image": image} for image in images]}
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        answered = requests.post(f"http://127.0.0.1:{port}/invocations", json=request, timeout=60)
    finally:
        server.should_exit = True
        thread.join()
    assert answered.ok, answered.text
    here, nowhere, encoded = answered.json()["predictions"]
    assert here["reason"] == nowhere["reason"] != ""
    assert here["label"] == ""
    assert encoded["reason"] == ""
