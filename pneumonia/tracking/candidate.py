"""A network that is ready to be tested: with its threshold, temperature and input gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.evaluation.gate import Gate
from pneumonia.tracking.input_gate import fitted_gate
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.operating_point import Calibrated, log_operating_point, measure
from pneumonia.tracking.runs import Run
from pneumonia.tracking.scores import log_scores


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that is ready to be tested, logged and registered.

    Attributes:
        network: The network.
        calibrated: Its configuration, how its threshold was chosen, and its stress test.
        gate: Its input gate.
        validation: Its validation metrics: at its threshold, but for the one that chose it.
        digest: Of the validation images.
        origin: How it came about, in a sentence.
        command: The command that made it.
        step: The epoch its weights are of.
    """

    network: torch.nn.Module
    calibrated: Calibrated
    gate: Gate
    validation: Mapping[str, float]
    digest: str
    origin: str
    command: Sequence[str]
    step: int = 0


def validated(
    run: Run,
    data: DataSet,
    images: Mapping[str, Images],
    settings: TrainingSettings,
    network: torch.nn.Module,
    *,
    members: int = 1,
    origin: str,
    command: Sequence[str],
    chosen_by: float | None = None,
    step: int = 0,
) -> Candidate:
    """Choose a network's operating point and gate by validation images, and log them.

    Args:
        run: The run to log to.
        data: The data.
        images: Those of each role, of which test images are not looked at.
        settings: How it was trained.
        network: The network.
        members: Number of networks it consists of.
        origin: How it came about, in a sentence.
        command: The command that made it.
        chosen_by: The value of the metric that it was chosen by; measured where it is None.
        step: The epoch its weights are of.

    Raises:
        DeviceError: The device is out of memory.
    """
    uncalibrated = ModelConfig.uncalibrated(settings, data.settings.class_names, members)
    measured = measure(network, images["validation"], settings)
    title = f"validation ({len(measured.truth):,} images)"
    calibrated = log_operating_point(run, uncalibrated, measured, settings.threshold, title)
    config = calibrated.config
    gate = fitted_gate(network, images, config, settings.device)
    scores = log_scores(run, network, config, images["validation"], "validation", settings.device)
    value = measured.metric(settings.metric) if chosen_by is None else chosen_by
    return Candidate(
        network,
        calibrated,
        gate,
        validation={**scores.metrics, settings.metric: value},
        digest=data.role_digest("validation"),
        origin=origin,
        command=command,
        step=step,
    )
