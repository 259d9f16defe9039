"""``pneumonia recalibrate``: a model's probabilities and threshold for images of another source."""

import shlex
from collections.abc import Iterator
from typing import Any

from pneumonia.config.data import DEMO
from pneumonia.config.settings import options_of
from pneumonia.config.training import check_threshold_rule
from pneumonia.data.dataset import Images, Split, open_split
from pneumonia.data.summary import unknown_patients
from pneumonia.errors import DataError
from pneumonia.evaluation.arrays import Probabilities
from pneumonia.evaluation.calibration import scaled
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.evaluation.recalibration import recalibrate as fit
from pneumonia.progress import Progress
from pneumonia.tracking.input_gate import log_gate_rates
from pneumonia.tracking.lookup import count_scored
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.recalibration import (
    ROLE,
    RecalibrationResult,
    log_before_and_after,
    log_recalibrated,
    recalibrated_config,
)
from pneumonia.tracking.recalibration_card import recalibration_card
from pneumonia.tracking.results import metrics_summary
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.runs import IMAGES, OnRun, Run
from pneumonia.tracking.store import choose_experiment
from pneumonia.tracking.trained_on import KIND_TAG, KnownImages, find_known_images
from pneumonia.training.device import choose_engine, out_of_memory_as_error
from pneumonia.workflows.evaluate import labelled_data

_RULES = ("youden", "accuracy")
"""The rule ``stress`` is for sources that are not known yet."""

_MANY_REJECTED = 0.1


def recalibrate(
    model: LoadedModel,
    data: str,
    *,
    split: str = "all",
    classes: str = "",
    threshold: str | float = 0.5,
    device: str = "auto",
    register: bool = True,
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> RecalibrationResult:
    """Fit a model's probabilities and threshold to labelled images of the source it is used on.

    The network stays what it is. A temperature and an intercept are fitted to its logits (Platt
    scaling). The threshold is the one given, or chosen by a rule. What they do for new images is
    estimated by cross-fitting, in five folds by patient. They hold for images of this source, and
    not for others.

    Args:
        model: The model, as ``load_model`` returns it.
        data: Data set folder.
        split: ``train``, ``val``, ``test``, or ``all`` of it.
        classes: As ``evaluate`` takes it.
        threshold: Lowest probability called positive, 0–1, or the rule that chooses it: ``youden``,
            ``accuracy``, ``sensitivity>=S`` or ``specificity>=S``.
        device: Where to compute, in fp32 as ``predict`` decides.
        register: Whether to make the recalibrated model a new version.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Other settings of the data, as ``evaluate`` takes them.

    Raises:
        CheckError: The model does not separate the classes of these images.
        DataError: There are no such images, too few patients, or the model was trained on some.
        DeviceError: The device is out of memory.
        UsageError: There is no such split, setting or rule, or the classes are not those of the
            model.
    """
    rule = check_threshold_rule(str(threshold), _RULES)
    data_settings = labelled_data(model, data, classes, settings)
    experiment_id = choose_experiment(experiment_name)
    opened = open_split(data_settings, model.config.preprocessing, split, progress)
    known = find_known_images(model, opened.images)
    _refuse_training_images(known, len(opened.images))
    unscaled = _unscaled(model, opened.images, device)
    truth = opened.images.labels.cpu().numpy()
    patients = [file.patient.key for file in opened.images.files]
    found = fit(truth, unscaled, patients, rule)
    tags = {"kind": "recalibrate", "network": model.config.network, KIND_TAG: known.kind}
    new = NewRun(f"recalibrate-{model.config.network}-{opened.root.name}", tags, experiment_id)
    with parent_run(new) as run:
        if on_run is not None:
            on_run(run)
        _log_input(run, model, opened, split, rule, known)
        before, after = log_before_and_after(
            run, opened, model.config, scaled(unscaled, model.config.scaling), found
        )
        rejected = 0.0
        if model.gate is not None:
            rejected = log_gate_rates(run, model.network, model.gate, opened.images, ROLE, device)
        warning = "; ".join(_warnings(opened.images, known, rejected, found.point.warning))
        given = {"data": data, "split": split, "classes": classes, "threshold": rule, **settings}
        command = ["pneumonia", "recalibrate", "--model-uri", model.uri, *options_of(given)]
        card = recalibration_card(
            run.id,
            model,
            opened,
            found,
            before,
            after,
            command=shlex.join(command),
            warning=warning,
        )
        uri, verdict = log_recalibrated(
            run,
            model,
            recalibrated_config(model.config, opened.images, found),
            opened,
            card,
            validation=after.metrics,
            synthetic=data == DEMO,
            register_model=register,
        )
        run.set_description(
            f"Before: {metrics_summary(before.metrics, before.intervals)}.\n\n"
            f"**After**, cross-fitted: {metrics_summary(after.metrics, after.intervals)}.\n\n"
            f"`{model.uri}` recalibrated on {split} of `{opened.root}` ({len(opened.images):,} "
            f"images): `{uri}` ({verdict}).\n" + (f"\n**Warning**: {warning}.\n" if warning else "")
        )
    return RecalibrationResult(
        before, after, found.scaling, found.point, rejected, warning, uri, verdict
    )


def _refuse_training_images(known: KnownImages, n_images: int) -> None:
    if known.n_training:
        raise DataError(
            f"the model was trained on {known.n_training:,} of these {n_images:,} images, on "
            "which it is overconfident: give images that are new to it, such as --split test"
        )


def _unscaled(model: LoadedModel, images: Images, device: str) -> Probabilities:
    engine = choose_engine(device, "fp32")
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network = model.network.to(engine.device)
        return predict_probabilities(network, images.to(engine.device), engine)


def _log_input(
    run: Run, model: LoadedModel, split: Split, asked: str, rule: str, known: KnownImages
) -> None:
    run.log_parameters({"model_uri": model.uri, "data": str(split.root), "split": asked})
    run.log_parameters({"dataset/digest": split.digest, "threshold_rule": rule})
    run.log_images(split.root.name, split.root, {ROLE: split.digest})
    run.tag({"model_uri": model.uri, "model.run_id": model.run_id or ""})
    run.tag({"data.digest": split.digest})
    if known.n_test:
        count_scored(run, split.digest)
    if known.table:
        run.log_text(known.table, IMAGES)  # whoever recalibrates this model asks for it


def _warnings(
    images: Images, known: KnownImages, rejected: float, of_threshold: str
) -> Iterator[str]:
    if not known.table:
        yield "no list tells whether the model was trained on some of these images"
    if known.n_test:
        yield (
            f"{known.n_test:,} of these images tested the model: that test result does not hold "
            "for the recalibrated one"
        )
    if rejected > _MANY_REJECTED:
        yield (
            f"the input gate rejects {rejected:.0%} of these images, and 'predict' gives such ones "
            "no probability"
        )
    if unknown := unknown_patients(images.files):
        yield unknown
    if of_threshold:
        yield of_threshold
