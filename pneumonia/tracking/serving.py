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

from pneumonia.data.decode import Preprocessing, decode_checked, network_input
from pneumonia.data.limits import UnreadableImageError
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.gate import Gate, layer_features
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.networks.ensemble import trained_network

_BATCH_SIZE = 64
_COLUMNS = ("label", "probability", "threshold", "status", "reason")

_SERVING_ENVIRONMENT = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Set by MLflow's scoring server, wherever it runs; MLflow has no public name for it."""


class XrayClassifier(PythonModel):
    """Answers a row an image: label, probability, threshold, status and reason."""

    def __init__(self, build: Callable[[int, float, bool], nn.Module]) -> None:
        self.build = build

    def load_context(self, context: Any) -> None:
        """Read the weights and the configuration, before the first prediction."""
        path = Path(context.artifacts["config"])
        self.config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.preprocessing = Preprocessing(self.config["image_size"], self.config["resize"])
        self.scaling = LogitScaling(self.config["temperature"], self.config["intercept"])
        weights = torch.load(context.artifacts["weights"], "cpu", weights_only=True)
        network = trained_network(
            self.build,
            self.config["image_size"],
            self.config["standardise"],
            self.config["members"],
            weights,
        )
        self.network = network.to(memory_format=torch.channels_last)  # as its input is
        gate = torch.load(context.artifacts["gate"], "cpu", weights_only=True)
        self.gate = Gate.from_dict(gate)

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
                default. ``gate``, whether images that look like no chest X-ray, or unlike those of
                the training, get no probability; true by default.

        Returns:
            Columns ``label``, ``probability`` (of the positive class), ``threshold``, ``status``
            and ``reason``. The status is ``ok``, ``warning`` for an unusual image, or, with an
            empty label and no probability, ``rejected`` by the gate or ``error`` for an image that
            cannot be decoded.

        Raises:
            MlflowException: The threshold is not between 0 and 1.
        """
        del context
        params = params or {}
        asked = params.get("threshold")
        threshold = float(self.config["threshold"] if asked is None else asked)
        if not 0 <= threshold <= 1:  # neither is NaN
            raise MlflowException.invalid_parameter_value(
                f"threshold {threshold} is out of range: give 0 to 1"
            )
        rows: list[dict[str, Any]] = []
        images = list(model_input["image"])
        for start in range(0, len(images), _BATCH_SIZE):
            batch = images[start : start + _BATCH_SIZE]
            rows += self._rows(batch, threshold, gate=bool(params.get("gate", True)))
        table = pd.DataFrame(rows, columns=_COLUMNS)
        # NaN is not JSON: a missing probability is answered as null.
        missing = table["probability"].isna()
        return table.assign(probability=table["probability"].astype(object).mask(missing, None))

    def _rows(self, images: list[Any], threshold: float, *, gate: bool) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        decoded = []
        for image in images:
            row = dict(zip(_COLUMNS, ("", None, threshold, "ok", ""), strict=True))
            try:
                grey, reason = decode_checked(_encoded(image), self.preprocessing)
            except UnreadableImageError as error:
                row |= {"status": "error", "reason": str(error)}
            else:
                decoded.append(torch.from_numpy(grey.copy()))
                if gate and reason:
                    row |= {"status": "rejected", "reason": reason}
            rows.append(row)
        if decoded:
            found = zip(*self._score(torch.stack(decoded)), strict=True)
            for row in (row for row in rows if row["status"] != "error"):
                probability, rejected, warning = next(found)
                if gate and (rejected or row["status"] == "rejected"):
                    row |= {"status": "rejected", "reason": row["reason"] or rejected}
                    continue
                row["probability"] = probability
                row["label"] = self.config["class_names"][decide(probability, threshold)]
                if gate and warning:
                    row |= {"status": "warning", "reason": warning}
        return rows

    def _score(self, grey: torch.Tensor) -> tuple[list[float], list[str], list[str]]:
        """Probabilities, and what the gate objects to and warns of, from uint8 (B, H, W)."""
        with torch.inference_mode(), layer_features(self.network, self.gate.layer) as features:
            logits = self.network(network_input(grey))  # (B, 2)
        rejected, warned = self.gate.reasons(grey, self.gate.distance(features[0]))
        return self.scaling.probabilities(logits.double()).tolist(), rejected, warned


def _encoded(image: Any) -> bytes:
    """The file's bytes, however they were sent."""
    if isinstance(image, bytes | bytearray):
        if not image.isascii():  # encoded images never are
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
        if len(path) < 4096 and Path(path).is_file():  # no path is longer
            return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(str(error)) from None
    except ValueError:  # a path cannot hold a zero byte
        pass
    return None


def _serving() -> bool:
    """Whether a server of MLflow loaded the model; then a request must not read its disk."""
    return os.environ.get(_SERVING_ENVIRONMENT, "").lower() in {"true", "1"}
