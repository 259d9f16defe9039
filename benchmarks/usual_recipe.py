"""How a chest X-ray classifier is usually trained with torchvision, to compare with.

ImageFolder reads and decodes each image anew in every epoch, torchvision's v2 transforms change it
alone, a DataLoader with two workers makes batches, and the network trains in fp32 with Adam. Tuned,
it trains in the processor's own precision, in channels-last order, with the fused optimizer.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pneumonia.data.decode import IMAGENET_MEAN, IMAGENET_STD
from pneumonia.data.folders import ImageFile
from pneumonia.networks.registry import network_named
from pneumonia.training.device import Engine

# Torch's own default for ResNet34; without batch norm it is too high.
LEARNING_RATE = {"resnet34": 1e-3, "simple_cnn": 1e-4}
DROPOUT = {"resnet34": 0.0, "simple_cnn": 0.5}
BATCH_SIZE = 32
IMAGE_SIZE = 224

Batch = tuple[torch.Tensor, torch.Tensor]


def image_folder(files: Sequence[ImageFile], folder: Path) -> Path:
    """Lay images out as ImageFolder wants them, as links: a folder a class."""
    for number, file in enumerate(files):
        link = folder / str(file.label) / f"{number}{file.path.suffix.lower()}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.path)
    return folder


def training_loader(
    folder: Path, image_size: int = IMAGE_SIZE, batch_size: int = BATCH_SIZE, workers: int = 2
) -> DataLoader[Batch]:
    """Augmented batches: float32 (B, 3, H, W) and int64 (B,)."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(image_size, scale=(0.8, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10),
            v2.ColorJitter(brightness=0.15, contrast=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = ImageFolder(folder, transform)
    return DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=True)


def scoring_transform(image_size: int = IMAGE_SIZE) -> v2.Compose:
    """Resize and normalise one image: float32 (3, H, W)."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((image_size, image_size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def build(
    name: str, image_size: int = IMAGE_SIZE, *, tuned: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network from random weights, and its optimizer."""
    network: nn.Module = network_named(name).build(image_size, DROPOUT[name])
    if tuned:
        network = network.to(memory_format=torch.channels_last)
    return network, torch.optim.Adam(network.parameters(), lr=LEARNING_RATE[name], fused=tuned)


def steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Batch],
    engine: Engine | None = None,
) -> Iterator[float]:
    """Train, epoch after epoch without end; yield each step's loss.

    Args:
        network: The network.
        optimizer: Its optimizer.
        loader: Batches of images.
        engine: The precision to train in, with images in channels-last order; None for fp32.
    """
    criterion = nn.CrossEntropyLoss()
    while True:
        for pixels, labels in loader:
            network.train()
            optimizer.zero_grad()
            if engine is None:
                loss = criterion(network(pixels), labels)
            else:
                with engine.autocast():
                    logits = network(pixels.to(memory_format=torch.channels_last))
                loss = criterion(logits.float(), labels)
            loss.backward()
            optimizer.step()
            yield loss.item()
