"""A network in integers of 8 bits, computed by ONNX Runtime on processors."""

import hashlib
import logging
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from pneumonia import __version__
from pneumonia.data.cache import default_folder
from pneumonia.data.decode import network_input
from pneumonia.data.demo_drawing import Anatomy, draw_xray
from pneumonia.errors import DataError, ModelError, UsageError
from pneumonia.evaluation.gate import layer_features
from pneumonia.evaluation.predict import INT8_MARGIN, Forward
from pneumonia.files import atomic_write
from pneumonia.prediction.onnx_export import onnx_graph
from pneumonia.tracking.model_files import LoadedModel

log = logging.getLogger(__name__)

_OUTPUTS = ["logits", "features"]
_QUANTISED = ["Conv"]
"""What is computed in integers: nearly all of the work, and the rest stays as exact as it is."""

_DRAWN, _DRAWN_SIDE, _BATCH = 128, 256, 32


class _WithFeatures(nn.Module):
    """From grey levels, float32 (B, H, W), to logits (B, 2) and the layer's mean activations."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both."""
        with layer_features(self.network, self.layer) as features:
            return self.network(network_input(grey)), features[0]


def int8_forward(model: LoadedModel) -> Forward:
    """Prepare a model's network in integers of 8 bits.

    Weights and activations are quantised after training, weights for each channel (Jacob et al.
    2018, arXiv:1712.05877). The ranges of the activations are those of drawn X-rays, the same ones
    each time, so that a model answers the same everywhere and needs no images of its training.
    The prepared network is kept beside the image caches: the next call reads it, and ``doctor``
    removes it with them.

    Args:
        model: The model.

    Returns:
        What computes logits and features on as many threads as PyTorch has now.

    Raises:
        DataError: The prepared network cannot be written or read.
        ModelError: The integers move a probability of a drawn X-ray by more than is computed again.
        UsageError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError:
        raise UsageError(
            "precision 'int8' needs ONNX Runtime: pip install 'pneumonia[onnx]'"
        ) from None
    file = default_folder() / f"int8-{_key(model)}.onnx"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                _prepare(model, file)
            os.utime(file)  # 'doctor' removes the least recently used ones
    except OSError as error:
        raise DataError(
            f"cannot write {str(file)!r}: {error.strerror or error}. Free some disk, or set "
            "PNEUMONIA_CACHE to another folder"
        ) from None
    try:
        return _session(file)
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise DataError(
            f"cannot read the prepared network {str(file)!r}: delete it, and it is made again"
        ) from error


def _key(model: LoadedModel) -> str:
    """Digest of the weights and of what else decides what the prepared network is."""
    versions = (__version__, torch.__version__, metadata.version("onnxruntime"))
    digest = hashlib.sha256(repr((model.config, *versions, _narrow_weights())).encode())
    for name, tensor in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _narrow_weights() -> bool:
    """Whether sums of products may overflow 16 bits, as on x86 processors without VNNI."""
    has = torch.cpu.get_capabilities()
    vnni = has.get("avx512_vnni") or has.get("avx_vnni") or has.get("amx_int8")
    return has.get("architecture") == "x86_64" and not vnni


def _prepare(model: LoadedModel, file: Path) -> None:
    import onnx
    from onnxruntime import quantization

    class Drawn(quantization.CalibrationDataReader):  # type: ignore[misc] # it is untyped
        def __init__(self) -> None:
            self.batches: Iterator[torch.Tensor] = iter(grey.split(_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"grey": batch.numpy()}

    log.info("preparing %s in int8, which is done once", model.uri)
    grey = _drawn_xrays(model.config.image_size)
    network = _WithFeatures(model.network, model.config.gate_layer).eval()
    graph = onnx_graph(network, grey[:2], _OUTPUTS)
    with TemporaryDirectory() as folder:
        exact, folded = Path(folder) / "exact.onnx", Path(folder) / "folded.onnx"
        onnx.save(graph, exact)
        # Symbolic shapes are for transformers, and are not found in an ensemble.
        quantization.shape_inference.quant_pre_process(exact, folded, skip_symbolic_shape=True)
        with atomic_write(file) as unfinished:
            quantization.quantize_static(
                folded,
                unfinished,
                Drawn(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                reduce_range=_narrow_weights(),
                op_types_to_quantize=_QUANTISED,
            )
            _refuse_if_inexact(model, grey, _session(unfinished))


def _refuse_if_inexact(model: LoadedModel, grey: torch.Tensor, forward: Forward) -> None:
    with torch.inference_mode():
        logits = [model.network(network_input(batch)) for batch in grey.split(_BATCH)]
    exact, rounded = (
        model.config.scaling.probabilities(torch.cat(parts).double())
        for parts in (logits, [forward(batch)[0] for batch in grey.split(_BATCH)])
    )
    moved = float((exact - rounded).abs().max())
    if not moved < INT8_MARGIN * max(1, 1 / model.config.temperature):
        raise ModelError(
            f"precision 'int8' moves probabilities of {model.uri!r} by up to {moved:.2f}: use "
            "another"
        )


def _session(file: Path) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would keep the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, features = session.run(_OUTPUTS, {"grey": grey.float().numpy()})
        return torch.from_numpy(logits), torch.from_numpy(features)

    return forward


def _drawn_xrays(side: int) -> torch.Tensor:
    """Synthetic X-rays, half of them with pneumonia, float32 (n, side, side), 0–255."""
    rng = np.random.default_rng(0)
    drawn = [
        draw_xray(rng, size=_DRAWN_SIDE, anatomy=Anatomy.draw(rng), pneumonia=n % 2 == 1, focal=0.5)
        for n in range(_DRAWN)
    ]
    resized = [np.asarray(Image.fromarray(pixels).resize((side, side))) for pixels, _ in drawn]
    return torch.from_numpy(np.stack(resized)).float()
