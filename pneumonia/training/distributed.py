"""One network trained by several processes, which torchrun starts on one machine or on many."""

import copy
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import Store  # type: ignore[attr-defined]  # documented
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from pneumonia.errors import TrainingError, UsageError
from pneumonia.training.batch_norm import with_global_batch_norm

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others, one of which may still decode images or log an epoch."""
_FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train one network together, as one of them sees it. Alone by default.

    Each rank holds the whole network and all images, and takes its share of every batch. But for
    those that say otherwise, all ranks must call a method, at the same point of the program.

    Attributes:
        rank: Which process this is, from 0.
        size: How many there are (the world size).
        local_rank: Which process on its machine this is, from 0.
        store: Where they leave word for each other; None until they have joined.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone logs, writes and talks. For any rank to ask."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """How many images of each batch a rank takes. For any rank to ask.

        Raises:
            UsageError: Ranks cannot have equally many.
        """
        if batch_size % self.size:
            nearest = self.size * max(1, round(batch_size / self.size))
            raise UsageError(
                f"batch_size = {batch_size} cannot be shared equally by {self.size} processes: "
                f"use --batch-size {nearest}"
            )
        return batch_size // self.size

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's part of a batch (…, B): consecutive images, (…, B / size)."""
        return batch.chunk(self.size, dim=-1)[self.rank]

    def replica(self, network: nn.Module) -> nn.Module:
        """What to call in place of a network to train it on every rank's share of a batch.

        Gradients are the mean of the ranks', and batch statistics those of the whole batch. The
        network stays a plain one: the replica has its very parameters and buffers.
        """
        if self.size == 1:
            return network
        kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        twin = copy.deepcopy(network, kept)
        device = next(network.parameters()).device
        return DistributedDataParallel(
            with_global_batch_norm(twin, self.rank, self.size, device),
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,  # they are the same on all ranks
        )

    def any_of(self, *, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over ranks of a tensor, element by element."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def gather(self, value: Any) -> list[Any]:
        """Everyone's value, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def fail_on_all_ranks(self) -> Iterator[None]:
        """Within the block, one rank's error is every rank's: the others raise it as their own.

        Raises:
            TrainingError: Another rank has failed.
        """
        try:
            yield
        except BaseException as error:
            if self.store is None:
                raise
            # torchrun ends the other ranks once one has ended: let them log the reason first.
            _set_signal_handler(signal.SIG_IGN)
            if isinstance(error, KeyboardInterrupt):
                raise
            if _is_lost_connection(error):
                raise TrainingError(self._failure(str(error))) from error
            with suppress(distributed.DistError):  # the machine that keeps the store may be gone
                self.store.set(_FAILURE, f"rank {self.rank} of {self.size} failed: {error}")
            raise

    def _failure(self, seen_here: str) -> str:
        """Why another rank failed: in its own words, or as seen here if it left none."""
        assert self.store is not None
        with suppress(distributed.DistError):
            if self.store.check([_FAILURE]):
                return self.store.get(_FAILURE).decode()
        return f"another rank ended or cannot be reached: see torchrun's report ({seen_here})"


ALONE = Ranks()


def torchrun_ranks() -> Ranks:
    """The ranks as torchrun tells each process by its environment; alone without torchrun."""
    if not distributed.is_torchelastic_launched():
        return ALONE
    rank, size, local_rank = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    )
    return Ranks(rank, size, local_rank)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Wait until all processes that torchrun started are here, and keep them joined in the block.

    They talk by NCCL about tensors on GPUs, and by gloo about those on CPUs. From here on SIGINT
    and SIGTERM raise KeyboardInterrupt.

    Args:
        device: Where this process's network lives.
    """
    ranks = torchrun_ranks()
    if ranks.size == 1:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Python's own handlers would not run before the other ranks are here.
    _set_signal_handler(signal.SIG_DFL)
    store, *_ = next(rendezvous("env://", timeout=_PATIENCE))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=_PATIENCE,
    )
    _set_signal_handler(signal.default_int_handler)
    try:
        yield replace(ranks, store=store)
    finally:
        distributed.destroy_process_group()


def _set_signal_handler(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _is_lost_connection(error: BaseException) -> bool:
    # Gloo's errors have no type of their own.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
