"""Validate options, data and the device before anything is trained."""

import logging
from collections.abc import Sequence

import numpy as np

from pneumonia.config.data import DEMO
from pneumonia.config.experiment import Experiment
from pneumonia.data.dataset import DataSet, load_data_set, preprocessing_of
from pneumonia.data.folders import ImageFile
from pneumonia.data.properties import PROPERTIES, header_properties
from pneumonia.errors import CheckError, UsageError
from pneumonia.evaluation.shortcuts import STRONG, ranking_auc
from pneumonia.networks.registry import network_named
from pneumonia.progress import Progress
from pneumonia.tracking.run_lifecycle import continue_run
from pneumonia.tracking.runs import Run, find_run
from pneumonia.tracking.store import tracking_uri
from pneumonia.training.device import choose_engine
from pneumonia.training.distributed import torchrun_ranks

log = logging.getLogger(__name__)

_HEADERS_READ = 2_000
"""Enough for an AUC known to 0.02, and read in a second."""


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
        progress: Called with what is done, and how many images of how many.
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
    if shortcut := strongest_shortcut(data.roles["train"]):
        log.warning("%s", shortcut)
    return data


def continue_with_same_data(run_id: str, data: DataSet) -> Run:
    """Continue a stopped run, if the data is that it was started with.

    Raises:
        CheckError: It is not; the run is ended as KILLED.
        TrackingError: The store does not answer.
        UsageError: The run has finished, or another process works on it.
    """
    run = continue_run(run_id, alone=True)
    try:
        _refuse_other_data(run, data)
    except CheckError:
        run.end("KILLED")
        raise
    return run


def join_with_same_data(run_id: str, data: DataSet) -> Run:
    """Open a run that another process works on, if the data is that it was started with.

    Raises:
        CheckError: It is not.
        TrackingError: There is no such run, or the store does not answer.
        UsageError: The run has finished.
    """
    run = find_run(run_id)
    if run.status == "FINISHED":
        raise UsageError(f"run {run_id} has finished: there is nothing to join")
    _refuse_other_data(run, data)
    return run


def _refuse_other_data(run: Run, data: DataSet) -> None:
    if run.tags.get("data.digest", data.digest) != data.digest:
        raise CheckError(
            f"the images, labels or roles of {str(data.root)!r} are not those that run {run.id} "
            "began with: restore them, or start anew"
        )


def strongest_shortcut(files: Sequence[ImageFile]) -> str:
    """What alone tells the classes of training images apart though it shows no lungs, in words.

    Args:
        files: The training images, of both classes; at most 2,000 of them are looked at, drawn
            with a fixed seed.

    Returns:
        The strongest property and its AUC; empty where the interval of no property's AUC lies
        above ``STRONG``.
    """
    order = np.random.default_rng(0).permutation(len(files))
    kept = [files[index] for index in order[:_HEADERS_READ]]
    truth = np.array([file.label for file in kept])
    values = header_properties(kept)  # (n, 5)
    found = [
        (*ranking_auc(column, truth), name)
        for name, column in zip(PROPERTIES, values.T, strict=False)
        if len(set(truth)) == 2 and np.isfinite(column).all()
    ]
    auc, (low, high), name = max(found, default=(0.5, (0.5, 0.5), ""))
    if low < STRONG:
        return ""
    return (
        f"the {name} alone tells the training images' classes apart with an AUC of {auc:.2f} "
        f"({low:.2f}–{high:.2f}), and a network may learn it: see 'pneumonia audit'"
    )
