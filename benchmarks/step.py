"""The network step against the machine: its FLOP/s over those of matrix products, in turns.

python -m benchmarks.step --network resnet34
"""

import time

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Figure, ratios, report
from benchmarks.throughput import bare_step, steps_per_second
from pneumonia.config.experiment import load_experiment
from pneumonia.training.device import Engine, choose_engine

_SIDE = 2048


def matmul_flops_per_second(engine: Engine, n: int = 8) -> float:
    """Rate of products of square matrices in the engine's precision."""
    left, right = torch.randn(2, _SIDE, _SIDE, device=engine.device)
    with engine.autocast():
        product = left @ right
        left, right = left.to(product.dtype), right.to(product.dtype)
        started = time.perf_counter()
        for _ in range(n):
            product = left @ right
    product.sum().item()  # waits for the device
    return n * 2 * _SIDE**3 / (time.perf_counter() - started)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", type=int, help="Side; the experiment's own by default.")
@click.option("--batch-size", type=int, help="Images a step; the experiment's own by default.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--steps", default=10, show_default=True, help="Steps a turn.")
@click.option("--repeats", default=5, show_default=True, help="Turns of each.")
def main(
    network: str,
    image_size: int | None,
    batch_size: int | None,
    precision: str,
    steps: int,
    repeats: int,
) -> None:
    """Count the step's operations (convolutions and matrix products), and time both."""
    asked = {"image_size": image_size, "batch_size": batch_size}
    settings = load_experiment(network, {k: v for k, v in asked.items() if v}).training
    engine = choose_engine("auto", precision)
    step = bare_step(settings, engine)
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    network_rate, matmul_rate = [], []
    for _ in range(repeats):
        matmul_rate.append(matmul_flops_per_second(engine))
        network_rate.append(flops * steps_per_second(step, steps))
    report(
        "step",
        [
            Figure("step", [rate / 1e9 for rate in network_rate], "GFLOP/s"),
            Figure("matrix products", [rate / 1e9 for rate in matmul_rate], "GFLOP/s"),
            Figure(
                "step over products",
                ratios(network_rate, matmul_rate),
                limit=">= 0.9 for resnet34 on the CPU",
            ),
        ],
        network=network,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        precision=engine.precision,
        gigaflops_a_step=round(flops / 1e9, 1),
    )


if __name__ == "__main__":
    main()
