"""``pneumonia ensemble``: several trained networks as one registered model."""

from collections.abc import Sequence

from pneumonia.config.experiment import Experiment
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, preprocessing_of
from pneumonia.errors import CheckError, UsageError
from pneumonia.networks.ensemble import Ensemble
from pneumonia.progress import Progress
from pneumonia.tracking.candidate import validated
from pneumonia.tracking.results import TrainingResult, log_candidate, result_text
from pneumonia.tracking.run_config import read_run_config
from pneumonia.tracking.run_lifecycle import NewRun, children_of, parent_run
from pneumonia.tracking.runs import OnRun, Run, find_run
from pneumonia.tracking.store import connect
from pneumonia.tracking.training import read_network
from pneumonia.workflows.prepare import load_data


def ensemble(
    run_ids: Sequence[str],
    *,
    register: bool = True,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> TrainingResult:
    """Put trained networks together, and score, log and register them as one model.

    It answers with the mean probability of its members. Its threshold and temperature are chosen on
    the validation images, by the rule of the first run. The members are of one network and take
    images of one size; they were trained on one split, so that these images are new to all of them.

    Args:
        run_ids: Two or more finished trainings; a run of ``train --seeds`` stands for its seeds.
        register: Whether to register the model.
        tracking_uri: MLflow tracking URI, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the new run.

    Raises:
        CheckError: The data are no longer those of the runs.
        UsageError: A run is no training, or they differ in what must be equal.
    """
    connect(tracking_uri)
    runs = [run for run_id in run_ids for run in _trainings(find_run(run_id))]
    if len({run.id for run in runs}) < max(2, len(runs)):
        raise UsageError(f"an ensemble needs two or more different trainings, not {len(runs)}")
    experiments = [_experiment_of(run) for run in runs]
    experiment = experiments[0]
    settings = experiment.training
    for run, other in zip(runs, experiments, strict=True):
        _refuse_other_input(run, other.training, runs[0], settings)
    data = load_data(experiment, progress)
    _refuse_other_data(data, runs)
    network = settings.network
    tags = {"network": network, "kind": "ensemble"}
    name = f"{network}-{data.name}-ensemble{len(runs)}"
    with parent_run(NewRun(name, tags, runs[0].experiment_id)) as parent:
        if on_run is not None:
            on_run(parent)
        parent.log_data_set(data)
        parent.log_parameters(experiment.data.parameters())
        parent.log_parameters({"network": network, "image_size": settings.image_size})
        parent.log_parameters({f"member/{n}": run.id for n, run in enumerate(runs)})
        images = data.open(preprocessing_of(settings), progress)
        origin = f"It answers with the mean probability of the networks of {len(runs)} runs."
        candidate = validated(
            parent,
            data,
            images,
            settings,
            Ensemble([read_network(run, settings) for run in runs]).eval(),
            members=len(runs),
            origin=origin,
            command=["ensemble", *(run.id for run in runs)],
        )
        parent.log_metrics({f"best/{key}": value for key, value in candidate.validation.items()})
        result = log_candidate(
            parent, data, images["test"], settings, candidate, register_winner=register
        )
        links = ", ".join(f"[{r.name}](#/experiments/{r.experiment_id}/runs/{r.id})" for r in runs)
        parent.set_description(
            f"{result_text(result)}\n**{candidate.calibrated.config.title}** on {data.name}: the "
            f"mean probability of {links}.\n"
        )
    return result


def _trainings(run: Run) -> list[Run]:
    """A run, or those of its seeds."""
    if run.tags.get("kind") != "seeds":
        return [run]
    by_seed = children_of(run, "seed")
    return [by_seed[seed] for seed in sorted(by_seed, key=int)]


def _experiment_of(run: Run) -> Experiment:
    """What a run trained, whose network it has."""
    if run.tags.get("kind") != "train" or run.status != "FINISHED" or not run.has_checkpoint():
        raise UsageError(
            f"run {run.id} ({run.name}) is no finished training with a network of its own: name "
            "single trainings, or a run of 'train --seeds'"
        )
    return read_run_config(run.id).experiment


def _refuse_other_input(
    run: Run, mine: TrainingSettings, first: Run, theirs: TrainingSettings
) -> None:
    """Raise where a run's network takes other images than the first one's."""
    for name in ("network", "image_size", "resize", "standardise"):
        if getattr(mine, name) != getattr(theirs, name):
            raise UsageError(
                f"runs {first.id} and {run.id} differ in {name} ({getattr(theirs, name)} and "
                f"{getattr(mine, name)}): an ensemble's members take the same images"
            )


def _refuse_other_data(data: DataSet, runs: Sequence[Run]) -> None:
    for run in runs:
        if run.tags.get("data.digest") != data.digest:
            raise CheckError(
                f"run {run.id} ({run.name}) was trained on other images, labels or roles than "
                f"{str(data.root)!r} has now: its validation images may not be new to all members"
            )
