"""What every benchmark prints: what was measured, of which network, on which machine."""

import json
import platform
import sys
from collections.abc import Mapping
from typing import Any

import click
import torch

from pneumonia.training.device import Engine
from pneumonia.training.settings import TrainingSettings


def print_result(settings: TrainingSettings, engine: Engine, measured: Mapping[str, Any]) -> None:
    """Print a result as JSON."""
    result = {
        "network": settings.network,
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "device": str(engine.device),
        "precision": engine.precision,
        **measured,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    json.dump(result, sys.stdout, indent=2)
    click.echo()
