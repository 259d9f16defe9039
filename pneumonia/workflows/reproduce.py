"""``pneumonia reproduce``: a training once more, and how its results differ."""

from collections.abc import Mapping
from dataclasses import dataclass

from pneumonia.errors import CheckError, UsageError
from pneumonia.progress import Progress
from pneumonia.tracking.lookup import final_metrics
from pneumonia.tracking.provenance import git_state, versions
from pneumonia.tracking.run_config import read_run_config
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.runs import OnRun, find_run
from pneumonia.tracking.store import connect
from pneumonia.workflows.prepare import load_data
from pneumonia.workflows.train_once import train_run

_COMPARED = ("best/", "test/", "stress/")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run, and the same training once more.

    Attributes:
        run_id: The new run.
        conditions: What differs of the code and the versions, by name: then and now.
        metrics: Each metric of both: then and now.
    """

    run_id: str
    conditions: Mapping[str, tuple[str, str]]
    metrics: Mapping[str, tuple[float, float]]

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference of a metric."""
        return max(abs(then - now) for then, now in self.metrics.values())


def reproduce(
    run_id: str,
    *,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> Reproduction:
    """Train once more as a run did: its settings, seed and data, in a run of its own.

    On the CPU the results are equal bit for bit where code, versions and the number of threads are.
    Nothing is registered.

    Args:
        run_id: A finished training; of a search, name the winner's run.
        tracking_uri: MLflow tracking URI, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the new run.

    Raises:
        CheckError: The data are no longer those of the run.
        UsageError: The run is no training that can be done again.
    """
    connect(tracking_uri)
    original = find_run(run_id)
    run_config = read_run_config(original.id)
    if run_config.searching:
        raise UsageError(f"run {run_id!r} is a search: search again, or name one training")
    before = final_metrics(original)
    compared = {key: value for key, value in before.items() if key.startswith(_COMPARED)}
    if original.status != "FINISHED" or not compared:
        raise UsageError(f"run {run_id!r} did not finish: there are no results to reproduce")
    data = load_data(run_config.experiment, progress)
    if data.digest != original.tags.get("data.digest"):
        raise CheckError(
            f"the images, labels or roles of {str(data.root)!r} are not those of run {run_id!r}: "
            f"digest {data.digest}, then {original.tags.get('data.digest')}"
        )
    present = {**versions(), **git_state()}
    conditions = {
        name: (original.tags.get(name, "not known"), value)
        for name, value in present.items()
        if original.tags.get(name) != value
    }
    network = run_config.experiment.training.network
    tags = {"kind": "reproduce", "network": network, "reproduces": original.id}
    new = NewRun(f"{original.name}-again", tags, original.experiment_id)
    with parent_run(new) as run:
        if on_run is not None:
            on_run(run)
        train_run(run, run_config.with_values(register_winner=False), data, progress=progress)
    after = final_metrics(run)
    metrics = {key: (value, after[key]) for key, value in compared.items() if key in after}
    return Reproduction(run.id, conditions, metrics)


def check_reproduction(reproduction: Reproduction, tolerance: float) -> None:
    """Raise where a metric differs by more than a tolerance.

    Raises:
        CheckError: One does.
    """
    beyond = [
        key for key, (then, now) in reproduction.metrics.items() if not abs(then - now) <= tolerance
    ]
    if beyond:
        raise CheckError(
            f"{len(beyond)} of {len(reproduction.metrics)} metrics differ by more than "
            f"{tolerance:g}, {beyond[0]} among them: see above"
        )
