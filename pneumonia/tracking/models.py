"""Models: logging the winner, registering it, and reading one back without running its code."""

import json
import os
import pickle
import re
import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import mlflow
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from torch import nn

from pneumonia.config.training import TrainingSettings
from pneumonia.data.decode import Preprocessing
from pneumonia.errors import ModelError, UsageError, nearest
from pneumonia.evaluation.conformal import Calibration
from pneumonia.evaluation.gate import Gate
from pneumonia.networks.ensemble import member_layers, trained_network
from pneumonia.networks.registry import NETWORKS
from pneumonia.tracking.model_source import scoring_source
from pneumonia.tracking.model_uris import DIGEST_TAG, locate_model
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.runs import Run

_FILES = ("weights.pt", "config.json", "gate.pt")
_REQUIRED = ("torch", "pillow", "numpy", "pandas", "mlflow")


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


def log_model(
    run: Run, network: nn.Module, config: ModelConfig, gate: Gate, *, step: int, example: bytes
) -> str:
    """Log a model to a run: weights, configuration, and source that loads without this package.

    A run has one model: where a process that died had logged it already, that one is kept, and
    what it left unfinished is removed.

    Args:
        run: The run.
        network: The trained network.
        config: Its configuration.
        gate: Its input gate.
        step: The epoch its weights are of.
        example: An encoded image, stored as the input example.

    Returns:
        The logged model's URI.

    Raises:
        TrackingError: The store does not come back.
    """
    return run.outbox.ask(lambda: _log_once(run, network, config, gate, step=step, example=example))


def _log_once(
    run: Run, network: nn.Module, config: ModelConfig, gate: Gate, *, step: int, example: bytes
) -> str:
    import pandas as pd

    client = run.outbox.client
    of_run = f"source_run_id = '{run.id}'"
    for left in search_all(client.search_logged_models, [run.experiment_id], of_run):
        if left.status == LoggedModelStatus.READY:
            return f"models:/{left.model_id}"
        client.delete_logged_model(left.model_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(network.state_dict(), folder / "weights.pt")
        torch.save(gate.as_dict(), folder / "gate.pt")
        (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
        (folder / "scoring.py").write_text(scoring_source(config.network), encoding="utf-8")
        digest = digest_of(folder)
        created = client.create_logged_model(
            run.experiment_id,
            # Folder names hold more than MLflow allows in the name of a model.
            name=re.sub(r"[^\w-]", "-", f"{run.name}-{run.id[:6]}"),
            source_run_id=run.id,
            params=dict(client.get_run(run.id).data.params),
            model_type="classifier",
            tags={DIGEST_TAG: digest},
        )
        # What mlflow.pyfunc.log_model calls, which knows the active run only.
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.id,
            model_id=created.model_id,
            python_model=str(folder / "scoring.py"),
            artifacts={
                "weights": str(folder / "weights.pt"),
                "config": str(folder / "config.json"),
                "gate": str(folder / "gate.pt"),
            },
            signature=_SIGNATURE,
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIRED],
            step=step,
        )
    return str(info.model_uri)


def load_model(uri: str) -> LoadedModel:
    """Read a model of ours: tensors and a configuration, never code, from the artifact.

    Args:
        uri: In any form of ``model_uris``.

    Raises:
        ModelError: It names nothing, what it names is not one of our models, or its files are not
            those that were logged.
    """
    location = locate_model(uri)
    # As ``connect`` does, which Python programs need not call.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with tempfile.TemporaryDirectory() as folder:
            stored_in = f"{location.folder}/artifacts"
            where = Path(mlflow.artifacts.download_artifacts(stored_in, dst_path=folder))
            if location.sha256 and digest_of(where) != location.sha256:
                raise ModelError(
                    f"the files of model {uri!r} are not those that were logged: their digest "
                    f"differs from the tag {DIGEST_TAG!r}; register it anew, or restore them"
                )
            if (where / "config.json").is_file() and not (where / "gate.pt").is_file():
                raise ModelError(
                    f"model {uri!r} has no input gate, for an earlier version logged it: train it "
                    "anew"
                )
            stored = json.loads((where / "config.json").read_text(encoding="utf-8"))
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
            weights = torch.load(where / "weights.pt", "cpu", weights_only=True)
            network = trained_network(
                build, config.image_size, config.standardise, config.members, weights
            )
            gate = Gate.from_dict(torch.load(where / "gate.pt", "cpu", weights_only=True))
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot read model {uri!r} ({reason}): check the URI") from None
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
    return LoadedModel(network, config, location.uri, location.run_id, gate, location.folder)


def digest_of(folder: Path) -> str:
    """Digest of what decides a model's answers, in a folder that holds it: ``_FILES``."""
    digest = sha256()
    for name in _FILES:
        digest.update(sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def runs_known_code(model: LoadedModel) -> bool:
    """Whether the scoring source stored with a model is that of this version of the package."""
    with tempfile.TemporaryDirectory() as folder:
        stored = mlflow.artifacts.download_artifacts(f"{model.folder}/scoring.py", dst_path=folder)
        return Path(stored).read_text(encoding="utf-8") == scoring_source(model.config.network)


def _public_version(package: str) -> str:
    """The version without its local part, such as +cu132, which no index offers."""
    return metadata.version(package).partition("+")[0]


_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "image")]),
    outputs=Schema(
        [
            ColSpec("string", "label"),
            ColSpec("double", "probability", required=False),
            ColSpec("double", "threshold"),
            ColSpec("string", "status"),
            ColSpec("string", "reason"),
        ]
    ),
    params=ParamSchema(
        [ParamSpec("threshold", "double", None), ParamSpec("gate", "boolean", default=True)]
    ),
)
