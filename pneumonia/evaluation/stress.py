"""A network under a fixed battery of changes to its validation images.

Images from another hospital or another year differ in framing, exposure and quality. A random
validation split does not: networks that it cannot tell apart differ under such changes, and on such
images (D'Amour et al. 2022, stress tests for underspecification). Kinds of change that ImageNet-C
has bear its names, with spaces, and its severities (Hendrycks & Dietterich 2019).
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from pneumonia.data.dataset import Images
from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.calibration import scaled
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.predict import probabilities
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.training.device import Engine

CLEAN = "clean"
"""The name of the images as they are."""

IMAGES_A_CLASS = 150
"""Images of each class that are changed, at most; all of them would take as long as an epoch."""

_BATCH_SIZE = 128

Change = Callable[[torch.Tensor], torch.Tensor]
"""From grey levels 0–255, float32 (B, H, W), to such."""


@dataclass(frozen=True, slots=True)
class StressTest:
    """Probabilities of the same images, as they are and under each change.

    Attributes:
        truth: 0 negative, 1 positive, int64 (n,).
        patients: Whom each image shows (n).
        probabilities: Probability of the positive class, float64 (n,), by name of the change;
            ``clean`` is the first.
    """

    truth: Labels
    patients: tuple[str, ...]
    probabilities: Mapping[str, Probabilities]

    def stacked(self) -> NDArray[np.float64]:
        """All probabilities, float64 (k, n), the clean ones first."""
        return np.stack(list(self.probabilities.values()))

    def calibrated(self, scaling: LogitScaling) -> "StressTest":
        """The same, with scaled logits."""
        values = {name: scaled(p, scaling) for name, p in self.probabilities.items()}
        return replace(self, probabilities=values)

    @classmethod
    def joined(cls, parts: Sequence["StressTest"]) -> "StressTest":
        """The images of several stress tests, such as those of folds, in one."""
        return cls(
            np.concatenate([part.truth for part in parts]),
            tuple(patient for part in parts for patient in part.patients),
            {
                name: np.concatenate([part.probabilities[name] for part in parts])
                for name in parts[0].probabilities
            },
        )

    def table(self, threshold: float = 0.5) -> list[dict[str, float | str]]:
        """A row a change: its name, AUC, balanced accuracy, sensitivity and specificity."""
        return [
            {"change": name, **self._metrics(probability, threshold)}
            for name, probability in self.probabilities.items()
        ]

    def summary(self, threshold: float = 0.5) -> dict[str, float]:
        """Worst and mean AUC and balanced accuracy over the changes, as ``auc_worst`` etc."""
        rows = [row for row in self.table(threshold) if row["change"] != CLEAN]
        result = {}
        for metric in ("auc", "balanced_accuracy"):
            values = [float(row[metric]) for row in rows]
            result[f"{metric}_worst"] = min(values)
            result[f"{metric}_mean"] = float(np.mean(values))
        return result

    def _metrics(self, probability: Probabilities, threshold: float) -> dict[str, float]:
        called = decide(probability, threshold)
        sensitivity = float(called[self.truth == 1].mean())
        specificity = 1 - float(called[self.truth == 0].mean())
        return {
            "auc": float(roc_auc_score(self.truth, probability)),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
        }


def run_stress_test(network: torch.nn.Module, images: Images, engine: Engine) -> StressTest:
    """Score a network on images as they are and under each of ``CHANGES``.

    Args:
        network: The network, in evaluation mode and on the engine's device.
        images: Labelled images of both classes. As many of each class are used as the rarer one
            has, and at most ``IMAGES_A_CLASS``.
        engine: The device and precision.
    """
    chosen = images.part(_as_many_of_each_class(images.labels.cpu()))
    return score_under_changes(network, chosen, engine, CHANGES)


def score_under_changes(
    network: torch.nn.Module, images: Images, engine: Engine, changes: Mapping[str, Change]
) -> StressTest:
    """Score a network on all images as they are and under each change.

    Args:
        network: The network, in evaluation mode and on the engine's device.
        images: Labelled images.
        engine: The device and precision.
        changes: What to do to the images, by name.
    """
    scored = {CLEAN: _score(network, images, lambda levels: levels, engine)}
    scored |= {name: _score(network, images, change, engine) for name, change in changes.items()}
    patients = tuple(file.patient.key for file in images.files)
    return StressTest(images.labels.cpu().numpy(), patients, scored)


def _as_many_of_each_class(labels: torch.Tensor) -> torch.Tensor:
    """Positions of equally many images of each class, drawn with a fixed seed, int64 (n,)."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = [order[labels[order] == label] for label in (0, 1)]
    n = min(IMAGES_A_CLASS, *map(len, by_class))
    return torch.cat([positions[:n] for positions in by_class]).sort().values


def _score(
    network: torch.nn.Module, images: Images, change: Change, engine: Engine
) -> Probabilities:
    scored = []
    for positions in torch.arange(len(images)).split(_BATCH_SIZE):
        grey = images.batch(positions.to(images.rows.device))[0]  # (B, H, W)
        changed = change(grey.to(torch.float32)).round().clamp(0, 255)
        scored.append(probabilities(network, changed, engine).cpu().numpy())
    return np.concatenate(scored)


def _cropped(
    levels: torch.Tensor,
    *,
    top: float = 0,
    bottom: float = 0,
    left: float = 0,
    right: float = 0,
) -> torch.Tensor:
    """Cut shares of the sides off, and stretch what is left to the square."""
    side = levels.shape[-1]
    rows = slice(round(top * side), side - round(bottom * side))
    columns = slice(round(left * side), side - round(right * side))
    return _resized(levels[:, rows, columns], side)


def _zoomed_out(levels: torch.Tensor, *, border: float) -> torch.Tensor:
    """Put a black border around, each side a share of the whole."""
    side = levels.shape[-1]
    return _resized(functional.pad(levels, [round(border * side)] * 4), side)


def _masked(levels: torch.Tensor, *, border: float) -> torch.Tensor:
    """Make a border black, each side a share of the whole."""
    width = max(1, round(border * levels.shape[-1]))
    inside = levels[:, width:-width, width:-width]
    return functional.pad(inside, [width] * 4)


def _gamma(levels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    return levels.div(255).pow(gamma).mul(255)


def _contrast(levels: torch.Tensor, *, factor: float) -> torch.Tensor:
    mean = levels.mean(dim=(1, 2), keepdim=True)
    return (levels - mean) * factor + mean


def _brightness(levels: torch.Tensor, *, by: float) -> torch.Tensor:
    return levels + by * 255


def _pixelate(levels: torch.Tensor, *, share: float) -> torch.Tensor:
    """Store at a share of the resolution."""
    side = levels.shape[-1]
    return _resized(_resized(levels, max(1, round(share * side))), side)


def _gaussian_noise(levels: torch.Tensor, *, deviation: float) -> torch.Tensor:
    noise = torch.randn(levels.shape, generator=torch.Generator().manual_seed(0))
    return levels + noise.to(levels.device) * deviation * 255


def _gaussian_blur(levels: torch.Tensor, *, share: float) -> torch.Tensor:
    """Blur with a standard deviation of a share of the side."""
    sigma = share * levels.shape[-1]
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, device=levels.device)
    kernel = torch.exp(-((at / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    padded = functional.pad(levels.unsqueeze(1), [reach] * 4, mode="replicate")
    down = functional.conv2d(padded, kernel)
    return functional.conv2d(down, kernel.transpose(2, 3)).squeeze(1)


def _jpeg(levels: torch.Tensor, *, quality: int) -> torch.Tensor:
    decoded = []
    for grey in levels.round().clamp(0, 255).to(torch.uint8).cpu().numpy():
        encoded = io.BytesIO()
        Image.fromarray(grey).save(encoded, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(encoded), dtype=np.float32))
    return torch.from_numpy(np.stack(decoded)).to(levels.device)


def _resized(levels: torch.Tensor, side: int) -> torch.Tensor:
    resized = functional.interpolate(
        levels.unsqueeze(1), (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.squeeze(1)


CHANGES: Mapping[str, Change] = {
    # Framing, of which ImageNet-C has none.
    "centre 0.8": partial(_cropped, top=0.1, bottom=0.1, left=0.1, right=0.1),
    "centre 0.65": partial(_cropped, top=0.175, bottom=0.175, left=0.175, right=0.175),
    "zoom out": partial(_zoomed_out, border=0.1),
    "height 0.75": partial(_cropped, top=0.125, bottom=0.125),
    "width 0.75": partial(_cropped, left=0.125, right=0.125),
    "top cropped": partial(_cropped, top=0.2),
    "bottom cropped": partial(_cropped, bottom=0.2),
    "left cropped": partial(_cropped, left=0.15),
    "right cropped": partial(_cropped, right=0.15),
    "border masked": partial(_masked, border=0.1),
    # Exposure; brightness at severity 2, contrast at 1.
    "gamma 0.6": partial(_gamma, gamma=0.6),
    "gamma 1.6": partial(_gamma, gamma=1.6),
    "contrast": partial(_contrast, factor=0.4),
    "brightness": partial(_brightness, by=0.2),
    "darkness": partial(_brightness, by=-0.2),
    # Quality; pixelate at severity 2, noise and JPEG at 1. The blur is relative to the side.
    "gaussian blur": partial(_gaussian_blur, share=0.012),
    "pixelate": partial(_pixelate, share=0.5),
    "gaussian noise": partial(_gaussian_noise, deviation=0.08),
    "jpeg compression": partial(_jpeg, quality=25),
}
"""Each change by name. Crops are shares of the side, and noise and brightness of the range."""
