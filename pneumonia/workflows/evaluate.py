"""A registered model on labelled images, in a run of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pneumonia.config.data import DataSettings, names
from pneumonia.data.dataset import open_split
from pneumonia.errors import UsageError
from pneumonia.evaluation.intervals import bootstrap_intervals
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.predictions import Predictions
from pneumonia.progress import Progress
from pneumonia.tracking.input_gate import log_gate_rates
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.results import metrics_summary
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.scores import Scores, log_scores
from pneumonia.tracking.store import choose_experiment


def evaluate(
    model: LoadedModel,
    data: str,
    *,
    split: str = "test",
    classes: str = "",
    threshold: float | None = None,
    device: str = "auto",
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> Scores:
    """Score a model on labelled images, in an MLflow run that is linked to it.

    Args:
        model: The model, as ``load_model`` returns it.
        data: Data set folder, or ``demo``.
        split: ``train``, ``val``, ``test``, or ``all`` of it.
        classes: Names of the two class folders, in any order; the model's own by default. Folders
            that are named otherwise are given as ``FOLDER=CLASS``, as in
            ``healthy=NORMAL,sick=PNEUMONIA``.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        device: Where to compute.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Other settings of the data, as ``train`` takes them: ``labels``, ``findings``,
            ``patient_pattern``, ``skip_unreadable`` and ``keep_identifiers``.

    Returns:
        Metrics, and their 95 % intervals.

    Raises:
        DataError: There are no such images.
        UsageError: There is no such split or setting, the threshold is not 0–1, or the classes are
            not those of the model.
    """
    data_settings = labelled_data(model, data, classes, settings)
    experiment_id = choose_experiment(experiment_name)
    tags = {"kind": "evaluate", "network": model.config.network}
    new = NewRun(f"evaluate-{model.config.network}-{split}", tags, experiment_id)
    with parent_run(new) as run:
        if on_run is not None:
            on_run(run)
        return evaluate_model(
            run, model, data_settings, split, threshold=threshold, device=device, progress=progress
        )


def evaluate_predictions(predictions: Predictions, threshold: float | None = None) -> Scores:
    """Compute metrics again from a table of predictions.

    Args:
        predictions: The table, as ``find_predictions`` finds it.
        threshold: Lowest probability called positive, 0–1; the table's own by default.

    Returns:
        Metrics, and their 95 % intervals.
    """
    least = predictions.threshold if threshold is None else threshold
    truth, probability = predictions.truth, predictions.probability
    return Scores(
        classification_metrics(truth, probability, least),
        bootstrap_intervals(truth, probability, predictions.patients, least),
    )


def labelled_data(
    model: LoadedModel, data: str, classes: str, settings: Mapping[str, Any]
) -> DataSettings:
    """The settings of labelled images that a model is scored on.

    Args:
        model: The model.
        data: Data set folder, or ``demo``.
        classes: As ``class_folders_of`` takes it.
        settings: Other settings of the data, by name.

    Raises:
        UsageError: The classes are not those of the model, or there is no such setting.
    """
    folders = class_folders_of(classes, model.config.class_names)
    return DataSettings(data=data, classes=",".join(folders), **settings)


def class_folders_of(classes: str, class_names: tuple[str, str]) -> tuple[str, str]:
    """Tell which folder holds which class of a model, by name and not by position.

    Args:
        classes: ``CLASS,CLASS`` or ``FOLDER=CLASS,FOLDER=CLASS`` in any order, or empty.
        class_names: The model's negative and positive class.

    Returns:
        The folder of the negative and that of the positive class.

    Raises:
        UsageError: The classes are not those of the model.
    """
    if not classes:
        return class_names
    folder_of = {}
    for item in names(classes):
        folder, _, name = item.rpartition("=")
        folder_of[name.strip().casefold()] = folder.strip() or name.strip()
    wanted = tuple(name.casefold() for name in class_names)
    if folder_of.keys() != set(wanted):
        negative, positive = class_names
        raise UsageError(
            f"classes = {classes!r}, but the model tells {negative} from {positive}: give these "
            f"names, or FOLDER={negative},FOLDER={positive}"
        )
    return folder_of[wanted[0]], folder_of[wanted[1]]


def evaluate_model(
    run: Run,
    model: LoadedModel,
    settings: DataSettings,
    split: str,
    *,
    threshold: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Scores:
    """Log a model's metrics and figures on one folder of a data set.

    Args:
        run: The run to log to.
        model: The model.
        settings: The data.
        split: ``train``, ``val``, ``test``, or ``all`` of it, as for a flat data set.
        threshold: Least probability called positive; the model's own by default.
        device: Where to compute, in fp32 as ``predict`` does.
        progress: Called with how many images are decoded.

    Returns:
        Metrics, and their 95 % intervals.

    Raises:
        DataError: There are no such images.
        UsageError: There is no such split.
    """
    config, threshold = model.config, model.threshold(threshold)
    opened = open_split(settings, config.preprocessing, split, progress)
    root, images, digest = opened.root, opened.images, opened.digest
    run.log_parameters({"model_uri": model.uri, "data": str(root), "split": split})
    run.log_parameters({"dataset/digest": digest, "threshold": threshold})
    run.log_images(root.name, root, {split: digest})
    run.tag({"model_uri": model.uri, "model.run_id": model.run_id or "", "data.digest": digest})
    # A flat folder has no roles: all of it tests the model.
    role = "test" if split == "test" or opened.flat else f"{split}_split"
    scores = log_scores(
        run, model.network, replace(config, threshold=threshold), images, role, device
    )
    if model.gate is not None:
        log_gate_rates(run, model.network, model.gate, images, role, device)
    run.set_description(
        f"{metrics_summary(scores.metrics, scores.intervals)}, at threshold {threshold:g}.\n\n"
        f"`{model.uri}` on {split} of `{root}` ({len(images):,} images), with 95 % intervals by "
        "bootstrap over patients.\n"
    )
    return scores
