"""The first layer of networks that are to see no difference in exposure.

This module's source travels with every logged model, after that of the preprocessing.
"""

import torch
from torch import nn

from pneumonia.data.decode import IMAGENET_MEAN, IMAGENET_STD

# Half a grey level from whole ones. Black borders and white marks are no part of the exposure.
_BLACK, _WHITE = 2.5 / 255, 252.5 / 255
_LEAST_DEVIATION = 4 / 255
_LARGEST = 2.5
"""Standard deviations from the mean beyond which pixels are alike; bones are rarely so far."""


class Standardise(nn.Module):
    """Gives the pixels of each image a mean of 0 and a standard deviation of 1.

    Brightness and contrast then make no difference, whatever training has seen of them. Pixels
    that are black or white do not count.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images as ``network_input`` gives them to such of standard exposure, (B, 3, H, W)."""
        grey = images[:, :1].float() * IMAGENET_STD[0] + IMAGENET_MEAN[0]  # (B, 1, H, W), 0-1
        counted = ((grey > _BLACK) & (grey < _WHITE)).float()
        n_counted = counted.sum(dim=(2, 3), keepdim=True).clamp(min=1)  # (B, 1, 1, 1)
        mean = (grey * counted).sum(dim=(2, 3), keepdim=True) / n_counted
        variance = ((grey - mean).square() * counted).sum(dim=(2, 3), keepdim=True) / n_counted
        deviation = variance.sqrt().clamp(min=_LEAST_DEVIATION)
        standard = ((grey - mean) / deviation).clamp(-_LARGEST, _LARGEST)
        return standard.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
