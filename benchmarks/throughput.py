"""Training through the whole pipeline against the bare network step, in turns, in one process.

python -m benchmarks.throughput --network resnet34 --image-size 128 --data chest_xray
"""

import statistics
import time

import click
import torch
from torch.nn import functional

from benchmarks.report import print_result
from pneumonia.data.dataset import load_data_set
from pneumonia.data.preprocessing import Preprocessing
from pneumonia.data.settings import DataSettings
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.loop import build_network, train
from pneumonia.training.optimisation import build_optimizer
from pneumonia.training.settings import TrainingSettings


def bare_images_per_second(settings: TrainingSettings, engine: Engine, n_steps: int) -> float:
    """Images a second of the network step alone, on random tensors already in memory."""
    network = build_network(settings).to(engine.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, settings)
    side = settings.image_size
    pixels = torch.randn(settings.batch_size, 3, side, side, device=engine.device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # (B, 3, H, W)
    labels = torch.randint(0, 2, (settings.batch_size,), device=engine.device)
    network.train()
    started = 0.0
    for step in range(n_steps + 2):
        if step == 2:  # the first steps choose kernels
            started = time.perf_counter()
        with engine.autocast():
            logits = network(pixels)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    loss.item()  # waits for the device
    return n_steps * settings.batch_size / (time.perf_counter() - started)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=128, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--data", default="demo", show_default=True)
@click.option("--steps", default=6, show_default=True, help="Steps of the bare network a turn.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
def main(
    network: str, image_size: int, batch_size: int, data: str, steps: int, repeats: int
) -> None:
    """Print both rates and their ratio, the median over turns, as JSON."""
    settings = TrainingSettings(
        network=network, image_size=image_size, batch_size=batch_size, epochs=1
    )
    engine = choose_engine("auto", "auto")
    preprocessing = Preprocessing(image_size)
    loaded = load_data_set(
        DataSettings(data=data, subset=0.15 if data != "demo" else 1.0), preprocessing
    )
    images = loaded.open(preprocessing)
    bare, pipeline = [], []
    for _ in range(repeats):
        bare.append(bare_images_per_second(settings, engine, steps))
        history = train(settings, images, lambda _epoch: None).history
        pipeline.append(history[-1]["speed/images_per_second"])
    ratios = [whole / alone for whole, alone in zip(pipeline, bare, strict=True)]
    measured = {
        "bare_images_per_second": statistics.median(bare),
        "pipeline_images_per_second": statistics.median(pipeline),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    print_result(settings, engine, measured)


if __name__ == "__main__":
    main()
