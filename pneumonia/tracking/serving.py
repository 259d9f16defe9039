"""The model as MLflow serves it: encoded images in, labels and probabilities out.

This module's source travels with every logged model, after that of the preprocessing and of the
network, so that it loads where this package is not installed.
"""

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel
from torch import nn

from pneumonia.data.decode import Preprocessing, decode, network_input
from pneumonia.data.limits import UnreadableImageError
from pneumonia.evaluation.decide import decide

_BATCH_SIZE = 64

_SERVING_ENVIRONMENT = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Set by MLflow's scoring server, wherever it runs; MLflow has no public name for it."""


class XrayClassifier(PythonModel):
    """Answers a row an image: label, probability, threshold and error."""

    def __init__(self, build: Callable[[int, float], nn.Module]) -> None:
        self.build = build

    def load_context(self, context: Any) -> None:
        """Read the weights and the configuration, before the first prediction."""
        path = Path(context.artifacts["config"])
        self.config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.preprocessing = Preprocessing(self.config["image_size"], self.config["resize"])
        self.network = self.build(self.config["image_size"], 0.0)
        weights = torch.load(context.artifacts["weights"], "cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval()

    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's, not needed after loading.
            model_input: A column ``image`` of encoded image bytes, or the same in base64, with
                or without line breaks or as a data URI. Where the model was loaded by
                ``mlflow.pyfunc.load_model``, and not by a server, paths of files too.
            params: ``threshold``, the least probability called positive, 0–1; the model's own by
                default.

        Returns:
            Columns ``label``, ``probability`` (of the positive class), ``threshold`` and
            ``error``; for an undecodable image an empty label, no probability, and the reason.

        Raises:
            MlflowException: The threshold is not between 0 and 1.
        """
        del context
        asked = (params or {}).get("threshold")
        threshold = float(self.config["threshold"] if asked is None else asked)
        if not 0 <= threshold <= 1:  # neither is NaN
            raise MlflowException.invalid_parameter_value(
                f"threshold {threshold} is out of range: give 0 to 1"
            )
        rows: list[dict[str, Any]] = []
        images = list(model_input["image"])
        for start in range(0, len(images), _BATCH_SIZE):
            rows += self._rows(images[start : start + _BATCH_SIZE], threshold)
        table = pd.DataFrame(rows, columns=["label", "probability", "threshold", "error"])
        # NaN is not JSON: a missing probability is answered as null.
        missing = table["probability"].isna()
        return table.assign(probability=table["probability"].astype(object).mask(missing, None))

    def _rows(self, images: list[Any], threshold: float) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        decoded = []
        for image in images:
            row: dict[str, Any] = {
                "label": "",
                "probability": None,
                "threshold": threshold,
                "error": "",
            }
            try:
                decoded.append(torch.from_numpy(decode(_encoded(image), self.preprocessing).copy()))
            except UnreadableImageError as error:
                row["error"] = str(error)
            rows.append(row)
        if decoded:
            with torch.inference_mode():
                logits = self.network(network_input(torch.stack(decoded)))  # (B, 2)
            scaled = logits.double().div(self.config["temperature"])
            probabilities = iter(scaled.softmax(dim=1)[:, 1].tolist())
            for row in rows:
                if not row["error"]:
                    row["probability"] = next(probabilities)
                    row["label"] = self.config["class_names"][decide(row["probability"], threshold)]
        return rows


def _encoded(image: Any) -> bytes:
    """The file's bytes, however they were sent."""
    if isinstance(image, bytes | bytearray):
        if not image.isascii():  # as every image is not
            return bytes(image)
        image = image.decode()  # MLflow gives "instances" as the bytes of the text sent
    if not isinstance(image, str):
        raise UnreadableImageError(f"a {type(image).__name__}, neither bytes nor text")
    if not _serving() and (content := _file_content(image)) is not None:
        return content
    text = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableImageError("neither an image file nor base64 text") from None


def _file_content(path: str) -> bytes | None:
    """The bytes of a file; None where the text is not the path of one."""
    try:
        if len(path) < 4096 and Path(path).is_file():  # longer than any path
            return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(str(error)) from None
    except ValueError:  # a path cannot hold a zero byte
        pass
    return None


def _serving() -> bool:
    """Whether a server of MLflow loaded the model; then a request must not read its disk."""
    return os.environ.get(_SERVING_ENVIRONMENT, "").lower() in {"true", "1"}
