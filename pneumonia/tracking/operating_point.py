"""A trained network's stress test, calibration and threshold, from validation images, in a run."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import Images
from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.calibration import fit_temperature, scaled
from pneumonia.evaluation.conformal import calibration_of
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.operating_point import OperatingPoint, choose_operating_point
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.evaluation.reliability_figures import reliability_diagram, stress_chart
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.evaluation.stress import StressTest, run_stress_test
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.runs import Run
from pneumonia.training.device import choose_engine, out_of_memory_as_error

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a network says of images that it was not trained on, before calibration.

    Attributes:
        truth: 0 negative, 1 positive, int64 (n,).
        patients: Whom each image shows (n).
        clean: Probability of the positive class, of the images as they are, float64 (n,).
        stress: Of some of them, under changes.
    """

    truth: Labels
    patients: Sequence[str]
    clean: Probabilities
    stress: StressTest

    def metric(self, name: str) -> float:
        """A metric that may choose a network, at a threshold of 0.5 where it depends on one."""
        if name == "stress":
            return self.stress.summary()["auc_worst"]
        return classification_metrics(self.truth, self.clean)[name]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What validation images decided of a network.

    Attributes:
        config: Its configuration, with threshold and temperature.
        point: How the threshold was chosen.
        stress: Its stress test, with calibrated probabilities.
    """

    config: ModelConfig
    point: OperatingPoint
    stress: StressTest


def measure(network: torch.nn.Module, images: Images, settings: TrainingSettings) -> Measured:
    """Score a network on labelled images, and run the stress test.

    Args:
        network: The network.
        images: Images that it was not trained on.
        settings: The device and the precision.

    Raises:
        DeviceError: The device is out of memory.
    """
    exact = choose_engine(settings.device, "fp32")
    engine = choose_engine(settings.device, settings.precision)
    log.info("scoring %d images held out, and some of them under changes", len(images))
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network.to(engine.device).eval()
        on_device = images.to(engine.device)
        stress = run_stress_test(network, on_device, engine)
        clean = predict_probabilities(network, on_device, exact)
    patients = [file.patient.key for file in images.files]
    return Measured(images.labels.cpu().numpy(), patients, clean, stress)


def log_operating_point(
    run: Run, config: ModelConfig, measured: Measured, rule: str, title: str
) -> Calibrated:
    """Fit the temperature, choose the threshold, and log both with the stress test.

    The temperature is fitted on the changed images, and ``stress`` chooses the threshold on them:
    where the classes are almost separated, clean images tell little of either.

    Args:
        run: The run to log to.
        config: The model's configuration so far.
        measured: What the network says of validation images.
        rule: Which threshold to choose.
        title: What the images are, for figures.
    """
    truth, stress = measured.truth, measured.stress
    temperature = fit_temperature(stress.truth, stress.stacked(), float(truth.mean()))
    scaling = LogitScaling(temperature)
    calibrated = scaled(measured.clean, scaling)
    stress = stress.calibrated(scaling)
    if rule == "stress":
        point = choose_operating_point(rule, stress.truth, stress.stacked(), stress.patients)
    else:
        point = choose_operating_point(rule, truth, calibrated[np.newaxis], measured.patients)
    names = ("as the network gives them", f"at temperature {temperature:.2f}")
    diagram = reliability_diagram(truth, measured.clean, calibrated, names, title=title)
    run.log_figure(diagram, "reliability_validation")
    _log_stress(run, stress, point.threshold, title)
    run.log_metrics({**point.metrics, "temperature": temperature})
    chosen = replace(
        config,
        threshold=point.threshold,
        threshold_rule=point.rule,
        temperature=temperature,
        prevalence=float(truth.mean()),
        calibration=calibration_of(truth, calibrated),
    )
    return Calibrated(chosen, point, stress)


def _log_stress(run: Run, stress: StressTest, threshold: float, title: str) -> None:
    rows = stress.table(threshold)
    run.log_metrics({f"stress/{key}": v for key, v in stress.summary(threshold).items()})
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    run.log_text(table.getvalue(), "stress.csv")
    under = f"{title}, {len(stress.truth):,} of them under changes"
    run.log_figure(stress_chart(rows, title=under, threshold=threshold), "stress")
