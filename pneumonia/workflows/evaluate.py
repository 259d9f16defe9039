"""A registered model on labelled images, in a run of its own."""

from collections.abc import Callable, Mapping

from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data import summary
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import find_readable, images_of
from pneumonia.data.layout import part_folders
from pneumonia.errors import DataError, UsageError, nearest
from pneumonia.tracking.models import LoadedModel
from pneumonia.tracking.results import log_scores
from pneumonia.tracking.runs import Run, parent_run
from pneumonia.tracking.store import choose_experiment

_SPLITS = ("train", "val", "test", "all")


def evaluate(
    model: LoadedModel,
    data: str,
    *,
    split: str = "test",
    classes: str = "",
    skip_unreadable: bool = False,
    threshold: float | None = None,
    device: str = "auto",
    experiment_name: str = "Default",
    progress: Progress | None = None,
    on_run: Callable[[str], None] | None = None,
) -> tuple[dict[str, float], Mapping[str, tuple[float, float]]]:
    """Score a model on labelled images, in an MLflow run that is linked to it.

    Args:
        model: The model, as ``load_model`` returns it.
        data: Data set folder, or ``demo``.
        split: ``train``, ``val``, ``test``, or ``all`` of it.
        classes: Names of the two class folders; the model's own by default.
        skip_unreadable: Whether to leave unreadable images out.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        device: Where to compute.
        experiment_name: MLflow experiment to log to.
        progress: Called with the number of images decoded so far, and of all.
        on_run: Called with the id of the MLflow run as soon as there is one.

    Returns:
        Metrics, and 95 % intervals of some of them.

    Raises:
        DataError: There are no such images.
        UsageError: There is no such split, or the threshold is not 0–1.
    """
    choose_experiment(experiment_name)
    settings = DataSettings(
        data=data,
        classes=classes or ",".join(model.config.class_names),
        skip_unreadable=skip_unreadable,
    )
    tags = {"kind": "evaluate", "network": model.config.network}
    with parent_run(f"evaluate-{model.config.network}-{split}", tags) as run:
        if on_run is not None:
            on_run(run.id)
        return evaluate_model(
            run, model, settings, split, threshold=threshold, device=device, progress=progress
        )


def evaluate_model(
    run: Run,
    model: LoadedModel,
    settings: DataSettings,
    split: str,
    *,
    threshold: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[dict[str, float], Mapping[str, tuple[float, float]]]:
    """Log a model's metrics and figures on one folder of a data set.

    Args:
        run: The run to log to.
        model: The model.
        settings: The data.
        split: ``train``, ``val``, ``test``, or ``all`` of it, as for a flat data set.
        threshold: Least probability called positive; the model's own by default.
        device: Where to compute, in fp32 as ``predict`` does.
        progress: Called while images are decoded.

    Returns:
        Metrics, and 95 % intervals of some of them.

    Raises:
        DataError: There are no such images.
        UsageError: There is no such split.
    """
    if split not in _SPLITS:
        raise UsageError(f"unknown split {split!r}: {nearest(split, _SPLITS)}")
    config = model.config
    only = None if split == "all" else split
    root, found, cache = find_readable(settings, config.preprocessing, progress, only)
    files = [image for image in found.images if split in {"all", image.part}]
    if not files:
        parts = ", ".join(part_folders(root)) or "none"
        raise DataError(
            f"no images in {split!r} of {str(root)!r} (folders with images: {parts}): use --split "
            "with one of them, or all"
        )
    if threshold is None:
        threshold = config.threshold
    digest = summary.digest(files)
    run.log_parameters({"model_uri": model.uri, "data": str(root), "split": split})
    run.log_parameters({"data/digest": digest, "threshold": threshold})
    run.tag({"model_uri": model.uri, "model.run_id": model.run_id or "", "data.digest": digest})
    training = TrainingSettings().with_values(
        network=config.network,
        image_size=config.image_size,
        resize=config.resize,
        device=device,
        precision="fp32",
    )
    metrics, intervals = log_scores(
        run,
        model.network,
        images_of(files, cache),
        # A flat folder has no roles: all of it tests the model.
        "test" if split == "test" or found.parts == {""} else f"{split}_split",
        training,
        config.class_names,
        threshold,
    )
    shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())
    run.set_description(f"`{model.uri}` on {split} of `{root}` ({len(files):,} images): {shown}\n")
    return metrics, intervals
