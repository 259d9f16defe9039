"""Models: logging the winner, register_winner it, and reading one back without running its code."""

import json
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import torch
from filelock import FileLock
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from torch import nn

from pneumonia.data.decode import Preprocessing
from pneumonia.errors import ModelError, nearest
from pneumonia.files import state_folder
from pneumonia.networks.registry import NETWORKS
from pneumonia.tracking.model_source import scoring_source
from pneumonia.tracking.outbox import is_outage
from pneumonia.tracking.runs import Run

CHAMPION = "champion"
_REQUIRED = ("torch", "torchvision", "pillow", "numpy", "pandas", "mlflow")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a model needs beside its weights.

    Attributes:
        network: Its name in the registry of networks.
        image_size: Side of the input in pixels.
        resize: How an image becomes square.
        class_names: The negative and the positive class.
        threshold: Least probability called positive.
    """

    network: str
    image_size: int
    resize: str
    class_names: tuple[str, str]
    threshold: float = 0.5

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are decoded for it."""
        return Preprocessing(self.image_size, self.resize)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model read back: its network in evaluation mode, and where it came from."""

    network: nn.Module
    config: ModelConfig
    uri: str
    run_id: str | None


def log_model(
    run: Run, network: nn.Module, config: ModelConfig, *, step: int, example: bytes
) -> str:
    """Log a model to a run: weights, configuration, and source that loads without this package.

    A run has one model: where a process that died had logged it already, that one is kept, and
    what it left unfinished is removed.

    Args:
        run: The run.
        network: The trained network.
        config: Its configuration.
        step: The epoch its weights are of.
        example: An encoded image, stored as the input example.

    Returns:
        The logged model's URI.

    Raises:
        TrackingError: The store does not come back.
    """
    return run.outbox.ask(lambda: _log_once(run, network, config, step=step, example=example))


def _log_once(
    run: Run, network: nn.Module, config: ModelConfig, *, step: int, example: bytes
) -> str:
    import pandas as pd

    client = run.outbox.client
    for left in client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'"):
        if left.status == LoggedModelStatus.READY:
            return f"models:/{left.model_id}"
        client.delete_logged_model(left.model_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(network.state_dict(), folder / "weights.pt")
        (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
        (folder / "scoring.py").write_text(scoring_source(config.network), encoding="utf-8")
        # What mlflow.pyfunc.log_model calls, which knows the active run only.
        mlflow.set_experiment(experiment_id=run.experiment_id)  # it asks for no other
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.id,
            # Folder names hold more than MLflow allows in the name of a model.
            name=re.sub(r"[^\w-]", "-", f"{run.name}-{run.id[:6]}"),
            python_model=str(folder / "scoring.py"),
            artifacts={
                "weights": str(folder / "weights.pt"),
                "config": str(folder / "config.json"),
            },
            signature=_SIGNATURE,
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIRED],
            model_type="classifier",
            step=step,
        )
    return str(info.model_uri)


def register(
    model_uri: str,
    run: Run,
    config: ModelConfig,
    *,
    tags: Mapping[str, str],
    metric: str,
    value: float,
    higher_is_better: bool,
) -> tuple[str, str]:
    """Make a new version of the registered model named after the network.

    The alias ``champion`` moves to it when its validation metric beats the present champion's on
    the same data. A run has one version: one that a process that died had made is kept.

    Returns:
        The version's URI, and in words what became of the champion.

    Raises:
        ModelError: The registry refuses.
        TrackingError: The store does not come back.
    """
    client = run.outbox.client
    name = config.network
    own = {**tags, "run_id": run.id, "metric": metric, f"val.{metric}": repr(value)}

    def version_of_the_run() -> str:
        for version in client.search_model_versions(f"name='{name}'"):
            if version.tags.get("run_id") == run.id:
                return str(version.version)
        return str(mlflow.register_model(model_uri, name, tags=own).version)

    def promote() -> str:
        state_folder().mkdir(parents=True, exist_ok=True)
        # Of two that both beat the champion the worse must not be crowned last; MLflow has no
        # other means to compare and set at once.
        with FileLock(state_folder() / "champion.lock"):
            return _promote(client, name, version, tags, metric, value, higher_is_better)

    try:
        version = run.outbox.ask(version_of_the_run)
        verdict = run.outbox.ask(promote)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot register {name!r} from {model_uri}: {reason}") from error
    return f"models:/{name}/{version}", verdict


def load_model(uri: str) -> LoadedModel:
    """Read a model of ours: tensors and a configuration, never code, from the artifact.

    Args:
        uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/m-…`` or ``runs:/…``.

    Raises:
        ModelError: It names nothing, or what it names is not one of our models.
    """
    uri, run_id = _resolve(uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(mlflow.artifacts.download_artifacts(f"{uri}/artifacts", dst_path=folder))
            stored = json.loads((where / "config.json").read_text(encoding="utf-8"))
            stored["class_names"] = tuple(stored["class_names"])
            config = ModelConfig(**stored)
            if config.network not in NETWORKS:
                raise ModelError(
                    f"model {uri!r} is a {config.network!r}: {nearest(config.network, NETWORKS)}"
                )
            network = NETWORKS[config.network].build(config.image_size, 0.0)
            weights = torch.load(where / "weights.pt", "cpu", weights_only=True)
            network.load_state_dict(weights)
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
    return LoadedModel(network.eval(), config, uri, run_id)


def _resolve(uri: str) -> tuple[str, str | None]:
    """Turn an alias into a version, and say what is wrong with a URI that names nothing."""
    if not uri.startswith("models:/"):
        if uri.startswith("runs:/") or Path(uri).is_dir():
            return uri, uri.split("/")[1] if uri.startswith("runs:/") else None
        raise ModelError(
            f"model URI {uri!r} names nothing: write models:/NAME/VERSION or models:/NAME@champion"
        )
    rest = uri.removeprefix("models:/").strip("/")
    if rest.startswith("m-") and "/" not in rest:
        return uri, None
    client = mlflow.MlflowClient()
    name, alias, version = *rest.partition("@")[::2], ""
    if not alias:
        name, _, version = rest.partition("/")
    known = [model.name for model in client.search_registered_models()]
    if name not in known:
        hint = nearest(name, known) if known else "nothing is registered in this store"
        raise ModelError(f"no registered model {name!r}: {hint}")
    versions = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
    try:
        if alias:
            found = client.get_model_version_by_alias(name, alias)
        elif version == "latest" and versions:
            found = client.get_model_version(name, str(versions[-1]))
        else:
            found = client.get_model_version(name, version)
    except MlflowException:
        wanted = f"alias {alias!r}" if alias else f"version {version!r}"
        raise ModelError(
            f"{name!r} has no {wanted}: its versions are {', '.join(map(str, versions)) or 'none'}"
        ) from None
    return f"models:/{name}/{found.version}", found.run_id or found.tags.get("run_id")


def _promote(
    client: Any,
    name: str,
    version: str,
    tags: Mapping[str, str],
    metric: str,
    value: float,
    higher_is_better: bool,
) -> str:
    try:
        champion = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if is_outage(error):
            raise
        client.set_registered_model_alias(name, CHAMPION, version)
        return f"version {version} is the first, and so the champion"
    if str(champion.version) == version:
        return f"version {version} is the champion"
    if champion.tags.get("data.validation") != tags.get("data.validation"):
        return f"version {champion.version} stays champion: it was validated on other data"
    if champion.tags.get("metric") != metric:
        return (
            f"version {champion.version} stays champion: "
            f"it was chosen by {champion.tags.get('metric')}, not {metric}"
        )
    holder = float(champion.tags[f"val.{metric}"])
    better = value > holder if higher_is_better else value < holder
    if not better:
        return (
            f"version {champion.version} stays champion: "
            f"validation {metric} {holder:.4f} against {value:.4f}"
        )
    client.set_registered_model_alias(name, CHAMPION, version)
    return f"version {version} is the new champion: {metric} {value:.4f} against {holder:.4f}"


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
            ColSpec("string", "error"),
        ]
    ),
    params=ParamSchema([ParamSpec("threshold", "double", 0.5)]),
)
