"""A first layer that removes differences in brightness and contrast between images.

This module's source travels with every logged model, after that of the preprocessing.
"""

import torch
from torch import nn

from pneumonia.data.decode import IMAGENET_MEAN, IMAGENET_STD

# Pixels of 0-2 and of 253-255 do not count: borders and marks are no part of the exposure.
_BLACK, _WHITE = 2.5 / 255, 252.5 / 255
_LEAST_DEVIATION = 4 / 255
_LARGEST = 2.5
"""Values are cut off at so many standard deviations from the mean."""


class Standardise(nn.Module):
    """Gives the pixels of each image a mean of 0 and a standard deviation of 1.

    The mean and the standard deviation are those of the pixels that are neither black nor white.
    Images that differ in brightness and contrast alone are then equal, but for grey levels that
    were cut off. It has no parameters. Its constants were chosen, not tuned.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Standardise images, float (B, 3, H, W), as ``network_input`` gives them.

        Returns:
            float32 (B, 3, H, W) from -2.5 to 2.5, the three channels equal, in channels_last
            memory order.
        """
        grey = images[:, :1].float() * IMAGENET_STD[0] + IMAGENET_MEAN[0]  # (B, 1, H, W), 0-1
        counted = ((grey > _BLACK) & (grey < _WHITE)).float()
        n_counted = counted.sum(dim=(2, 3), keepdim=True).clamp(min=1)  # (B, 1, 1, 1)
        mean = (grey * counted).sum(dim=(2, 3), keepdim=True) / n_counted
        variance = ((grey - mean).square() * counted).sum(dim=(2, 3), keepdim=True) / n_counted
        deviation = variance.sqrt().clamp(min=_LEAST_DEVIATION)
        standard = ((grey - mean) / deviation).clamp(-_LARGEST, _LARGEST)
        return standard.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
