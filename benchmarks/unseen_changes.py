"""How trained networks hold under changes of images that no recipe here trains with.

python -m benchmarks.unseen_changes --data chest_xray --split val models:/resnet34/1

A recipe that trains with crops, exposure, blur, noise and borders has seen much of the stress test
before. These changes are of other kinds, so they tell how far a recipe's gain reaches.
"""

from collections.abc import Mapping
from functools import partial

import click
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.report import Figure, report
from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import Images, find_readable, images_of
from pneumonia.evaluation.stress import Change, score_under_changes
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.models import load_model
from pneumonia.tracking.store import connect
from pneumonia.training.device import Engine, choose_engine


def _whole(levels: torch.Tensor) -> torch.Tensor:
    """Grey levels as whole numbers, uint8 (B, 1, H, W), as torchvision takes them."""
    return levels.round().clamp(0, 255).to(torch.uint8).unsqueeze(1)


def _back(images: torch.Tensor) -> torch.Tensor:
    """Grey levels, float32 (B, H, W), from images (B, 1, H, W)."""
    return images.squeeze(1).float()


def _equalised(levels: torch.Tensor) -> torch.Tensor:
    return _back(functional.equalize(_whole(levels)))


def _posterised(levels: torch.Tensor) -> torch.Tensor:
    return _back(functional.posterize(_whole(levels), bits=3))


def _sharpened(levels: torch.Tensor) -> torch.Tensor:
    return _back(functional.adjust_sharpness(_whole(levels), 4.0))


def _sheared(levels: torch.Tensor, *, degrees: float) -> torch.Tensor:
    moved = functional.affine(
        levels.unsqueeze(1),
        angle=0,
        translate=[0, 0],
        scale=1,
        shear=[degrees, 0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    return _back(moved)


def _bent(levels: torch.Tensor) -> torch.Tensor:
    """Move the rows and columns by waves of 3 % of the side."""
    across, down = _positions(levels)
    grid = torch.stack(
        [across + 0.06 * torch.sin(5 * down), down + 0.06 * torch.sin(4 * across)], dim=-1
    )
    bent = torch.nn.functional.grid_sample(
        levels.unsqueeze(1), grid.expand(len(levels), -1, -1, -1), align_corners=False
    )
    return bent.squeeze(1)


def _uneven(levels: torch.Tensor) -> torch.Tensor:
    """Make the left darker and the right lighter, by up to 40 %."""
    across, _ = _positions(levels)
    return levels * (1 + 0.4 * across)


def _vignetted(levels: torch.Tensor) -> torch.Tensor:
    """Make the corners darker, by up to 80 %."""
    across, down = _positions(levels)
    return levels * (1 - 0.4 * (across**2 + down**2))


def _without_corners(levels: torch.Tensor) -> torch.Tensor:
    """Make triangles at the corners black, as a collimator does."""
    across, down = _positions(levels)
    return torch.where(across.abs() + down.abs() < 1.5, levels, 0.0)


def _marked(levels: torch.Tensor) -> torch.Tensor:
    """Put a white mark at an upper corner, of a tenth of the side."""
    across, down = _positions(levels)
    mark = ((across - 0.75).abs() < 0.1) & ((down + 0.8).abs() < 0.1)
    return torch.where(mark, 255.0, levels)


def _white_border(levels: torch.Tensor) -> torch.Tensor:
    across, down = _positions(levels)
    return torch.where((across.abs() < 0.88) & (down.abs() < 0.88), levels, 255.0)


def _impulses(levels: torch.Tensor) -> torch.Tensor:
    """Make 3 % of the pixels black or white, as ImageNet-C does at severity 1."""
    drawn = torch.rand(levels.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(drawn < 0.015, 0.0, torch.where(drawn > 0.985, 255.0, levels))


def _motion(levels: torch.Tensor) -> torch.Tensor:
    """Blur along the rows, over 6 % of the side."""
    reach = max(1, round(0.03 * levels.shape[-1]))
    padded = torch.nn.functional.pad(levels.unsqueeze(1), [reach, reach, 0, 0], mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, (1, 2 * reach + 1), stride=1).squeeze(1)


def _saturated(levels: torch.Tensor) -> torch.Tensor:
    """Cut off the darkest and the lightest tenth of each image, as a narrow window does."""
    flat = levels.flatten(1)
    low, high = (flat.quantile(share, dim=1).view(-1, 1, 1) for share in (0.1, 0.9))
    return (levels - low) / (high - low).clamp(min=1) * 255


def _positions(levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel is across and down, from -1 to 1, (H, W) each."""
    down, across = torch.meshgrid(
        *((torch.arange(n) + 0.5) / n * 2 - 1 for n in levels.shape[1:]), indexing="ij"
    )
    return across, down


_CHANGES: Mapping[str, Change] = {
    "equalised": _equalised,
    "saturated": _saturated,
    "posterised": _posterised,
    "sharpened": _sharpened,
    "uneven light": _uneven,
    "dark corners": _vignetted,
    "corners cut": _without_corners,
    "white mark": _marked,
    "white border": _white_border,
    "impulse noise": _impulses,
    "motion blur": _motion,
    "sheared left": partial(_sheared, degrees=12),
    "sheared right": partial(_sheared, degrees=-12),
    "bent": _bent,
}


@click.command()
@click.option("--data", required=True, help="Data set folder.")
@click.option("--split", default="val", show_default=True, help="Folder of it, or 'all'.")
@click.argument("models", nargs=-1, required=True)
def main(data: str, split: str, models: tuple[str, ...]) -> None:
    """Score models on labelled images as they are and under each change."""
    connect()
    engine = choose_engine("auto", "fp32")
    figures = []
    for uri in models:
        model = load_model(uri)
        only = None if split == "all" else {split}
        settings = DataSettings(data=data, classes=",".join(model.config.class_names))
        _, found, cache = find_readable(settings, model.config.preprocessing, None, only)
        images = images_of([image for image in found.images if split in {"all", image.part}], cache)
        figures += _figures(uri, model, images, engine)
    report("unseen_changes", figures, data=data, split=split)


def _figures(uri: str, model: LoadedModel, images: Images, engine: Engine) -> list[Figure]:
    scored = score_under_changes(model.network, images, engine, _CHANGES)
    calibrated, threshold = scored.calibrated(model.config.scaling), model.config.threshold
    for row in calibrated.table(threshold):
        numbers = f"{row['auc']:.4f}  {row['balanced_accuracy']:.3f}"
        click.echo(f"{uri}  {row['change']:13}  {numbers}", err=True)
    return [
        Figure(f"{uri}: {name.replace('_', ' ')}", [value])
        for name, value in calibrated.summary(threshold).items()
    ]


if __name__ == "__main__":
    main()
