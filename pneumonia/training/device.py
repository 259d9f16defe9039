"""What the device can do: which one, in which precision, and how much it can hold."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from pneumonia.errors import DeviceError, UsageError
from pneumonia.training.distributed import torchrun_ranks

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Engine:
    """A device and the precision to compute in.

    Attributes:
        device: Where tensors live.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager[None]:
        """Compute convolutions and matrix products in the chosen precision."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type,
            dtype=_PRECISIONS.get(self.precision, torch.bfloat16),
            enabled=self.precision in _PRECISIONS,
        )
        return context

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """Keep fp16 gradients from vanishing; does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


def choose_engine(device: str, precision: str) -> Engine:
    """Choose the device and precision asked for, or the best there is where ``auto``.

    Under torchrun each process has a GPU of its own.

    Raises:
        UsageError: What was asked for is not on this machine, or is one GPU too few.
    """
    ranks = torchrun_ranks()
    chosen = torch.device(_best_device(ranks.size) if device == "auto" else device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' is not available here: use --device auto or cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not available here: use --device auto or cpu")
    if chosen.type == "mps" and ranks.size > 1:
        raise UsageError("device 'mps' cannot be shared by processes: use --device cpu")
    if chosen.type == "cuda" and ranks.size > 1:
        n_gpus = torch.cuda.device_count()
        if ranks.local_rank >= n_gpus:
            raise UsageError(
                f"process {ranks.local_rank} of this machine has no GPU of its own, for it has "
                f"{n_gpus}: use --nproc-per-node {n_gpus}"
            )
        chosen = torch.device("cuda", ranks.local_rank)
    if chosen.type == "cuda":
        # torch's default for convolutions is TF32, which rounds inputs to 10 bits.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    if precision == "auto":
        precision = "bf16" if _fast_bf16(chosen) else "fp32"
    if precision == "fp16" and chosen.type == "cpu":
        raise UsageError("precision 'fp16' needs a GPU: use --precision auto, bf16 or fp32")
    return Engine(chosen, precision)


@contextmanager
def out_of_memory_as_error(device: torch.device, remedy: str) -> Iterator[None]:
    """Say in one line that the device ran out of memory within the block, and what to do.

    Moving a network or images to the device belongs into the block too.

    Raises:
        DeviceError: The device is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device} is out of memory: {remedy}") from error


def _best_device(n_processes: int) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and n_processes == 1 else "cpu"


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Without these instructions bf16 is emulated, and slower than fp32.
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_tile"))
    return False
