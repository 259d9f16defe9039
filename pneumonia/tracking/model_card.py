"""What a trained model's record says: the model card and the report page of its run.

The items are those of CLAIM 2024 (Tejani et al.) and TRIPOD+AI (Collins et al. 2024) that a program
can know.
"""

import shlex

from pneumonia.data.dataset import DataSet
from pneumonia.evaluation.document import Section, Table
from pneumonia.evaluation.intervals import value_text
from pneumonia.evaluation.metrics import predictive_values
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.evaluation.stress import StressTest
from pneumonia.tracking.candidate import Candidate
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.provenance import git_state, versions
from pneumonia.tracking.scores import Scores

_PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.5)
NOT_A_DEVICE = (
    "It is for research and teaching, not a medical device, and not to be used for decisions about "
    "patients."
)
_AT_HALF = ("accuracy", "sensitivity", "specificity")


def model_card(
    run_id: str, data: DataSet, candidate: Candidate, test: Scores, rejected: float, warning: str
) -> list[Section]:
    """Say what is known of a trained model, in the order in which a reader asks.

    Args:
        run_id: The run that trained it.
        data: What it was trained and tested on.
        candidate: The network, its threshold and how it came about.
        test: Its test result.
        rejected: Share of the test images that its gate rejects.
        warning: What makes the results doubtful; may be empty.
    """
    config, point = candidate.calibrated.config, candidate.calibrated.point
    return [
        _purpose(config, data, rejected, warning),
        Section(
            "Test result",
            f"{len(data.roles['test']):,} images, scored {_times(test.times_scored)} by runs of "
            "this tracking store. Intervals are 95 %, by bootstrap over patients.",
            _metrics(test, point.threshold),
            figures=("confusion_test", "roc_test", "scores_test"),
        ),
        Section(
            "Subgroups",
            "Of the test images, at the model's threshold.",
            [
                ("group", "metric", "images", "value (95 % interval)"),
                *(
                    (row.name, row.metric, f"{row.n_images:,}", value_text(row.value, row.interval))
                    for row in test.subgroups
                ),
            ],
            figures=("subgroups_test",),
        ),
        _robustness(candidate.calibrated.stress, point),
        _operating_point(config, point, test),
        Section("Data", table=_data(data), code=data.report()),
        Section(
            "Examples",
            "Test images: the worst errors first. Grad-CAM shows where the evidence for the "
            "positive class lies; it does not prove that the network looks at the right thing.",
            figures=("gallery", "grad_cam"),
        ),
        _training(run_id, candidate),
    ]


def _purpose(config: ModelConfig, data: DataSet, rejected: float, warning: str) -> Section:
    negative, positive = config.class_names
    synthetic = " It was trained on synthetic images and says nothing about real ones."
    return Section(
        "Purpose and limits",
        f"{config.title} tells {negative} from {positive} on frontal chest X-rays, given as "
        f"images of {config.image_size}×{config.image_size} grey levels. {NOT_A_DEVICE}"
        f"{synthetic if data.is_synthetic else ''}\n\n"
        "It knows these two classes only. Its input gate rejects images that look like no chest "
        f"X-ray, or unlike those it was trained on, and {rejected:.1%} of the test images; what "
        "passes gets one of the two classes all the same. Images from another hospital, scanner or "
        "age group may be called wrong more often than the test result says."
        + (f"\n\nWarning: {warning}." if warning else ""),
    )


def _metrics(test: Scores, threshold: float) -> Table:
    rows = [("metric", f"at threshold {threshold:g} (95 % interval)", "at 0.5")]
    for name, value in test.metrics.items():
        at_half = f"{test.at_half[name]:.3f}" if name in _AT_HALF else ""
        rows.append((name, value_text(value, test.intervals.get(name)), at_half))
    return rows


def _robustness(stress: StressTest, point: OperatingPoint) -> Section:
    rows = [("change", "AUC", "balanced accuracy", "sensitivity", "specificity")]
    for row in stress.table(point.threshold):
        numbers = (f"{float(row[key]):.3f}" for key in list(row)[1:])
        rows.append((str(row["change"]), *numbers))  # type: ignore[arg-type]  # four numbers
    return Section(
        "Robustness",
        f"{len(stress.truth):,} validation images, as many of each class, as they are and under "
        "changes of framing, exposure and quality.",
        rows,
        figures=("stress",),
    )


def _operating_point(config: ModelConfig, point: OperatingPoint, test: Scores) -> Section:
    return Section(
        "Operating point and calibration",
        f"An image is called positive from a probability of {point.threshold:g} on. "
        f"{point.origin('validation images')} Logits are divided by the temperature "
        f"{config.temperature:.3f}.\n\n"
        "Predictive values follow from the test sensitivity and specificity, and from how many of "
        "those examined are ill:",
        predictive_table(test),
        figures=("reliability_validation", "roc_validation"),
    )


def _data(data: DataSet) -> Table:
    rows = [("role", "images", "patients", "digest")]
    for role, images in data.roles.items():
        patients = len({image.patient.key for image in images})
        rows.append((role, f"{len(images):,}", f"{patients:,}", data.role_digest(role)))
    return rows


def _training(run_id: str, candidate: Candidate) -> Section:
    commit = git_state().get("mlflow.source.git.commit", "not known")
    known = ", ".join(f"{name.removeprefix('version.')} {v}" for name, v in versions().items())
    return Section(
        "Training",
        f"{candidate.origin} Run {run_id}, commit {commit}.\n\n{known}.",
        code=shlex.join(["pneumonia", *candidate.command]),
        figures=("curves", "augmented"),
    )


def predictive_table(scores: Scores) -> Table:
    """Predictive values at some prevalences, from sensitivity and specificity."""
    sensitivity, specificity = scores.metrics["sensitivity"], scores.metrics["specificity"]
    rows = [("prevalence", "positive predictive value", "negative predictive value")]
    for prevalence in _PREVALENCES:
        positive, negative = predictive_values(sensitivity, specificity, prevalence)
        rows.append((f"{prevalence:.0%}", f"{positive:.3f}", f"{negative:.3f}"))
    return rows


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")
