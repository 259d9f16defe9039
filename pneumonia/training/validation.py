"""Metrics of the validation images after an epoch."""

import numpy as np
import torch
from torch import nn

from pneumonia.data.dataset import Images
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.training.device import Engine
from pneumonia.training.distributed import ALONE, Ranks


def validate(
    network: nn.Module, images: Images, engine: Engine, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Metrics of a network on labelled images, as ``val/loss``, ``val/auc`` and so on.

    Each rank scores its share of the images, and all measure the whole.
    """
    probability = np.empty(len(images))
    own = torch.arange(ranks.rank, len(images), ranks.size)
    mine = images if ranks.size == 1 else images.part(own)
    for rank, theirs in enumerate(ranks.gather(predict_probabilities(network, mine, engine))):
        probability[rank :: ranks.size] = theirs
    metrics = classification_metrics(images.labels.cpu().numpy(), probability)
    return {f"val/{name}": value for name, value in metrics.items()}
