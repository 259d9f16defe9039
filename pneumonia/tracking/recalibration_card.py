"""The model card of a recalibrated model."""

from pneumonia.data.dataset import Split
from pneumonia.evaluation.document import Section, Table
from pneumonia.evaluation.intervals import value_text
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.evaluation.recalibration import Recalibration
from pneumonia.tracking.model_card import NOT_A_DEVICE, predictive_table
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.scores import Scores

SHOWN = (
    *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "npv"),
    *("brier", "ece", "loss"),
)
"""The metrics that recalibration may change; it keeps the order of images, and so their AUC."""


def recalibration_card(
    run_id: str,
    model: LoadedModel,
    split: Split,
    found: Recalibration,
    before: Scores,
    after: Scores,
    *,
    command: str,
    warning: str,
) -> list[Section]:
    """Say what is known of a recalibrated model, in the order in which a reader asks.

    Args:
        run_id: The run that recalibrated it.
        model: The model as it was.
        split: The images it was recalibrated on.
        found: The scaling and the threshold.
        before: The metrics of the model as it was.
        after: Those of the recalibrated one, cross-fitted.
        command: The command that did it.
        warning: What makes the result doubtful; may be empty.
    """
    files = split.images.files
    n_patients = len({file.patient.key for file in files})
    negative, positive = model.config.class_names
    n_positive = sum(file.label for file in files)
    return [
        Section(
            "Purpose and limits",
            f"The network is that of {model.uri}: see its model card. Its probabilities were "
            f"fitted to images of {split.root.name}: they and the threshold are not for images of "
            f"other sources. {NOT_A_DEVICE}" + (f"\n\nWarning: {warning}." if warning else ""),
        ),
        Section(
            "Before and after",
            "The metrics after recalibration are cross-fitted: each image is scored by a fit "
            "without its patient. Intervals are 95 %, by bootstrap over patients. The AUC is "
            f"{value_text(before.metrics['auc'], before.intervals['auc'])}: recalibration does not "
            "change it.",
            _metrics(before, after, model.config.threshold, found.point),
            figures=("reliability", "scores"),
        ),
        _operating_point(found, after),
        Section(
            "Data",
            f"{len(files):,} images of {n_patients:,} patients: {len(files) - n_positive:,} "
            f"{negative}, {n_positive:,} {positive}. Digest {split.digest}.",
        ),
        Section("Recalibration", f"Run {run_id}.", code=command),
    ]


def _metrics(before: Scores, after: Scores, was: float, point: OperatingPoint) -> Table:
    # A rule chooses a threshold for each fold.
    now = f"about {point.threshold:g}" if point.chosen else f"{point.threshold:g}"
    rows = [("metric", f"before, at threshold {was:g}", f"after, at {now}")]
    for name in SHOWN:
        values = (value_text(s.metrics[name], s.intervals[name]) for s in (before, after))
        rows.append((name, *values))  # type: ignore[arg-type]  # two values
    return rows


def _operating_point(found: Recalibration, after: Scores) -> Section:
    return Section(
        "Operating point and calibration",
        f"An image is called positive from a probability of {found.point.threshold:g} on. "
        f"{found.point.origin('these images')} Logits are divided by the temperature "
        f"{found.scaling.temperature:.3f}, then {found.scaling.intercept:.3f} is added to that of "
        "the positive class.\n\n"
        "Predictive values follow from sensitivity and specificity, and from how many of those "
        "examined are ill:",
        predictive_table(after),
    )
