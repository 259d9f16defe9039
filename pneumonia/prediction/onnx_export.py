"""A model as an ONNX file, for programs without PyTorch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pneumonia.data.decode import network_input
from pneumonia.errors import DataError, ModelError, UsageError
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.files import atomic_write
from pneumonia.tracking.model_files import LoadedModel

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
"""Largest difference of a probability between the file and PyTorch, in fp32."""

_CHECKED = 8


class _Exported(nn.Module):
    """From grey levels 0–255, float32 (B, H, W), to the probability of the positive class (B,)."""

    def __init__(self, network: nn.Module, scaling: LogitScaling) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Compute the calibrated probability."""
        return self.scaling.probabilities(self.network(network_input(grey)))


def onnx_graph(module: nn.Module, grey: torch.Tensor, outputs: list[str]) -> "ModelProto":
    """A module as an ONNX graph that takes batches of any size.

    Args:
        module: It takes grey levels, float32 (B, H, W).
        grey: An example of them, of at least two images.
        outputs: Names of what it returns.

    Raises:
        ModelError: It cannot be written so.
    """
    with torch.inference_mode():
        module(grey)  # tensors that a first call caches must not be the exporter's
    program = torch.onnx.export(
        module,
        (grey,),
        input_names=["grey"],
        output_names=outputs,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ModelError("the network cannot be written as ONNX")
    return program.model_proto


def export_onnx(model: LoadedModel, output: Path) -> float:
    """Write a model as ONNX, and check the file against PyTorch.

    The input ``grey`` is float32 (B, image_size, image_size), grey levels 0–255 as ``decode`` gives
    them; the output ``probability`` is float32 (B,), that of the positive class. The file's
    metadata hold the model's URI and its configuration, threshold and class names among it.

    Args:
        model: The model.
        output: The file to write.

    Returns:
        The largest difference of a probability on eight random images.

    Raises:
        DataError: The file cannot be written.
        ModelError: The file's probabilities are not those of PyTorch.
        UsageError: onnx and its relatives are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError:
        raise UsageError("export needs ONNX: pip install 'pneumonia[onnx]'") from None
    side = model.config.image_size
    exported = _Exported(model.network, model.config.scaling).eval()
    grey = torch.randint(
        0, 256, (_CHECKED, side, side), generator=torch.Generator().manual_seed(0)
    ).float()
    graph = onnx_graph(exported, grey, ["probability"])
    described = {"model_uri": model.uri, "config": json.dumps(asdict(model.config))}
    onnx.helper.set_model_props(graph, described)
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        wanted = exported(grey).numpy()
    found = session.run(["probability"], {"grey": grey.numpy()})[0]
    difference = float(np.abs(found - wanted).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the ONNX file of {model.uri!r} differs from PyTorch by {difference:.2g}: not written"
        )
    try:
        with atomic_write(output) as unfinished:
            unfinished.write_bytes(content)
    except OSError as error:
        raise DataError(f"cannot write {str(output)!r}: {error.strerror}") from None
    return difference
