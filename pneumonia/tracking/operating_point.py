"""A trained network's stress test, calibration and threshold, from validation images, in a run."""

import csv
import io
from dataclasses import replace

import numpy as np
import torch

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import Images
from pneumonia.evaluation.calibration import fit_temperature, scaled
from pneumonia.evaluation.conformal import calibration_of
from pneumonia.evaluation.operating_point import OperatingPoint, choose_operating_point
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.evaluation.reliability_figures import reliability_diagram, stress_chart
from pneumonia.evaluation.stress import StressTest, run_stress_test
from pneumonia.tracking.models import ModelConfig
from pneumonia.tracking.runs import Run
from pneumonia.training.device import choose_engine, out_of_memory_as_error


def log_operating_point(
    run: Run,
    network: torch.nn.Module,
    config: ModelConfig,
    validation: Images,
    settings: TrainingSettings,
) -> tuple[ModelConfig, OperatingPoint, StressTest]:
    """Run the stress test, fit the temperature, choose the threshold, and log all three.

    The temperature is fitted on the changed images, and ``stress`` chooses the threshold on them:
    where the classes are almost separated, clean validation images tell little of either.

    Args:
        run: The run to log to.
        network: The network.
        config: The model's configuration so far.
        validation: The validation images.
        settings: The rule, the device and the precision.

    Returns:
        The configuration with threshold and temperature, how the threshold was chosen, and the
        stress test with calibrated probabilities.

    Raises:
        DeviceError: The device is out of memory.
    """
    exact = choose_engine(settings.device, "fp32")
    engine = choose_engine(settings.device, settings.precision)
    truth = validation.labels.cpu().numpy()
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network.to(engine.device).eval()
        on_device = validation.to(engine.device)
        stress = run_stress_test(network, on_device, engine)
        clean = predict_probabilities(network, on_device, exact)
    temperature = fit_temperature(stress.truth, stress.stacked(), float(truth.mean()))
    calibrated = scaled(clean, temperature)
    stress = stress.calibrated(temperature)
    if settings.threshold == "stress":
        point = choose_operating_point("stress", stress.truth, stress.stacked(), stress.patients)
    else:
        patients = [file.patient.key for file in validation.files]
        point = choose_operating_point(settings.threshold, truth, calibrated[np.newaxis], patients)
    title = f"validation ({len(validation):,} images)"
    diagram = reliability_diagram(truth, clean, calibrated, title=title, temperature=temperature)
    run.log_figure(diagram, "reliability_validation")
    _log_stress(run, stress, point.threshold)
    run.log_metrics(
        {
            "threshold": point.threshold,
            "threshold_low": point.interval[0],
            "threshold_high": point.interval[1],
            "temperature": temperature,
        }
    )
    chosen = replace(
        config,
        threshold=point.threshold,
        threshold_rule=point.rule,
        temperature=temperature,
        prevalence=float(truth.mean()),
        calibration=calibration_of(truth, calibrated),
    )
    return chosen, point, stress


def _log_stress(run: Run, stress: StressTest, threshold: float) -> None:
    rows = stress.table(threshold)
    run.log_metrics({f"stress/{key}": v for key, v in stress.summary(threshold).items()})
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    run.log_text(table.getvalue(), "stress.csv")
    title = f"validation under changes ({len(stress.truth):,} images)"
    run.log_figure(stress_chart(rows, title=title, threshold=threshold), "stress")
