"""How fast batch prediction goes from full-size image files to rows, and what memory it takes.

OMP_WAIT_POLICY=PASSIVE python -m benchmarks.prediction --images /path/to/full_size_xrays
python -m benchmarks.prediction --memory --few 1000 --many 100000 --image-size 32

`pneumonia predict` sets OMP_WAIT_POLICY itself, before it imports torch. Prediction is compared
with each of its halves alone, decoding in threads and the forward pass, and with a plain
torchvision loop. On a GPU the slower half is the limit. On a CPU both halves want the
same cores, and no order of work can beat their times added up: that is the second limit.
"""

import copy
import multiprocessing
import resource
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import click
import torch
from PIL import Image
from torch import nn

from benchmarks.cache import find_originals, in_threads, rate
from benchmarks.report import Figure, ratios, report
from benchmarks.usual_recipe import scoring_transform
from pneumonia.data.decode import decode, network_input
from pneumonia.evaluation.predict import Predictor
from pneumonia.networks.registry import network_named
from pneumonia.prediction.batch import score
from pneumonia.prediction.rows import open_writer
from pneumonia.tracking.model_files import LoadedModel, ModelConfig
from pneumonia.training.device import choose_engine

_BATCH_SIZE = 64


def build_model(network: str, image_size: int) -> LoadedModel:
    """Make a model from random weights, as if it had been read from a store."""
    config = ModelConfig(network, image_size, "stretch", ("NORMAL", "PNEUMONIA"))
    built = network_named(network).build(image_size, 0.0).eval()
    *_, weight, bias = built.parameters()
    # Sure of every image: those near the threshold would be computed again in fp32.
    nn.init.zeros_(weight)
    nn.init.constant_(bias[:1], -6.0)
    return LoadedModel(built, config, f"models:/{network}/1", run_id=None)


def predict(model: LoadedModel, files: Iterable[Path]) -> None:
    """Score files and write their rows, as the command does."""
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder, "rows.csv")) as write:
        for rows in score(model, files, batch_size=_BATCH_SIZE):
            write(rows)


def forward(predictor: Predictor, batch: torch.Tensor, n_batches: int) -> None:
    """Compute logits (B, 2) of a batch in memory (B, 3, H, W) that often, and wait for them."""
    with torch.inference_mode(), predictor.engine.autocast():
        for _ in range(n_batches):
            predictor.network(batch).cpu()


def predict_plainly(
    network: nn.Module, device: torch.device, files: Sequence[Path], image_size: int
) -> list[float]:
    """Predict as an evaluation script with torchvision does: no threads, fp32, like batches."""
    transform = scoring_transform(image_size)
    probabilities: list[float] = []
    for start in range(0, len(files), _BATCH_SIZE):
        paths = files[start : start + _BATCH_SIZE]
        pixels = [transform(Image.open(path).convert("RGB")) for path in paths]
        with torch.inference_mode():
            logits = network(torch.stack(pixels).to(device))  # (B, 2)
        probabilities += logits.softmax(dim=1)[:, 1].tolist()
    return probabilities


def measure_rates(model: LoadedModel, files: Sequence[Path], repeats: int) -> list[Figure]:
    """Predict, run each half alone and predict plainly, in turns."""
    side, n_files = model.config.image_size, len(files)
    usual = copy.deepcopy(model.network)
    predictor = Predictor(model.network, model.config.threshold, choose_engine("auto", "auto"))
    device = predictor.engine.device
    usual.to(device)
    batch = network_input(torch.randint(0, 256, (_BATCH_SIZE, side, side), device=device))
    n_batches = -(-n_files // _BATCH_SIZE)

    def decode_file(path: Path) -> object:
        return decode(path.read_bytes(), model.config.preprocessing)

    def take_turn() -> tuple[float, float, float, float]:
        return (
            rate(n_files, lambda: predict(model, files)),
            rate(n_files, lambda: in_threads(decode_file, files)),
            rate(n_batches * _BATCH_SIZE, lambda: forward(predictor, batch, n_batches)),
            rate(n_files, lambda: predict_plainly(usual, device, files, side)),
        )

    predict(model, files[:_BATCH_SIZE])  # the first batches choose kernels
    predict_plainly(usual, device, files[:1], side)
    turns = [take_turn() for _ in range(repeats)]
    whole, decoding, passing, plain = zip(*turns, strict=True)
    slower = [min(pair) for pair in zip(decoding, passing, strict=True)]
    added = [1 / (1 / a + 1 / b) for a, b in zip(decoding, passing, strict=True)]
    bound = ">= 0.9; on a CPU the halves share the cores, and the next line tells more"
    return [
        Figure("prediction, from files to rows", whole, "images/s"),
        Figure("decoding alone, all cores", decoding, "images/s"),
        Figure("forward pass alone", passing, "images/s"),
        Figure("plain torchvision loop", plain, "images/s"),
        Figure("prediction over its slower half", ratios(whole, slower), limit=bound),
        Figure("prediction over both halves in turn", ratios(whole, added), limit="about 1"),
        Figure("prediction over plain loop", ratios(whole, plain), limit=">= 3"),
    ]


def peak_megabytes(network: str, image_size: int, files: Sequence[Path], n_images: int) -> float:
    """Score that many images, the files again and again; return this process's peak memory."""
    predict(build_model(network, image_size), islice(cycle(files), n_images))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def measure_memory(
    network: str, image_size: int, files: Sequence[Path], counts: tuple[int, int], repeats: int
) -> list[Figure]:
    """Score few images and many, each time in a fresh process."""
    # A process counts its parent's peak as its own, so this one must stay small.
    spawn = multiprocessing.get_context("spawn")
    turns: list[list[float]] = []
    for _ in range(repeats):
        turns.append([])
        for n_images in counts:
            with ProcessPoolExecutor(1, spawn) as process:
                job = process.submit(peak_megabytes, network, image_size, files, n_images)
                turns[-1].append(job.result())
    few, many = zip(*turns, strict=True)
    return [
        Figure(f"peak memory, {counts[0]:,} images", few, "MiB"),
        Figure(f"peak memory, {counts[1]:,} images", many, "MiB"),
        Figure("many over few", ratios(many, few), limit="equal, <= 1.05"),
    ]


@click.command()
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of full-size images; synthetic ones by default.",
)
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=96, show_default=True)
@click.option("--files", default=200, show_default=True, help="Least number of files of a turn.")
@click.option("--side", default=1600, show_default=True, help="Side of the synthetic images.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
@click.option("--memory", is_flag=True, help="Measure memory instead, on 64-pixel images.")
@click.option("--few", default=1_000, show_default=True, help="With --memory.")
@click.option("--many", default=10_000, show_default=True, help="With --memory.")
def main(
    images: Path | None,
    network: str,
    image_size: int,
    files: int,
    side: int,
    repeats: int,
    memory: bool,
    few: int,
    many: int,
) -> None:
    """Print rates and ratios, or what memory few images and many take."""
    side = 64 if memory else side
    source = str(images) if images else f"synthetic, {side} px"
    context = {"network": network, "image_size": image_size, "source": source}
    context["precision"] = choose_engine("auto", "auto").precision
    with tempfile.TemporaryDirectory() as folder:
        found = find_originals(images, Path(folder), side)
        if memory:
            figures = measure_memory(network, image_size, found, (few, many), repeats)
        else:
            found *= -(-files // len(found))
            context |= {"batch_size": _BATCH_SIZE, "files": len(found)}
            figures = measure_rates(build_model(network, image_size), found, repeats)
    report("prediction", figures, **context)


if __name__ == "__main__":
    main()
