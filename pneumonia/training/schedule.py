"""The optimizer, the learning rate's course, and averaged weights."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pneumonia.config.training import TrainingSettings


def build_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam or AdamW, with weight decay on matrices and kernels but not on biases and norms."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return optimizer(groups, lr=settings.learning_rate, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> LambdaLR:
    """Warm up, then follow the schedule for ``n_steps`` steps in all."""
    return LambdaLR(optimizer, lr_factor(settings.schedule, settings.warmup, n_steps))


def lr_factor(schedule: str, warmup: float, n_steps: int) -> Callable[[int], float]:
    """The learning rate as a share of the highest, as a function of the step (from 0).

    ``constant`` stays after warming up; ``cosine`` falls to 0 along half a cosine; ``one_cycle``
    warms up along a cosine and falls to 1/10,000 (Smith & Topin 2018, torch's OneCycleLR).
    """
    rising = round(n_steps * warmup)
    floor = 1e-4 if schedule == "one_cycle" else 0.0

    def share(step: int) -> float:
        if step < rising:
            done = (step + 1) / (rising + 1)
            return (1 - math.cos(math.pi * done)) / 2 if schedule == "one_cycle" else done
        if schedule == "constant":
            return 1.0
        done = min(1.0, (step - rising) / max(1, n_steps - rising))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return share


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network whose weights follow the exponential moving average of its own."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def loss_weights(labels: torch.Tensor, kind: str) -> torch.Tensor:
    """Weights of the two classes in the loss, float32 (2,): 1, or inverse to their counts."""
    counts = torch.bincount(labels, minlength=2).to(torch.float32)
    if kind == "none":
        return torch.ones_like(counts)
    return counts.sum() / (2 * counts)
