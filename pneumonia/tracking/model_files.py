"""The files of a model: read back without running its code, and without MLflow."""

import json
import pickle
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from pneumonia.config.training import TrainingSettings
from pneumonia.data.decode import Preprocessing
from pneumonia.errors import ModelError, UsageError, nearest
from pneumonia.evaluation.conformal import Calibration
from pneumonia.evaluation.gate import Gate
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.networks.ensemble import member_layers, trained_network
from pneumonia.networks.registry import NETWORKS

FILES = ("weights.pt", "config.json", "gate.pt")

DIGEST_TAG = "model.sha256"
"""Tag of a logged model and of a version: the digest of the model's files."""


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model is stored.

    Attributes:
        uri: Its URI; of a registered model that of the version, even if an alias was asked for.
        folder: URI or path of the folder that holds its ``MLmodel`` file.
        run_id: The run that logged it; None where that is not known.
        model_id: MLflow's id of the logged model; empty where that is not known.
        registered: Whether the URI is that of a registered version.
        sha256: Digest of the model's files that the store recorded; empty where it has none.
    """

    uri: str
    folder: str
    run_id: str | None
    model_id: str = ""
    registered: bool = False
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a model needs beside its weights.

    Attributes:
        network: Its name in the registry of networks.
        image_size: Side of the input in pixels.
        resize: How an image becomes square.
        class_names: The negative and the positive class.
        threshold: Least probability called positive.
        threshold_rule: How it was chosen.
        temperature: What the network's logits are divided by, so that probabilities mean what
            they say.
        intercept: What is added to the positive class's logit after that.
        prevalence: Share of positive images that they mean it for.
        calibration: Of validation images, for ``possible_classes``.
        members: Number of networks whose mean probability it answers with.
        standardise: Whether the networks' first layer makes exposures alike.
    """

    network: str
    image_size: int
    resize: str
    class_names: tuple[str, str]
    threshold: float = 0.5
    threshold_rule: str = "0.5"
    temperature: float = 1.0
    intercept: float = 0.0
    prevalence: float = 0.5
    calibration: Calibration = ((), ())
    members: int = 1
    standardise: bool = False

    @classmethod
    def uncalibrated(
        cls, settings: TrainingSettings, class_names: tuple[str, str], members: int = 1
    ) -> "ModelConfig":
        """The configuration of what the settings train, before its threshold is chosen."""
        return cls(
            settings.network,
            settings.image_size,
            settings.resize,
            class_names,
            members=members,
            standardise=settings.standardise,
        )

    @property
    def scaling(self) -> LogitScaling:
        """How its logits become probabilities."""
        return LogitScaling(self.temperature, self.intercept)

    @property
    def cam_layers(self) -> list[str]:
        """The layers that Grad-CAM explains: one of each member."""
        return member_layers(NETWORKS[self.network].cam_layer, self.members)

    @property
    def gate_layer(self) -> str:
        """The layer that the input gate compares: that of the first member."""
        return member_layers(NETWORKS[self.network].gate_layer, self.members)[0]

    @property
    def title(self) -> str:
        """The network's name, and of how many it consists if not of one."""
        return self.network if self.members == 1 else f"{self.members} × {self.network}"

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are decoded for it."""
        return Preprocessing(self.image_size, self.resize)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model read back: its network in evaluation mode, its gate, and where it came from."""

    network: nn.Module
    config: ModelConfig
    uri: str
    run_id: str | None
    gate: Gate | None = None
    folder: str = ""

    def threshold(self, asked: float | None) -> float:
        """The threshold asked for, else the model's own.

        Raises:
            UsageError: It is not between 0 and 1.
        """
        chosen = self.config.threshold if asked is None else asked
        if not 0 <= chosen <= 1:  # nor is NaN
            raise UsageError(f"threshold = {chosen} is out of range: give 0 to 1")
        return chosen


def read_model(folder: Path, location: ModelLocation) -> LoadedModel:
    """Read a model of ours: tensors and a configuration, never code.

    Args:
        folder: The folder of its files.
        location: The model.

    Raises:
        ModelError: It is not one of our models, or its files are not those that were logged.
        OSError: A file cannot be read.
    """
    uri = location.uri
    if location.sha256 and digest_of(folder) != location.sha256:
        raise ModelError(
            f"the files of model {uri!r} are not those that were logged: their digest "
            f"differs from the tag {DIGEST_TAG!r}; register it anew, or restore them"
        )
    if (folder / "config.json").is_file() and not (folder / "gate.pt").is_file():
        raise ModelError(
            f"model {uri!r} has no input gate, for an earlier version logged it: train it anew"
        )
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stored["class_names"] = tuple(stored["class_names"])
        if "calibration" in stored:
            negative, positive = stored["calibration"]
            stored["calibration"] = (tuple(negative), tuple(positive))
        config = ModelConfig(**stored)
        if config.network not in NETWORKS:
            raise ModelError(
                f"model {uri!r} is a {config.network!r}: {nearest(config.network, NETWORKS)}"
            )
        build = NETWORKS[config.network].build
        weights = torch.load(folder / "weights.pt", "cpu", weights_only=True)
        network = trained_network(
            build, config.image_size, config.standardise, config.members, weights
        )
        gate = Gate.from_dict(torch.load(folder / "gate.pt", "cpu", weights_only=True))
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"model {uri!r} was not logged by this package: {reason}") from None
    return LoadedModel(network, config, uri, location.run_id, gate, location.folder)


def digest_of(folder: Path) -> str:
    """Digest of what decides a model's answers, in a folder that holds it: ``FILES``."""
    digest = sha256()
    for name in FILES:
        digest.update(sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()
