"""The training loop."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pneumonia.data.augmentation import augment
from pneumonia.data.dataset import Images
from pneumonia.data.preprocessing import network_input
from pneumonia.errors import TrainingError, UsageError
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.networks.registry import network_named
from pneumonia.networks.weights import load_weights
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.interruption import StoppedBetweenBatches, noting_interrupts
from pneumonia.training.optimisation import averaged, build_optimizer, build_schedule, loss_weights
from pneumonia.training.settings import TrainingSettings
from pneumonia.training.state import Checkpoint, Epoch, TrainingState

log = logging.getLogger(__name__)

OnEpoch = Callable[[Epoch], None]


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


def build_network(settings: TrainingSettings) -> nn.Module:
    """Build a network as the settings say, with random weights."""
    return network_named(settings.network).build(settings.image_size, settings.dropout)


def train(
    settings: TrainingSettings,
    images: Mapping[str, Images],
    on_epoch: OnEpoch,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train a network and keep the weights of its best epoch.

    With a checkpoint the state of training is kept after each epoch, and when SIGINT or SIGTERM
    asks to stop. Where one is there already, training goes on from it, and on the CPU ends bit for
    bit as if it had never stopped.

    Args:
        settings: How to train.
        images: The ``train`` and ``validation`` images.
        on_epoch: Called with each epoch's metrics, those that the checkpoint holds included, lest
            one be missed that was kept but not reported; what it raises ends the training.
        checkpoint: Where the state is kept.

    Raises:
        TrainingError: The loss is not finite, the device is out of memory, or the checkpoint
            cannot be read or written.
        UsageError: A batch is larger than the training set.
        KeyboardInterrupt: Training was asked to stop.
    """
    engine = choose_engine(settings.device, settings.precision)
    training, validation = (images[role].to(engine.device) for role in ("train", "validation"))
    if settings.batch_size > len(training):
        raise UsageError(
            f"batch_size = {settings.batch_size} is larger than the {len(training)} training "
            f"images: use at most {len(training)}"
        )
    try:
        with noting_interrupts() as asked_to_stop:
            return _train(
                settings, training, validation, engine, on_epoch, checkpoint, asked_to_stop
            )
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{engine.device} is out of memory with batch_size = {settings.batch_size}: "
            f"try --batch-size {max(2, settings.batch_size // 2)}"
        ) from error


def _train(
    settings: TrainingSettings,
    training: Images,
    validation: Images,
    engine: Engine,
    on_epoch: OnEpoch,
    checkpoint: Checkpoint | None,
    asked_to_stop: Callable[[], bool],
) -> Trained:
    state, remarks = begin(settings, engine, len(training) // settings.batch_size)
    if checkpoint is not None:
        checkpoint.restore(state)
    if state.history or state.losses:
        log.info("going on after epoch %d, batch %d", len(state.history), len(state.losses))
    for finished in state.history:
        on_epoch(finished)

    while not _finished(state, settings):
        started = time.perf_counter() - state.seconds
        try:
            measured = _train_epoch(state, settings, training, engine, asked_to_stop)
        except StoppedBetweenBatches:
            state.seconds = time.perf_counter() - started
            if checkpoint is not None:
                checkpoint.save(state)
            raise
        measured["speed/images_per_second"] = (
            len(state.losses) * settings.batch_size / (time.perf_counter() - started)
        )
        _refuse_non_finite("training loss", measured["train/loss"], state)
        measured |= validate(state.judged, validation, engine)
        _refuse_non_finite("validation loss", measured["val/loss"], state)
        measured["speed/epoch_seconds"] = time.perf_counter() - started
        best = settings.better(measured[f"val/{settings.metric}"], _best_value(state, settings))
        state.end_epoch(measured, best=best)
        if checkpoint is not None:
            checkpoint.save(state)
        on_epoch(state.history[-1])
    if asked_to_stop():
        raise StoppedBetweenBatches

    if not state.best_epoch:
        raise TrainingError(
            f"validation {settings.metric} was never a number: see the val/ metrics"
        )
    state.network.load_state_dict(state.best_weights)
    return Trained(state.network.eval(), state.history, state.best_epoch, remarks)


def _train_epoch(
    state: TrainingState,
    settings: TrainingSettings,
    training: Images,
    engine: Engine,
    asked_to_stop: Callable[[], bool],
) -> Epoch:
    """Pass over the training images once, or over those left of an epoch that was stopped."""
    network, optimizer, scaler = state.network, state.optimizer, state.scaler
    weights = loss_weights(training.labels, settings.class_weights)
    network.train()
    if state.order is None:
        state.order = torch.randperm(len(training), generator=state.generator)
    # The last, incomplete batch is left out: batch-norm statistics of a few images are poor.
    n_batches = len(training) // settings.batch_size
    for step in range(len(state.losses), n_batches):
        if asked_to_stop():
            raise StoppedBetweenBatches
        chosen = state.order[step * settings.batch_size : (step + 1) * settings.batch_size]
        grey, labels = training.batch(chosen.to(engine.device))  # (B, H, W), (B,)
        levels = augment(
            grey, state.generator, strength=settings.augmentation, flip_probability=settings.flip
        )
        with engine.autocast():
            logits = network(network_input(levels))  # (B, 2)
        loss = functional.cross_entropy(
            logits.float(), labels, weights, label_smoothing=settings.label_smoothing
        )
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
        state.losses.append(loss.detach())
        state.hits.append((logits.argmax(dim=1) == labels).float().mean())
    return {
        "train/loss": torch.stack(state.losses).mean().item(),
        "train/accuracy": torch.stack(state.hits).mean().item(),
        "learning_rate": float(state.schedule.get_last_lr()[0]),
    }


def begin(
    settings: TrainingSettings, engine: Engine, n_batches: int
) -> tuple[TrainingState, list[str]]:
    """Build the network and all that trains it; say what did not match in its initial weights."""
    torch.manual_seed(settings.seed)
    network = build_network(settings)
    remarks = load_weights(network, network_named(settings.network), settings.weights)
    network.to(engine.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, settings)
    state = TrainingState(
        network=network,
        average=averaged(network, settings.ema) if settings.ema else None,
        optimizer=optimizer,
        scaler=engine.gradient_scaler(),
        schedule=build_schedule(optimizer, settings, n_batches * settings.epochs),
        generator=torch.Generator().manual_seed(settings.seed),
    )
    return state, remarks


def _finished(state: TrainingState, settings: TrainingSettings) -> bool:
    done = len(state.history)
    out_of_patience = settings.patience and done - state.best_epoch >= settings.patience
    return done >= settings.epochs or bool(out_of_patience)


def _best_value(state: TrainingState, settings: TrainingSettings) -> float | None:
    if not state.best_epoch:
        return None
    return state.history[state.best_epoch - 1][f"val/{settings.metric}"]


def validate(network: nn.Module, images: Images, engine: Engine) -> dict[str, float]:
    """Metrics of a network on labelled images, as ``val/loss``, ``val/auc`` and so on."""
    probability = predict_probabilities(network, images, engine)
    metrics = classification_metrics(images.labels.cpu().numpy(), probability)
    return {f"val/{name}": value for name, value in metrics.items()}


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module, images: Images, engine: Engine, batch_size: int = 128
) -> NDArray[np.float64]:
    """Probability of the positive class for each image, float64 (n,)."""
    network.eval()
    probabilities = []
    for positions in torch.split(torch.arange(len(images), device=images.rows.device), batch_size):
        grey, _ = images.batch(positions)
        with engine.autocast():
            logits = network(network_input(grey))  # (B, 2)
        probabilities.append(logits.double().softmax(dim=1)[:, 1])
    return torch.cat(probabilities).cpu().numpy()


def _refuse_non_finite(what: str, value: float, state: TrainingState) -> None:
    if not np.isfinite(value):
        raise TrainingError(
            f"{what} is {value} in epoch {len(state.history) + 1} with learning_rate = "
            f"{state.schedule.get_last_lr()[0]:g}: try a lower --learning-rate, or --clip-norm 1"
        )
