"""The folds or seeds of one run: a child run each, which several processes share out."""

import logging
from collections.abc import Sequence
from typing import Protocol

from pneumonia.config.training import TrainingSettings
from pneumonia.cores import keeping_share
from pneumonia.search.launch import OtherWorkers
from pneumonia.tracking.run_lifecycle import children_of
from pneumonia.tracking.runs import Run
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import OnEpoch

log = logging.getLogger(__name__)


class Children(Protocol):
    """The trainings of a run, each in a child run of its own.

    Attributes:
        tag: The tag that names a child, such as ``fold``.
        names: The children's names.
    """

    tag: str
    names: list[str]

    def is_trained(self, child: Run) -> bool:
        """Whether a child need not be trained any more."""

    def train(self, name: str, child: Run | None, on_epoch: OnEpoch | None = None) -> object:
        """Train a child, or continue where a stopped process left off.

        Args:
            name: Its name.
            child: Its run, if it was begun.
            on_epoch: Called with each epoch's metrics.
        """


def train_children(
    parent: Run,
    children: Children,
    settings: TrainingSettings,
    command: Sequence[str],
    jobs: int | None,
) -> dict[str, Run]:
    """Train the children of a run that are not trained yet, beside other workers if that is faster.

    Args:
        parent: The run.
        children: Its children.
        settings: How each is trained.
        command: What another worker runs, after ``pneumonia``.
        jobs: Workers on this machine, of which this process is one; None for as many as make it
            faster.

    Returns:
        The children's runs by name, all trained.
    """
    others = OtherWorkers(parent, command, None if jobs is None else jobs - 1)
    device = choose_engine(settings.device, settings.precision).device
    left = set(children.names)
    for name, child in sorted(children_of(parent, children.tag).items()):
        if children.is_trained(child):
            log.info("%s is trained already", child.name)
            left.discard(name)

    def start_others_if_faster(epoch: Epoch) -> None:
        if others.number_is_open:
            epochs_left = settings.epochs * len(left) - int(epoch["epoch"])
            seconds_left = epoch["speed/epoch_seconds"] * epochs_left
            others.start_if_faster(device, len(left) - 1, seconds_left)

    with others:
        others.start()
        train_free_children(parent, children, left, start_others_if_faster)
        others.wait()
        # Train what a dead worker has left. A worker that was started by hand may still be at work.
        train_free_children(parent, children, left, start_others_if_faster, wait=True)
    return children_of(parent, children.tag)


def train_free_children(
    parent: Run,
    children: Children,
    left: set[str],
    on_epoch: OnEpoch | None = None,
    *,
    wait: bool = False,
) -> None:
    """Train the children of a run that are not trained yet and that no other process trains.

    Args:
        parent: The run.
        children: Its children.
        left: Names of those that may be left to train; those that are trained are removed.
        on_epoch: Called with each epoch's metrics.
        wait: Whether to wait for children that another process trains, and to train them if it
            does not.
    """
    with keeping_share():
        for name in [name for name in children.names if name in left]:
            with parent.local.claim(f"{children.tag}-{name}", wait=wait) as claimed:
                if not claimed:
                    continue
                child = children_of(parent, children.tag).get(name)
                if child is None or not children.is_trained(child):
                    children.train(name, child, on_epoch)
                left.remove(name)
