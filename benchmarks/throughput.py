"""Training through the whole pipeline against the bare network step, in turns, in one process.

python -m benchmarks.throughput --network resnet34 --data chest_xray
"""

import time
from collections.abc import Callable

import click
import torch
from torch.nn import functional

from benchmarks.report import Figure, ratios, report
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.loop import train
from pneumonia.training.schedule import averaged, build_optimizer
from pneumonia.training.setup import build_network


def bare_step(
    settings: TrainingSettings, engine: Engine, compile_mode: str = ""
) -> Callable[[], torch.Tensor]:
    """The step alone, as the settings want it, on random tensors in memory; it gives the loss.

    Args:
        settings: The network, its input and its optimizer.
        engine: Where to compute.
        compile_mode: A mode of ``torch.compile``; empty runs the network eagerly.
    """
    network = build_network(settings).to(engine.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, settings)
    side = settings.image_size
    pixels = torch.randn(settings.batch_size, 3, side, side, device=engine.device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # (B, 3, H, W)
    labels = torch.randint(0, 2, (settings.batch_size,), device=engine.device)
    average = averaged(network, settings.ema) if settings.ema else None
    network.train()
    if compile_mode:
        network.compile(mode=compile_mode)

    def step() -> torch.Tensor:
        with engine.autocast():
            logits = network(pixels)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
        return loss

    step(), step()  # the first ones choose kernels
    return step


def steps_per_second(step: Callable[[], torch.Tensor], n_steps: int) -> float:
    """How often a second a step is done."""
    started = time.perf_counter()
    for _ in range(n_steps):
        loss = step()
    loss.item()  # waits for the device
    return n_steps / (time.perf_counter() - started)


def bare_images_per_second(settings: TrainingSettings, engine: Engine, n_steps: int) -> float:
    """Images a second of the bare step."""
    return settings.batch_size * steps_per_second(bare_step(settings, engine), n_steps)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--subset", default=0.2, show_default=True, help="Share of the data an epoch takes.")
@click.option("--repeats", default=5, show_default=True, help="Turns of each.")
def main(network: str, data: str, subset: float, repeats: int) -> None:
    """Compare the pipeline with the bare step, as the network's experiment trains it."""
    settings = load_experiment(network, {"epochs": 1}).training
    engine = choose_engine("auto", "auto")
    loaded = load_data_set(DataSettings(data=data, subset=subset), preprocessing_of(settings))
    images = loaded.open(preprocessing_of(settings))
    n_steps = len(images["train"]) // settings.batch_size
    bare, pipeline = [], []
    for _ in range(repeats):
        bare.append(bare_images_per_second(settings, engine, n_steps))
        history = train(settings, images, lambda _epoch: None).history
        pipeline.append(history[-1]["speed/images_per_second"])
    report(
        "throughput",
        [
            Figure("bare step", bare, "images/s"),
            Figure("pipeline", pipeline, "images/s"),
            Figure(
                "pipeline over bare step",
                ratios(pipeline, bare),
                limit=">= 0.97 on the CPU, >= 0.95 on a GPU",
            ),
        ],
        network=network,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        precision=engine.precision,
        data=data,
        images=len(images["train"]),
    )


if __name__ == "__main__":
    main()
