"""The input gate of a trained network, in its run."""

from collections.abc import Mapping

import torch

from pneumonia.data.dataset import Images
from pneumonia.evaluation.gate import Gate
from pneumonia.evaluation.gate_fitting import fit_gate, gate_rates
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.runs import Run
from pneumonia.training.device import choose_engine, out_of_memory_as_error


def fitted_gate(
    network: torch.nn.Module, images: Mapping[str, Images], config: ModelConfig, device: str
) -> Gate:
    """Fit the gate; that of an ensemble compares the activations of its first member.

    Args:
        network: The network.
        images: Those of each role, of which test images are not looked at.
        config: The network's name, and of how many it consists.
        device: Where to compute.

    Raises:
        DeviceError: The device is out of memory.
    """
    engine = choose_engine(device, "fp32")
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network.to(engine.device).eval()
        return fit_gate(network, config.gate_layer, images["train"], images["validation"], engine)


def log_gate_rates(
    run: Run, network: torch.nn.Module, gate: Gate, images: Images, role: str, device: str
) -> float:
    """Log the shares of images that a gate rejects and warns of, as ``test/gate_rejected`` etc.

    Returns:
        The share that it rejects.

    Raises:
        DeviceError: The device is out of memory.
    """
    engine = choose_engine(device, "fp32")
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network.to(engine.device).eval()
        rejected, warned = gate_rates(network, gate, images, engine)
    run.log_metrics({f"{role}/gate_rejected": rejected, f"{role}/gate_warned": warned})
    return rejected
