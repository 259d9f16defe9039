"""Models: logging the winner, registering it, and reading one back without running its code."""

import json
import os
import re
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import mlflow
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from torch import nn

from pneumonia.errors import ModelError
from pneumonia.evaluation.gate import Gate
from pneumonia.tracking.model_files import (
    DIGEST_TAG,
    LoadedModel,
    ModelConfig,
    digest_of,
    read_model,
)
from pneumonia.tracking.model_source import scoring_source
from pneumonia.tracking.model_uris import locate_model
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.runs import Run

_REQUIRED = ("torch", "pillow", "numpy", "pandas", "mlflow")


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
            return read_model(where, location)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot read model {uri!r} ({reason}): check the URI") from None


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
