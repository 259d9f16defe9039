"""Validate options, data and the device before anything is trained."""

import logging

from pneumonia.config.data import DEMO
from pneumonia.config.experiment import Experiment
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, load_data_set, preprocessing_of
from pneumonia.networks.registry import network_named
from pneumonia.tracking.store import tracking_uri
from pneumonia.training.device import choose_engine
from pneumonia.training.distributed import torchrun_ranks

log = logging.getLogger(__name__)


def load_data(
    experiment: Experiment,
    progress: Progress | None = None,
    *,
    quiet: bool = False,
    tracked: bool = True,
) -> DataSet:
    """Check the device, and find, decode and split the images; log what is about to run.

    Args:
        experiment: What is about to run.
        progress: Told what is done, and how many images of how many.
        quiet: Whether the process that started the run has logged that already.
        tracked: Whether a run follows.

    Raises:
        PneumoniaError: The device or the data cannot be used.
    """
    training = experiment.training
    network_named(training.network)
    engine = choose_engine(training.device, training.precision)
    if quiet:
        return load_data_set(experiment.data, preprocessing_of(training))
    if experiment.data.data == DEMO:
        log.info("No --data given: using synthetic X-rays, made on the spot.")
    data = load_data_set(experiment.data, preprocessing_of(training), progress)
    where = f", tracked in {tracking_uri()}" if tracked else ""
    log.info("experiment %s%s", experiment.name, where)
    for key, value in experiment.changed.items():
        log.info("  %s = %s", key, value)
    and_all = "; the run has all as parameters" if tracked else ""
    log.info("  (the file's own settings otherwise%s)", and_all)
    for key, value in (training.parameters() | experiment.data.parameters()).items():
        log.debug("  %s = %s", key, value)
    log.info("  running on %s in %s", engine.device, engine.precision)
    ranks = torchrun_ranks()
    if ranks.size > 1:
        log.info(
            "  %d processes: batches of %d images, %d each; learning rate %g as with one",
            ranks.size,
            training.batch_size,
            ranks.share_of(training.batch_size),
            training.learning_rate,
        )
    log.info("%s\n%s", data.root, data.report())
    return data
