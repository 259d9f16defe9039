"""A run, and what is logged to it. ``run_lifecycle`` starts, continues and ends runs."""

import io
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import torch
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS

from pneumonia.data.dataset import DataSet
from pneumonia.data.image_roles import roles_as_csv
from pneumonia.errors import TrackingError
from pneumonia.processes import this_process
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.outbox import Entry, outbox
from pneumonia.tracking.store import shown_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # slow, and predict draws nothing

CHECKPOINT = "checkpoints/best.pt"
IMAGES = "images.csv"


class Run:
    """One MLflow run, written to by its id, so that parent and children never mix.

    While the tracking store does not answer, entries wait on disk. A continued run has some of
    its metrics already; none is logged twice for one step.
    """

    def __init__(self, run: MlflowRun, *, continued: bool = False) -> None:
        self.outbox = outbox()
        self.continued = continued
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.experiment_id: str = run.info.experiment_id
        self.status: str = run.info.status
        self.artifact_uri: str = run.info.artifact_uri
        self.tags: dict[str, str] = dict(run.data.tags)
        self.local = LocalState(self.id)
        self.figures: dict[str, bytes] = {}  # PNG, by name, of those logged by this process
        self._parameters = set(run.data.params)
        self._logged_steps: dict[str, set[int]] = {}

    @property
    def label(self) -> str:
        """What tells a trial, fold or seed from its siblings, such as ``t003``; else empty."""
        return self.name.rpartition("-")[2] if "mlflow.parentRunId" in self.tags else ""

    @property
    def link(self) -> str:
        """Its page; empty where no server has one, since the store is a file or a database."""
        uri = shown_uri()
        page = f"{uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.id}"
        return page if uri.startswith(("http://", "https://")) else ""

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Log parameters the run does not have yet: ``mlflow run`` logged some as typed."""
        new = {k: str(v) for k, v in parameters.items() if k not in self._parameters}
        self._parameters |= new.keys()
        if new:
            self.outbox.send(self.id, Entry("parameters", new))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> bool:
        """Log metrics of one step in one call; those that are not numbers are left out.

        Returns:
            Whether there were any that the run did not have yet.
        """
        now = int(time.time() * 1000)
        batch = [
            (key, float(value), now, step)
            for key, value in metrics.items()
            if math.isfinite(value) and not (self.continued and step in self._steps_of(key))
        ]
        if batch:
            self.outbox.send(self.id, Entry("metrics", {"metrics": batch}))
        return bool(batch)

    def _steps_of(self, key: str) -> set[int]:
        """Steps at which a metric was logged before this process continued the run."""
        if key not in self._logged_steps:
            client = self.outbox.client
            history = self.outbox.ask(lambda: client.get_metric_history(self.id, key))
            self._logged_steps[key] = {entry.step for entry in history}
        return self._logged_steps[key]

    def log_epoch(self, epoch: Mapping[str, float]) -> bool:
        """Log one epoch's metrics under its number, unless the run has them already."""
        metrics = {key: value for key, value in epoch.items() if key != "epoch"}
        return self.log_metrics(metrics, step=int(epoch["epoch"]))

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Log a figure as ``figures/NAME.png``."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        self.figures[name] = drawn.getvalue()
        self.log_file(f"figures/{name}.png", drawn.getvalue())

    def log_text(self, text: str, path: str) -> None:
        """Log a text file."""
        # A file name need not be UTF-8, but an artifact must be readable as text.
        self.log_file(path, text.encode("utf-8", "backslashreplace"))

    def log_file(self, path: str, content: bytes) -> None:
        """Log a file under a path of the run's artifacts."""
        self.outbox.send(self.id, Entry.artifact(path, content))

    def log_table(self, path: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Log a table that MLflow's pages show, and ``mlflow.load_table`` reads, as JSON.

        MLflow's own ``log_table`` adds the rows to those that a continued run has already.
        """
        self.log_text(json.dumps({"columns": list(columns), "data": list(rows)}), path)
        tables = json.loads(self.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if (table := {"path": path, "type": "table"}) not in tables:
            self.tag({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*tables, table])})

    def log_checkpoint(
        self, state: Mapping[str, torch.Tensor], class_names: tuple[str, str]
    ) -> None:
        """Log a state dict, with the index of each class beside it."""
        indices = {name: index for index, name in enumerate(class_names)}
        content = io.BytesIO()
        torch.save(dict(state), content)
        self.log_file("checkpoints/class_indices.json", json.dumps(indices).encode())
        self.log_file(CHECKPOINT, content.getvalue())

    def read_checkpoint(self) -> dict[str, torch.Tensor]:
        """Read back the logged state dict.

        Raises:
            TrackingError: The tracking store stopped answering.
        """
        client = self.outbox.client
        with tempfile.TemporaryDirectory() as folder:
            path = self.outbox.ask(lambda: client.download_artifacts(self.id, CHECKPOINT, folder))
            content = io.BytesIO(Path(path).read_bytes())
        state: dict[str, torch.Tensor] = torch.load(content, "cpu", weights_only=True)
        return state

    def has_checkpoint(self) -> bool:
        """Whether a state dict is logged."""
        client = self.outbox.client
        listed = self.outbox.ask(lambda: client.list_artifacts(self.id, "checkpoints"))
        return any(item.path == CHECKPOINT for item in listed)

    def drop_checkpoint(self) -> None:
        """Remove the logged state dict of a run that is not the winner."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self.artifact_uri
        self.outbox.ask(lambda: get_artifact_repository(uri).delete_artifacts("checkpoints"))

    def log_data_set(self, data: DataSet) -> None:
        """Log each role's images as a dataset input with its digest, their list, and the counts."""
        self.log_images(data.name, data.root, {role: data.role_digest(role) for role in data.roles})
        # Not under data/: where MLflow keeps parameters as files, ``data`` is one itself.
        counts = {f"dataset/{mlflow_key(key)}": value for key, value in data.counts().items()}
        self.log_parameters({**counts, "dataset/digest": data.digest})
        self.tag({"data.digest": data.digest})
        self.log_text(data.report(), "data.txt")
        self.log_text(roles_as_csv(data.roles, data.root), IMAGES)

    def log_images(self, name: str, root: Path, digests: Mapping[str, str]) -> None:
        """Log the images of a data set as dataset inputs, by role with their digest."""
        source = CodeDatasetSource(tags={"folder": str(root)})
        inputs = []
        for role, digest in digests.items():
            images = MetaDataset(source, f"{name}/{role}", digest)  # type: ignore[abstract]  # its profile is optional
            entity = DatasetEntity(**images.to_dict())  # the client takes entities only
            context = InputTag(MLFLOW_DATASET_CONTEXT, "training" if role == "train" else role)
            inputs.append(DatasetInput(entity, [context]))
        self.outbox.ask(lambda: self.outbox.client.log_inputs(self.id, inputs))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self.tags |= tags
        self.outbox.send(self.id, Entry("tags", dict(tags)))

    def set_description(self, markdown: str) -> None:
        """Set the description shown on top of the run's page."""
        self.tag({"mlflow.note.content": markdown})

    def end(self, status: str, state: str = "") -> None:
        """End the run with MLflow's status, and our own ``trial.state`` where it has one."""
        if state:
            self.tag({"trial.state": state})
        now = int(time.time() * 1000)
        self.outbox.send(self.id, Entry("status", {"status": status, "end_time": now}))

    def child(self, name: str, tags: Mapping[str, str]) -> "Run":
        """Start a child run, of the same user and network unless ``tags`` say otherwise."""
        same: dict[str, str] = {
            key: self.tags[key] for key in ("mlflow.user", "network") if key in self.tags
        }
        own = {"mlflow.parentRunId": self.id, **same, **this_process(), **tags}
        client = self.outbox.client
        created = self.outbox.ask(
            lambda: client.create_run(self.experiment_id, tags=own, run_name=name)
        )
        return Run(created)


OnRun = Callable[[Run], None]


def mlflow_key(name: str) -> str:
    """A name as MLflow takes it for a key; what it does not take is given in hexadecimal."""
    return re.sub(r"[^/\w.\- ]", lambda match: f"x{ord(match[0]):02x}", name)


def find_run(run_id: str) -> Run:
    """Open an existing run by its id.

    Raises:
        TrackingError: There is none.
    """
    store = outbox()
    try:
        return Run(store.ask(lambda: store.client.get_run(run_id)))
    except MlflowException as error:
        raise TrackingError(f"no run {run_id!r}: {str(error).splitlines()[0]}") from None


def read_text(run_id: str, path: str) -> str | None:
    """A text file on top of a run's artifacts; None where there is no such run or file."""
    store = outbox()
    try:
        # MLflow raises the same error for a missing file and for a store that does not answer.
        listed = store.ask(lambda: store.client.list_artifacts(run_id))
        if all(item.path != path for item in listed):
            return None
        return str(store.ask(lambda: mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")))
    except MlflowException:
        return None
