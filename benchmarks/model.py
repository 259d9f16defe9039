"""The model and the images that a benchmark uses where it is given none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pneumonia.data.demo import write_demo_set
from pneumonia.workflows.train import train


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a model, its store, and images."""
    for option in (
        click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path)),
        click.option("--tracking-uri", default="sqlite:///mlflow.db", show_default=True),
        click.option(
            "--model-uri", help="A registered model; by default one trained on synthetic images."
        ),
    ):
        command = option(command)
    return command


def model_and_images(
    folder: Path, model_uri: str | None, tracking_uri: str, images: Path | None, patients: int
) -> tuple[str, str, Path]:
    """What was named, or synthetic images, and a network trained on them for an epoch.

    Args:
        folder: Where to make what was not named.
        model_uri: A registered model.
        tracking_uri: Its store.
        images: A folder.
        patients: How many the synthetic set has.

    Returns:
        The model's URI, its store, and the images.
    """
    if images is None:
        images = folder / "demo"
        write_demo_set(images, patients=patients, size=256)
    if model_uri is None:
        tracking_uri = f"sqlite:///{folder}/mlflow.db"
        result = train(
            data=str(images), tracking_uri=tracking_uri, epochs=1, image_size=80, batch_size=8
        )
        assert result is not None
        model_uri = result.model_uri
    return model_uri, tracking_uri, images
