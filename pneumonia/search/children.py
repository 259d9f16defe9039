"""The folds or seeds of one run: a child run each, which several processes share out."""

import logging
from collections.abc import Callable, Sequence

import torch

from pneumonia.cores import keeping_share
from pneumonia.search.launch import OtherWorkers
from pneumonia.tracking.run_lifecycle import children_of
from pneumonia.tracking.runs import Run
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.loop import OnEpoch

log = logging.getLogger(__name__)

TrainChild = Callable[[str, Run | None], object]
"""Trains the child of a name, given its run if it was begun."""

TrainChildWithEpochs = Callable[[str, Run | None, OnEpoch], object]
"""Likewise, given a function to call with each epoch's metrics as well."""

IsTrained = Callable[[Run], bool]
"""Whether a child need not be trained any more."""


def train_children(
    parent: Run,
    tag: str,
    names: Sequence[str],
    is_trained: IsTrained,
    train: TrainChildWithEpochs,
    others: OtherWorkers,
    epochs: int,
    device: torch.device,
) -> dict[str, Run]:
    """Train the children of a run that are not trained yet, beside other workers if that is faster.

    Args:
        parent: The run.
        tag: The tag that names a child, such as ``fold``.
        names: The children's names.
        is_trained: Whether a child is trained.
        train: Trains one.
        others: The other workers.
        epochs: Epochs of each child.
        device: Where this process trains.

    Returns:
        The children's runs by name, all trained.
    """
    children = children_of(parent, tag)
    left = set(names)
    for name in names:
        if name in children and is_trained(children[name]):
            log.info("%s is trained already", children[name].name)
            left.remove(name)

    def start_others_if_faster(epoch: Epoch) -> None:
        if others.number_is_open:
            epochs_left = epochs * len(left) - int(epoch["epoch"])
            seconds_left = epoch["speed/epoch_seconds"] * epochs_left
            others.start_if_faster(device, len(left) - 1, seconds_left)

    def train_one(name: str, child: Run | None) -> None:
        train(name, child, start_others_if_faster)
        left.discard(name)

    with others:
        others.start()
        train_free_children(parent, tag, names, is_trained, train_one)
        others.wait()
        # What a worker that died has left; one that was started by hand may still be at work.
        train_free_children(parent, tag, names, is_trained, train_one, wait=True)
    return children_of(parent, tag)


def train_free_children(
    parent: Run,
    tag: str,
    names: Sequence[str],
    is_trained: IsTrained,
    train: TrainChild,
    *,
    wait: bool = False,
) -> None:
    """Train the children of a run that are not trained yet and that no other process trains.

    Args:
        parent: The run.
        tag: The tag that names a child.
        names: The children's names.
        is_trained: Whether a child is trained.
        train: Trains one.
        wait: Whether to wait for children that another process trains, and to train them if it
            does not.
    """
    with keeping_share():
        for name in names:
            with parent.local.claim(f"{tag}-{name}", wait=wait) as claimed:
                if not claimed:
                    continue
                child = children_of(parent, tag).get(name)
                if child is None or not is_trained(child):
                    train(name, child)
