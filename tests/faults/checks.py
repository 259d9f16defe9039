"""What the stores say about a run once everything has ended, read from outside."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import torch
from mlflow.entities import Run

History = Mapping[str, list[tuple[int, float]]]


def client(tracking_uri: str) -> mlflow.MlflowClient:
    """A client of a store, for this process to look at it."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    return mlflow.MlflowClient()


def every_run(store: mlflow.MlflowClient) -> list[Run]:
    """All runs of all experiments."""
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    return list(store.search_runs(experiments, max_results=10_000))


def running(store: mlflow.MlflowClient) -> str:
    """The runs that are left RUNNING, in words; empty where there is none."""
    left = [run.info.run_name for run in every_run(store) if run.info.status == "RUNNING"]
    return f"{', '.join(left)} left RUNNING" if left else ""


def history(store: mlflow.MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Each metric's steps and values, in the order of the steps."""
    keys = store.get_run(run_id).data.metrics
    return {
        key: sorted((m.step, m.value) for m in store.get_metric_history(run_id, key))
        for key in keys
    }


def duplicates(metrics: History) -> str:
    """Metric steps that are there twice, in words; empty where there is none."""
    found = []
    for key, entries in metrics.items():
        twice = [step for step, n in Counter(step for step, _ in entries).items() if n > 1]
        if twice:
            found.append(f"{key} at {twice}")
    return "; ".join(found)


def registered(store: mlflow.MlflowClient, name: str) -> list[str]:
    """The versions of a registered model."""
    return [str(version.version) for version in store.search_model_versions(f"name='{name}'")]


@dataclass(frozen=True, slots=True)
class Finding:
    """All of a finished run that must not depend on what happened to it.

    Attributes:
        metrics: Its metrics, without those of speed.
        parameters: Its parameters.
        inputs: Names and digests of its data sets.
        artifacts: Paths of its artifacts.
        checkpoint: Digest of the logged checkpoint's tensors.
        model: Digest of the registered model's tensors.
    """

    metrics: History
    parameters: Mapping[str, str]
    inputs: tuple[str, ...]
    artifacts: tuple[str, ...]
    checkpoint: str
    model: str

    @classmethod
    def of(cls, store: mlflow.MlflowClient, run_id: str, network: str) -> "Finding":
        """Read it from the store."""
        metrics = history(store, run_id)
        checkpoint = Path(store.download_artifacts(run_id, "checkpoints/best.pt"))
        run = store.get_run(run_id)
        inputs = [
            f"{i.dataset.name} {i.dataset.digest}"
            for i in (run.inputs.dataset_inputs if run.inputs else [])
        ]
        version = store.get_model_version(network, "1")
        uri = f"models:/{network}/{version.version}/artifacts/weights.pt"
        return cls(
            {key: metrics[key] for key in sorted(metrics) if not key.startswith("speed/")},
            dict(sorted(run.data.params.items())),
            tuple(sorted(inputs)),
            tuple(_paths(store, run_id, "")),
            _digest(checkpoint),
            _digest(Path(mlflow.artifacts.download_artifacts(uri))),
        )

    def difference(self, other: "Finding") -> str:
        """What differs, in words; empty where nothing does."""
        found = []
        for key in sorted({*self.metrics, *other.metrics}):
            one, two = self.metrics.get(key), other.metrics.get(key)
            if one != two:
                found.append(f"metric {key}: {one} and {two}")
        for name in ("parameters", "inputs", "artifacts", "checkpoint", "model"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                found.append(f"{name}: {mine} and {others}")
        return "; ".join(found)[:2000]


def _paths(store: mlflow.MlflowClient, run_id: str, path: str) -> list[str]:
    found = []
    for item in store.list_artifacts(run_id, path):
        found += _paths(store, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


def _digest(path: Path) -> str:
    state: dict[str, torch.Tensor] = torch.load(path, "cpu", weights_only=True)
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def last_line(file: Path) -> str:
    """The last line of what a command wrote."""
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
