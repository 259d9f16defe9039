"""The training loop."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pneumonia.config.training import TrainingSettings
from pneumonia.cores import shared_cores
from pneumonia.data.augment import Augmentation, augment, draw_changes
from pneumonia.data.dataset import Images
from pneumonia.data.decode import network_input
from pneumonia.errors import TrainingError, UsageError
from pneumonia.evaluation.stress import run_stress_test
from pneumonia.progress import Progress
from pneumonia.training.checkpoint import Checkpoint, Epoch, TrainingState
from pneumonia.training.device import Engine, choose_engine, out_of_memory_as_error
from pneumonia.training.distributed import ALONE, Ranks
from pneumonia.training.schedule import loss_weights
from pneumonia.training.setup import begin
from pneumonia.training.signals import StoppedBetweenBatches, defer_interrupts
from pneumonia.training.validation import validate

log = logging.getLogger(__name__)

OnEpoch = Callable[[Epoch], None]
BeforeStep = Callable[[int, int, int], None]
"""Called with the epoch, and how many images of how many; may end the training."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives.

    Attributes:
        network: The network with the best epoch's weights, in evaluation mode.
        history: One mapping an epoch: ``epoch`` (from 1), ``train/loss``, ``val/auc`` and so on.
        best_epoch: The epoch whose validation metric was best, from 1.
        remarks: What did not match in the initial weights.
    """

    network: nn.Module
    history: list[Epoch]
    best_epoch: int
    remarks: list[str]

    @property
    def best(self) -> Epoch:
        """The best epoch's metrics."""
        return self.history[self.best_epoch - 1]


def augmentation_of(settings: TrainingSettings) -> Augmentation:
    """How the settings change training images."""
    return Augmentation(
        strength=settings.augmentation,
        crop=settings.crop,
        brightness=settings.brightness,
        contrast=settings.contrast,
        gamma=settings.gamma,
        flip=settings.flip,
        blur=settings.blur,
        noise=settings.noise,
        border=settings.border,
        border_grey=settings.border_grey,
        shading=settings.shading,
    )


def train(
    settings: TrainingSettings,
    images: Mapping[str, Images],
    on_epoch: OnEpoch,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Trained:
    """Train a network and keep the weights of its best epoch.

    With a checkpoint the state of training is saved after each epoch, and when SIGINT or SIGTERM
    asks to stop. If the checkpoint exists, training continues from it. On the CPU it then ends bit
    for bit as if it had never stopped, provided that the number of threads is the same. Processes
    that compute on one machine share its cores, so the number may differ; one line says so.

    Several ranks train one network when all call this with the same settings and images. Each
    takes its share of every batch, and batches, statistics, losses and metrics are those of the
    whole, so that all end with the network that one process would have, but for rounding. Only
    dropout differs, where it is not 0: each rank draws its own.

    Args:
        settings: How to train.
        images: The ``train`` and ``validation`` images.
        on_epoch: Called with each epoch's metrics, also with those that the checkpoint holds, since
            the last one may be saved but not reported. What it raises ends the training.
        checkpoint: Where the state is kept; with several ranks, where rank 0 says.
        ranks: The processes to train with, joined.
        progress: Called with how many images of an epoch are trained on.

    Raises:
        DeviceError: The device is out of memory.
        TrainingError: The loss is not finite, the checkpoint cannot be read or written, or another
            rank has failed.
        UsageError: A batch is larger than the training set, or cannot be shared by the ranks.
        KeyboardInterrupt: Training was asked to stop, on whichever rank.
    """
    engine = choose_engine(settings.device, settings.precision)
    n_training = len(images["train"])
    if settings.batch_size > n_training:
        raise UsageError(
            f"batch_size = {settings.batch_size} is larger than the {n_training} training "
            f"images: use at most {n_training}"
        )
    ranks.share_of(settings.batch_size)
    with (
        ranks.fail_on_all_ranks(),
        defer_interrupts() as asked,
        shared_cores(engine.device) as adapt_threads,
        out_of_memory_as_error(
            engine.device,
            f"try --batch-size {max(2, settings.batch_size // 2)}, not {settings.batch_size}",
        ),
    ):
        _refuse_differences(ranks, settings, engine, images)

        def before_step(epoch: int, done: int, total: int) -> None:
            if ranks.any_of(flag=asked()):
                raise StoppedBetweenBatches
            adapt_threads()
            if progress is not None:
                progress(f"epoch {epoch}/{settings.epochs}", done, total)

        trained = _train(
            settings,
            images["train"].to(engine.device),
            images["validation"].to(engine.device),
            engine,
            on_epoch,
            ranks.gather(checkpoint)[0],
            ranks,
            before_step,
        )
        if ranks.any_of(flag=asked()):
            raise StoppedBetweenBatches
        return trained


def _refuse_differences(
    ranks: Ranks, settings: TrainingSettings, engine: Engine, images: Mapping[str, Images]
) -> None:
    """Check that all ranks have the same settings, and the same image at each position."""
    files = [
        (file.digest, file.label) for role in ("train", "validation") for file in images[role].files
    ]
    known = ranks.gather((settings, engine.device.type, engine.precision, files))
    if any(theirs != known[0] for theirs in known):
        raise UsageError(
            "the processes differ in settings, device, precision or images: give all the same "
            "options, and have the same images on every machine"
        )


def _train(
    settings: TrainingSettings,
    training: Images,
    validation: Images,
    engine: Engine,
    on_epoch: OnEpoch,
    checkpoint: Checkpoint | None,
    ranks: Ranks,
    before_step: BeforeStep,
) -> Trained:
    state = begin(
        settings,
        engine,
        len(training) // settings.batch_size,
        ranks.rank,
        initial_weights=checkpoint is None or not checkpoint.path.exists(),
    )
    if checkpoint is not None:
        checkpoint.restore(state, ranks)
    if state.history or state.losses:
        log.info("continuing after epoch %d, batch %d", len(state.history), len(state.losses))
    replica = ranks.replica(state.network)
    for finished in state.history:
        on_epoch(finished)

    while not _finished(state, settings):
        started = time.perf_counter() - state.seconds
        try:
            measured = _train_epoch(state, replica, settings, training, engine, ranks, before_step)
        except StoppedBetweenBatches:
            state.seconds = time.perf_counter() - started
            if checkpoint is not None:
                checkpoint.save(state, ranks)
            raise
        measured["speed/images_per_second"] = (
            len(state.losses) * settings.batch_size / (time.perf_counter() - started)
        )
        _refuse_non_finite("training loss", measured["train/loss"], state)
        measured |= validate(state.eval_model, validation, engine, ranks)
        measured |= _stressed(state.eval_model, validation, engine, settings)
        _refuse_non_finite("validation loss", measured["val/loss"], state)
        measured["speed/epoch_seconds"] = time.perf_counter() - started
        best = settings.better(measured[f"val/{settings.metric}"], _best_value(state, settings))
        state.end_epoch(measured, best=best)
        if checkpoint is not None:
            checkpoint.save(state, ranks, finished=_finished(state, settings))
        on_epoch(state.history[-1])
    if not state.best_epoch:
        raise TrainingError(
            f"validation {settings.metric} was never a number: see the val/ metrics"
        )
    state.network.load_state_dict(state.best_weights)
    return Trained(state.network.eval(), state.history, state.best_epoch, state.remarks)


def _train_epoch(
    state: TrainingState,
    replica: nn.Module,
    settings: TrainingSettings,
    training: Images,
    engine: Engine,
    ranks: Ranks,
    before_step: BeforeStep,
) -> Epoch:
    """Pass over the training images once, or over those left of an epoch that was stopped."""
    network, optimizer, scaler = state.network, state.optimizer, state.scaler
    weights = loss_weights(training.labels, settings.class_weights)
    replica.train()
    if state.order is None:
        state.order = torch.randperm(len(training), generator=state.generator)
    order = state.order.to(engine.device)  # in one transfer: each makes the host wait
    # The last, incomplete batch is left out: batch-norm statistics of a few images are poor.
    n_batches = len(training) // settings.batch_size
    epoch, n_images = len(state.history) + 1, n_batches * settings.batch_size
    for step in range(len(state.losses), n_batches):
        before_step(epoch, step * settings.batch_size, n_images)
        # From here on B is this rank's share of the batch; random numbers are for the whole batch.
        batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
        changes = draw_changes(len(batch), state.generator)
        grey, labels = training.batch(ranks.share(batch))  # (B, H, W), (B,)
        levels = augment(grey, ranks.share(changes), augmentation_of(settings))
        with engine.autocast():
            logits = replica(network_input(levels))  # (B, 2)
        total = functional.cross_entropy(
            logits.float(),
            labels,
            weights,
            reduction="sum",
            label_smoothing=settings.label_smoothing,
        )
        # The mean of the ranks' losses, and so of their gradients, is the loss of the whole batch.
        loss = total / weights[training.labels[batch]].sum() * ranks.size
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if settings.clip_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        state.schedule.step()
        if state.average is not None:
            state.average.update_parameters(network)
        correct = (logits.argmax(dim=1) == labels).float().mean()
        loss_of_all, correct_of_all = ranks.mean(torch.stack([loss.detach(), correct]))
        state.losses.append(loss_of_all)
        state.correct.append(correct_of_all)
    before_step(epoch, n_images, n_images)  # the epoch's images are done
    return {
        "train/loss": torch.stack(state.losses).mean().item(),
        "train/accuracy": torch.stack(state.correct).mean().item(),
        "learning_rate": float(state.schedule.get_last_lr()[0]),
    }


def _finished(state: TrainingState, settings: TrainingSettings) -> bool:
    done = len(state.history)
    out_of_patience = settings.patience and done - state.best_epoch >= settings.patience
    return done >= settings.epochs or bool(out_of_patience)


def _best_value(state: TrainingState, settings: TrainingSettings) -> float | None:
    if not state.best_epoch:
        return None
    return state.history[state.best_epoch - 1][f"val/{settings.metric}"]


def _stressed(
    network: nn.Module, images: Images, engine: Engine, settings: TrainingSettings
) -> dict[str, float]:
    """``val/stress``, where it chooses the epoch."""
    if settings.metric != "stress":
        return {}
    return {"val/stress": run_stress_test(network, images, engine).summary()["auc_worst"]}


def _refuse_non_finite(what: str, value: float, state: TrainingState) -> None:
    if not np.isfinite(value):
        raise TrainingError(
            f"{what} is {value} in epoch {len(state.history) + 1} with learning_rate = "
            f"{state.schedule.get_last_lr()[0]:g}: try a lower --learning-rate, or --clip-norm 1"
        )
