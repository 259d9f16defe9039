"""Where Grad-CAM of each layer points, on demo images whose opacities are known.

python -m benchmarks.explanation --network resnet34
"""

import json
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Figure, report
from pneumonia.config.experiment import load_experiment
from pneumonia.data.dataset import Images, load_data_set, preprocessing_of
from pneumonia.evaluation.grad_cam import grad_cam
from pneumonia.training.loop import train

_LAYERS = {
    "resnet34": ("layer4", "layer3", "layer2"),
    "simple_cnn": ("features.10", "features.7", "features.4"),
}


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--epochs", default=None, type=int, help="By default those of the demo experiment.")
def main(network: str, epochs: int | None) -> None:
    """Train on the demo set; then tell for each layer the share of maps that point at an opacity.

    A map points at one if its highest value lies within the opacity's radius (the pointing game of
    Zhang et al. 2018); the share of its heat that lies there is given too.
    """
    chosen = {"network": network} | ({} if epochs is None else {"epochs": epochs})
    experiment = load_experiment("demo", chosen)
    settings = experiment.training
    data = load_data_set(experiment.data, preprocessing_of(settings))
    images = data.open(preprocessing_of(settings))
    trained = train(settings, images, lambda _epoch: None)
    test = images["test"]
    sick = test.part((test.labels == 1).nonzero().flatten())
    inside = _opacities(sick, data.root, settings.image_size)
    grey = sick.batch(torch.arange(len(sick)))[0]  # (B, H, W)
    figures = [Figure("chance: the opacities' share of the area", [float(inside.mean())])]
    for layer in _LAYERS[network]:
        heat = grad_cam(trained.network, [layer], grey)
        highest = heat.reshape(len(heat), -1).argmax(axis=1)
        points_inside = inside.reshape(len(heat), -1)[np.arange(len(heat)), highest]
        total = heat.sum(axis=(1, 2))
        shares = (heat * inside).sum(axis=(1, 2)) / np.where(total > 0, total, 1)
        figures.append(Figure(f"{layer}: points at an opacity", [float(points_inside.mean())]))
        figures.append(Figure(f"{layer}: share of the heat inside", [float(shares.mean())]))
    best = round(trained.best["val/auc"], 4)
    report("explanation", figures, network=network, images=len(sick), validation_auc=best)


def _opacities(images: Images, root: Path, side: int) -> NDArray[np.bool_]:
    """Where each image's opacities are, bool (B, side, side)."""
    known = json.loads((root / "opacities.json").read_text(encoding="utf-8"))
    down, right = (np.mgrid[:side, :side] + 0.5) / side
    maps = np.zeros((len(images), side, side), dtype=bool)
    for position, file in enumerate(images.files):
        for opacity in known[file.path.relative_to(root).as_posix()]:
            across, along = right - opacity["centre_x"], down - opacity["centre_y"]
            maps[position] |= across**2 + along**2 <= opacity["radius"] ** 2
    return maps


if __name__ == "__main__":
    main()
