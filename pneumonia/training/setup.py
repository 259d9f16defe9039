"""Before the first epoch: the network, its initial weights, and the state of training."""

import logging

import torch
from torch import nn

from pneumonia.config.training import TrainingSettings
from pneumonia.networks.registry import network_named
from pneumonia.networks.weights import load_weights
from pneumonia.training.checkpoint import TrainingState
from pneumonia.training.device import Engine
from pneumonia.training.schedule import averaged, build_optimizer, build_schedule

log = logging.getLogger(__name__)

_REMARKS_LOGGED = 5


def build_network(settings: TrainingSettings) -> nn.Module:
    """Build a network as the settings say, with random weights."""
    build = network_named(settings.network).build
    return build(settings.image_size, settings.dropout, settings.standardise)


def begin(
    settings: TrainingSettings,
    engine: Engine,
    n_batches: int,
    rank: int = 0,
    *,
    initial_weights: bool = True,
) -> TrainingState:
    """Build the network and all that trains it; log what its initial weights lack.

    Args:
        settings: How to train.
        engine: Where to compute.
        n_batches: Batches an epoch.
        rank: This process, which draws its own dropout.
        initial_weights: Whether to load them; a checkpoint that is to be restored replaces them.

    Raises:
        UsageError, WeightsError: The initial weights cannot be used.
    """
    torch.manual_seed(settings.seed)
    network = build_network(settings)
    entry = network_named(settings.network)
    remarks = load_weights(network, entry, settings.weights) if initial_weights else []
    for remark in remarks[:_REMARKS_LOGGED]:
        log.warning("initial weights: %s", remark)
    if len(remarks) > _REMARKS_LOGGED:
        log.warning("initial weights: %d more do not match", len(remarks) - _REMARKS_LOGGED)
    if rank:
        torch.manual_seed(settings.seed + rank)  # dropout
    network.to(engine.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, settings)
    return TrainingState(
        network=network,
        average=averaged(network, settings.ema) if settings.ema else None,
        optimizer=optimizer,
        scaler=engine.gradient_scaler(),
        schedule=build_schedule(optimizer, settings, n_batches * settings.epochs),
        generator=torch.Generator().manual_seed(settings.seed),
        remarks=remarks,
    )
