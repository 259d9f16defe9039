"""Batch normalisation over the images of all ranks, so that each sees the statistics of the whole.

On CUDA this is torch's own SyncBatchNorm, which refuses the CPU; there ``GlobalBatchNorm`` stands
in for it.
"""

from typing import Any

import torch
from torch import distributed, nn


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, own: torch.Tensor) -> torch.Tensor:
        whole = own.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = _SumOverRanks.apply(gradient)
        return whole


class GlobalBatchNorm(nn.Module):
    """A batch norm in training whose statistics are those of all ranks' images.

    It trains the parameters and running statistics of the layer it is made from. All ranks must
    give equally many images.
    """

    def __init__(self, plain: nn.BatchNorm2d, rank: int, size: int) -> None:
        super().__init__()
        self.plain, self.rank, self.size = plain, rank, size

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise features (B, C, …) of this rank, float32 or bfloat16."""
        plain = self.plain
        assert plain.running_mean is not None
        assert plain.running_var is not None
        assert plain.num_batches_tracked is not None
        assert plain.momentum is not None
        axes = [0, *range(2, features.ndim)]
        variance, mean = torch.var_mean(features.float(), axes, correction=0)  # (C,), (C,)
        # Only this rank's row is not 0, so the sum over ranks holds the rows of all.
        moments = mean.new_zeros(self.size, 2, len(mean))
        moments[self.rank] = torch.stack([mean, variance])
        means, variances = _SumOverRanks.apply(moments).unbind(dim=1)  # (ranks, C), (ranks, C)
        mean = means.mean(dim=0)
        # The variance of the whole: the mean within ranks, and the variance between their means.
        variance = variances.mean(dim=0) + means.var(dim=0, correction=0)
        with torch.no_grad():
            n = features.numel() // len(mean) * self.size
            plain.running_mean.lerp_(mean, plain.momentum)
            plain.running_var.lerp_(variance * n / (n - 1), plain.momentum)
            plain.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + plain.eps) * plain.weight  # (C,)
        shape = [1, -1] + [1] * (features.ndim - 2)
        shift = (plain.bias - mean * scale).view(shape)
        return torch.addcmul(shift, features.float(), scale.view(shape)).to(features.dtype)


def with_global_batch_norm(
    network: nn.Module, rank: int, size: int, device: torch.device
) -> nn.Module:
    """Replace the batch norms of a network in place; parameters and buffers stay the same ones."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, GlobalBatchNorm(module, rank, size))
    return network
