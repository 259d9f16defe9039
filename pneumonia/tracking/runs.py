"""Runs: starting or joining one, and what is logged to it."""

import io
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import torch
from matplotlib.figure import Figure
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pneumonia.data.dataset import DataSet
from pneumonia.errors import TrackingError
from pneumonia.tracking.provenance import git_state, process, versions

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoints/best.pt"


class Run:
    """One MLflow run, written to by its id, so that parent and children never mix.

    A run that is continued has some of its metrics already; none is logged twice for one step.
    """

    def __init__(self, run: MlflowRun, *, continued: bool = False) -> None:
        self.client = mlflow.MlflowClient()
        self.continued = continued
        self._logged_steps: dict[str, set[int]] = {}
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.experiment_id: str = run.info.experiment_id

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Log parameters the run does not have yet: ``mlflow run`` logged some as typed."""
        known = self.client.get_run(self.id).data.params
        new = [Param(key, str(value)) for key, value in parameters.items() if key not in known]
        self.client.log_batch(self.id, params=new)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step in one call; those that are not numbers are left out."""
        now = int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        batch = [
            Metric(key, value, now, step)
            for key, value in finite.items()
            if not (self.continued and step in self._steps_of(key))
        ]
        self.client.log_batch(self.id, metrics=batch)

    def _steps_of(self, key: str) -> set[int]:
        """Steps at which a metric was logged before this process took the run up."""
        if key not in self._logged_steps:
            history = self.client.get_metric_history(self.id, key)
            self._logged_steps[key] = {entry.step for entry in history}
        return self._logged_steps[key]

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Log one epoch's metrics under its number."""
        metrics = {key: value for key, value in epoch.items() if key != "epoch"}
        self.log_metrics(metrics, step=int(epoch["epoch"]))

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure as ``figures/NAME.png``."""
        self.client.log_figure(self.id, figure, f"figures/{name}.png")

    def log_text(self, text: str, path: str) -> None:
        """Log a text file."""
        self.client.log_text(self.id, text, path)

    def log_checkpoint(
        self, state: Mapping[str, torch.Tensor], class_names: tuple[str, str]
    ) -> None:
        """Log a state dict, with the index of each class beside it."""
        indices = {name: index for index, name in enumerate(class_names)}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(dict(state), Path(folder) / "best.pt")
            (Path(folder) / "class_indices.json").write_text(json.dumps(indices), encoding="utf-8")
            self.client.log_artifacts(self.id, folder, "checkpoints")

    def read_checkpoint(self) -> dict[str, torch.Tensor]:
        """Read back the logged state dict."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(self.id, CHECKPOINT, folder)
            content = io.BytesIO(Path(path).read_bytes())
        state: dict[str, torch.Tensor] = torch.load(content, "cpu", weights_only=True)
        return state

    def drop_checkpoint(self) -> None:
        """Remove the logged state dict of a run that is not the winner."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self.client.get_run(self.id).info.artifact_uri
        get_artifact_repository(uri).delete_artifacts("checkpoints")

    def log_data_set(self, data: DataSet) -> None:
        """Log each role's images as a dataset input with its digest, and the counts."""
        source = CodeDatasetSource(tags={"folder": str(data.root), "digest": data.digest})
        inputs = []
        for role in data.roles:
            images = MetaDataset(source, f"{data.name}/{role}", data.role_digest(role))  # type: ignore[abstract]  # its profile is optional
            entity = images._to_mlflow_entity()  # noqa: SLF001 - the client takes entities only
            context = InputTag(MLFLOW_DATASET_CONTEXT, "training" if role == "train" else role)
            inputs.append(DatasetInput(entity, [context]))
        self.client.log_inputs(self.id, inputs)
        self.log_parameters({f"data/{key}": value for key, value in data.counts().items()})
        self.log_parameters({"data/digest": data.digest})
        self.tag({"data.digest": data.digest})
        self.log_text(data.report(), "data.txt")

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in tags.items():
            self.client.set_tag(self.id, key, value)

    def describe(self, markdown: str) -> None:
        """Set the description shown on top of the run's page."""
        self.client.set_tag(self.id, "mlflow.note.content", markdown)

    def end(self, status: str, state: str) -> None:
        """End the run with MLflow's status and our own ``trial.state``."""
        self.tag({"trial.state": state})
        self.client.set_terminated(self.id, status)

    def child(self, name: str, tags: Mapping[str, str]) -> "Run":
        """Start a child run."""
        user = self.client.get_run(self.id).data.tags.get("mlflow.user", "")
        own = {"mlflow.parentRunId": self.id, "mlflow.user": user, **process(), **tags}
        return Run(self.client.create_run(self.experiment_id, tags=own, run_name=name))


@contextmanager
def parent_run(name: str, tags: Mapping[str, str], resumed: str = "") -> Iterator[Run]:
    """Start a run, or join the one that ``mlflow run`` started, and end it as the block ends.

    With ``resumed``, the id of a run that was stopped, that one goes on.

    An interrupt ends it as KILLED, an error as FAILED with the reason in the tag ``error``.

    Raises:
        TrackingError: The store stops answering.
    """
    given = os.environ.get("MLFLOW_RUN_ID")
    try:
        if known := resumed or given:
            active = mlflow.start_run(run_id=known)
        else:
            active = mlflow.start_run(run_name=name)
        run = Run(active, continued=bool(resumed))
        if resumed:
            log.info("going on with run %s", resumed)
        elif given:
            run.client.update_run(given, name=name)
            run.name = name
        else:
            run.tag({"mlflow.source.name": "pneumonia"})
        run.tag({**tags, **process(), **versions(), **git_state()})
    except MlflowException as error:
        mlflow.end_run("FAILED")
        raise TrackingError(f"cannot start a run: {str(error).splitlines()[0]}") from None
    try:
        yield run
    except KeyboardInterrupt:
        mlflow.end_run("KILLED")
        raise
    except BaseException as error:
        with suppress(MlflowException):  # where the store itself has failed, this fails too
            run.tag({"error": f"{type(error).__name__}: {error}"[:5000]})
            mlflow.end_run("FAILED")
        if isinstance(error, MlflowException):
            raise TrackingError(f"logging failed: {str(error).splitlines()[0]}") from error
        raise
    mlflow.end_run("FINISHED")


def find_run(run_id: str) -> Run:
    """Open an existing run by its id.

    Raises:
        TrackingError: There is none.
    """
    try:
        return Run(mlflow.MlflowClient().get_run(run_id))
    except MlflowException as error:
        raise TrackingError(f"no run {run_id!r}: {str(error).splitlines()[0]}") from None


def take_up(run_id: str) -> Run:
    """Go on with a run whose process has died."""
    client = mlflow.MlflowClient()
    client.update_run(run_id, status="RUNNING")
    run = Run(client.get_run(run_id), continued=True)
    run.tag(process())
    return run
