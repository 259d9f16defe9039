"""What changes while a network trains: all of it, so that training can stop and go on exactly."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from pneumonia.errors import TrainingError
from pneumonia.files import atomic_write, unfinished_writes
from pneumonia.training.distributed import Ranks

log = logging.getLogger(__name__)

Epoch = dict[str, float]
StateDict = Mapping[str, torch.Tensor]


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """A network in training, with everything its next step depends on.

    Attributes:
        network: The network.
        average: Its averaged weights, or None.
        optimizer: The optimizer, with its moments.
        scaler: The gradient scaler; idle but in fp16.
        schedule: The learning rate's course.
        generator: Source of the data order and of augmentation.
        history: Metrics of the finished epochs.
        best_epoch: The best of them, from 1; 0 before there is one.
        best_weights: Its weights.
        order: Positions of the training images in the order of the epoch under way, int64 (n,);
            None between two epochs.
        losses: Loss of each step of the epoch under way, over the whole batch.
        correct: Share of images classified rightly in each of these steps.
        seconds: Time spent on the epoch under way before training was last stopped.
        remarks: What did not match in the initial weights.
    """

    network: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: LRScheduler
    generator: torch.Generator
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: StateDict = field(default_factory=dict)
    order: torch.Tensor | None = None
    losses: list[torch.Tensor] = field(default_factory=list)
    correct: list[torch.Tensor] = field(default_factory=list)
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated and kept: the averaged one if there is one."""
        return self.network if self.average is None else self.average.module

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def just_improved(self) -> bool:
        """Whether the weights are the best epoch's, not one step further."""
        return self.best_epoch > 0 and self.best_epoch == len(self.history) and not self.losses

    def end_epoch(self, measured: Epoch, *, best: bool) -> None:
        """Take down a finished epoch, and its weights if it is the best so far."""
        self.history.append({"epoch": len(self.history) + 1, **measured})
        self.order, self.losses, self.correct, self.seconds = None, [], [], 0.0
        if best:
            self.best_epoch = len(self.history)
            weights = self.eval_model.state_dict()
            self.best_weights = {key: tensor.detach().clone() for key, tensor in weights.items()}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that holds a training state. It is whole at any moment, whatever is killed when.

    Where several ranks train, it must be on a file system that all their machines share: rank 0
    writes the file, and all read it. It may be read by more or fewer ranks than were there when it
    was written.

    Attributes:
        path: The file.
        identity: What the state belongs to, such as settings and data; another's is refused.
    """

    path: Path
    identity: str

    def save(self, state: TrainingState, ranks: Ranks, *, finished: bool = False) -> None:
        """Replace the file by the present state, atomically. All ranks call this.

        Args:
            state: The state.
            ranks: The processes that train together.
            finished: Whether training is over. Then of the weights only the best are written, and
                no state of the optimizer.

        Raises:
            TrainingError: The disk is full or not writable.
        """
        random = ranks.gather(_random_state(state.device))
        if not ranks.is_first:
            return
        content = {
            "identity": self.identity,
            "threads": torch.get_num_threads(),
            "random": random,
            **({} if finished else {k: part.state_dict() for k, part in _parts(state).items()}),
            "generator": state.generator.get_state(),
            "history": state.history,
            "best_epoch": state.best_epoch,
            # If the best epoch is the last, these are the network's own tensors, written once.
            "best_weights": dict(
                state.eval_model.state_dict() if state.just_improved else state.best_weights
            ),
            "order": state.order,
            "losses": state.losses,
            "correct": state.correct,
            "seconds": state.seconds,
            "remarks": state.remarks,
        }
        try:
            with atomic_write(self.path) as unfinished:
                torch.save(content, unfinished)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own writer
            raise TrainingError(
                f"cannot write the checkpoint {str(self.path)!r}: {error}. Free some disk, or set "
                "PNEUMONIA_STATE to another folder"
            ) from error

    def restore(self, state: TrainingState, ranks: Ranks) -> None:
        """Continue the state where the file left it; leave it as it is where there is no file.

        All ranks call this.

        Raises:
            TrainingError: The file is damaged, belongs to other settings or data, or is not the
                same for all ranks.
        """
        if ranks.is_first:
            for unfinished in unfinished_writes(self.path.parent, self.path.name):
                unfinished.unlink(missing_ok=True)
        if self.path.exists():
            self._restore(state, ranks.rank)
        positions = ranks.gather((len(state.history), len(state.losses)))
        if len(set(positions)) > 1:
            raise TrainingError(
                f"the checkpoint {str(self.path)!r} is not the same on all machines: set "
                "PNEUMONIA_STATE to a folder that they share"
            )

    def _restore(self, state: TrainingState, rank: int) -> None:
        try:
            content: dict[str, Any] = torch.load(self.path, "cpu", weights_only=True)
            identity = content["identity"]
        except Exception as error:
            raise TrainingError(
                f"the checkpoint {str(self.path)!r} is damaged ({error}): remove it to train anew"
            ) from error
        if identity != self.identity:
            raise TrainingError(
                f"the checkpoint {str(self.path)!r} belongs to other settings or data: "
                "remove it to train anew"
            )
        _warn_of_other_threads(content["threads"], state.device)
        for name, part in _parts(state).items():
            if name in content:  # not where training is over
                part.load_state_dict(content[name])
        state.generator.set_state(content["generator"])
        for name in ("history", "best_epoch", "best_weights", "order", "seconds", "remarks"):
            setattr(state, name, content[name])
        state.losses = [loss.to(state.device) for loss in content["losses"]]
        state.correct = [flags.to(state.device) for flags in content["correct"]]
        # Last: building a network draws random numbers too.
        random = content["random"]
        _set_random_state(random[rank % len(random)], state.device)


def _warn_of_other_threads(then: int, device: torch.device) -> None:
    """Sums depend on the number of threads in their last bits, on the CPU."""
    now = torch.get_num_threads()
    if device.type == "cpu" and then != now:
        log.warning(
            "the checkpoint was written with %d threads, and training continues with %d: the "
            "result may differ in its last bits (OMP_NUM_THREADS=%d keeps them)",
            then,
            now,
            then,
        )


def _parts(state: TrainingState) -> dict[str, Any]:
    """What keeps its own state dict, by name."""
    parts: dict[str, Any] = {
        "network": state.network,
        "optimizer": state.optimizer,
        "scaler": state.scaler,
        "schedule": state.schedule,
    }
    return parts if state.average is None else {**parts, "average": state.average}


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Generators that dropout draws from, by type of device."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_random_state(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
