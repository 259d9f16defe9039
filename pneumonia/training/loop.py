"""The training loop."""

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
from pneumonia.training.optimisation import averaged, build_optimizer, build_schedule, loss_weights
from pneumonia.training.settings import TrainingSettings

Epoch = dict[str, float]
OnEpoch = Callable[[Epoch], None]
StateDict = Mapping[str, torch.Tensor]


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


def train(settings: TrainingSettings, images: Mapping[str, Images], on_epoch: OnEpoch) -> Trained:
    """Train a network and keep the weights of its best epoch.

    Args:
        settings: How to train.
        images: The ``train`` and ``validation`` images.
        on_epoch: Called with each epoch's metrics; what it raises ends the training.

    Raises:
        TrainingError: The loss is not finite, or the device is out of memory.
        UsageError: A batch is larger than the training set.
    """
    engine = choose_engine(settings.device, settings.precision)
    training, validation = (images[role].to(engine.device) for role in ("train", "validation"))
    if settings.batch_size > len(training):
        raise UsageError(
            f"batch_size = {settings.batch_size} is larger than the {len(training)} training "
            f"images: use at most {len(training)}"
        )
    try:
        return _train(settings, training, validation, engine, on_epoch)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{engine.device} is out of memory with batch_size = {settings.batch_size}: "
            f"try --batch-size {max(2, settings.batch_size // 2)}"
        ) from error


def _train(  # noqa: PLR0915 - one page, read from top to bottom
    settings: TrainingSettings,
    training: Images,
    validation: Images,
    engine: Engine,
    on_epoch: OnEpoch,
) -> Trained:
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)  # data order and augmentation
    network = build_network(settings)
    remarks = load_weights(network, network_named(settings.network), settings.weights)
    network.to(engine.device).to(memory_format=torch.channels_last)
    average = averaged(network, settings.ema) if settings.ema else None
    weights = loss_weights(training.labels, settings.class_weights)
    optimizer = build_optimizer(network, settings)
    scaler = engine.gradient_scaler()
    # The last, incomplete batch is left out: batch-norm statistics of a few images are poor.
    n_batches = len(training) // settings.batch_size
    schedule = build_schedule(optimizer, settings, n_batches * settings.epochs)

    metric = f"val/{settings.metric}"
    history: list[Epoch] = []
    best_epoch, best_state = 0, dict[str, torch.Tensor]()
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        network.train()
        losses, hits = [], []
        order = torch.randperm(len(training), generator=generator)
        for step in range(n_batches):
            chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            grey, labels = training.batch(chosen.to(engine.device))  # (B, H, W), (B,)
            levels = augment(
                grey, generator, strength=settings.augmentation, flip_probability=settings.flip
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
            schedule.step()
            if average is not None:
                average.update_parameters(network)
            losses.append(loss.detach())
            hits.append((logits.argmax(dim=1) == labels).float().mean())
        measured = {
            "train/loss": torch.stack(losses).mean().item(),
            "train/accuracy": torch.stack(hits).mean().item(),
            "learning_rate": float(schedule.get_last_lr()[0]),
            "speed/images_per_second": len(losses)
            * settings.batch_size
            / (time.perf_counter() - started),
        }
        _refuse_non_finite(measured["train/loss"], "training loss", epoch, settings)

        judged = network if average is None else average.module
        measured |= validate(judged, validation, engine)
        _refuse_non_finite(measured["val/loss"], "validation loss", epoch, settings)
        measured["speed/epoch_seconds"] = time.perf_counter() - started
        history.append({"epoch": epoch, **measured})
        best_value = history[best_epoch - 1][metric] if best_epoch else None
        if settings.better(measured[metric], best_value):
            best_epoch = epoch
            best_state = {key: t.detach().clone() for key, t in judged.state_dict().items()}
        on_epoch(history[-1])
        if settings.patience and epoch - best_epoch >= settings.patience:
            break

    if not best_epoch:
        raise TrainingError(
            f"validation {settings.metric} was never a number: see the val/ metrics"
        )
    network.load_state_dict(best_state)
    return Trained(network.eval(), history, best_epoch, remarks)


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


def _refuse_non_finite(value: float, what: str, epoch: int, settings: TrainingSettings) -> None:
    if not np.isfinite(value):
        raise TrainingError(
            f"{what} is {value} in epoch {epoch} with learning_rate = {settings.learning_rate:g}: "
            "try a lower --learning-rate, or --clip-norm 1"
        )
