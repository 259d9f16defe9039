"""All that a GPU is good for here, in one table of some minutes: it is seldom at hand for longer.

python -m benchmarks.gpu --data chest_xray --images /path/to/full_size_xrays
python -m benchmarks.gpu --image-size 32 --batch-size 8 --steps 2 --epochs 1 --no-compile

The second is its small form, which runs on a CPU, so that the first works when it counts.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

from benchmarks.cache import find_originals, in_threads, rate
from benchmarks.prediction import build_model, measure_rates
from benchmarks.report import Figure, ratios, report
from benchmarks.throughput import bare_step, steps_per_second
from benchmarks.time_to_quality import course_of_ours, seconds_to
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.loop import train

_DECODED = 200
_LEVEL = 0.99


@click.command()
@click.option("--data", default=DEMO, show_default=True)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of full-size images to predict; synthetic ones by default.",
)
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=224, show_default=True)
@click.option("--batch-size", default=128, show_default=True)
@click.option("--steps", default=30, show_default=True, help="Steps a turn.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
@click.option("--epochs", type=int, help="Of the training to quality; the experiment's by default.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True)
def main(
    data: str,
    images: Path | None,
    network: str,
    image_size: int,
    batch_size: int,
    steps: int,
    repeats: int,
    epochs: int | None,
    compiled: bool,
) -> None:
    """Measure steps, pipeline, time to quality, prediction, memory and decoding."""
    large = {"epochs": 2, "image_size": image_size, "batch_size": batch_size}
    settings = load_experiment(network, large).training
    engine = choose_engine("auto", "auto")
    parts: list[tuple[str, Callable[[], list[Figure]]]] = [
        ("steps", lambda: _steps(settings, engine, steps, repeats, compiled=compiled)),
        ("pipeline", lambda: _pipeline(settings, engine, data, steps)),
        ("quality", lambda: _quality(network, data, epochs)),
        ("prediction", lambda: _prediction(network, image_size, images, repeats)),
    ]
    figures: list[Figure] = []
    for name, measure in parts:
        started = time.perf_counter()
        figures += measure()
        click.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)
    card = torch.cuda.get_device_name() if engine.device.type == "cuda" else "none"
    report(
        "gpu",
        figures,
        network=network,
        image_size=image_size,
        batch_size=batch_size,
        data=data,
        gpu=card,
        precision=engine.precision,
    )


def _steps(
    settings: TrainingSettings, engine: Engine, n_steps: int, repeats: int, *, compiled: bool
) -> list[Figure]:
    """The bare step in each precision, then compiled, in images a second; and its memory."""
    on_gpu = engine.device.type == "cuda"
    precise = choose_engine(engine.device.type, "fp32")
    figures = []

    def measure(what: str, step: Callable[[], torch.Tensor], limit: str = "") -> None:
        rates = [settings.batch_size * steps_per_second(step, n_steps) for _ in range(repeats)]
        figures.append(Figure(what, rates, "images/s", limit))

    measure("step, fp32 without TF32", bare_step(settings, precise))
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        measure("step, TF32", bare_step(settings, precise))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.cuda.reset_peak_memory_stats()
    eager = bare_step(settings, engine)
    measure(f"step, {engine.precision}", eager, ">= 5,000 on an H100 at 224 pixels")
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
        figures.append(Figure(f"memory of a step, {engine.precision}", [peak], "MiB"))
    if compiled:
        faster = bare_step(settings, engine, "default")
        measure(f"step, {engine.precision}, compiled", faster)
        if on_gpu:
            graphs = bare_step(settings, engine, "reduce-overhead")
            measure(f"step, {engine.precision}, compiled to CUDA graphs", graphs)
    return figures


def _pipeline(settings: TrainingSettings, engine: Engine, data: str, n_steps: int) -> list[Figure]:
    """Training through the whole pipeline over the bare step: the second of two epochs."""
    loaded = load_data_set(DataSettings(data=data), preprocessing_of(settings))
    history = train(settings, loaded.open(preprocessing_of(settings)), lambda _epoch: None).history
    pipeline = [history[-1]["speed/images_per_second"]]
    bare = [settings.batch_size * steps_per_second(bare_step(settings, engine), n_steps)]
    limit = ">= 0.95 on a GPU"
    return [
        Figure("pipeline", pipeline, "images/s"),
        Figure("pipeline over bare step", ratios(pipeline, bare), limit=limit),
    ]


def _quality(network: str, data: str, epochs: int | None) -> list[Figure]:
    """Seconds of training to a validation AUC, by the experiment's own recipe."""
    chosen = {} if epochs is None else {"epochs": epochs}
    settings = load_experiment(network, chosen).training
    loaded = load_data_set(DataSettings(data=data), preprocessing_of(settings))
    course = course_of_ours(settings, loaded.open(preprocessing_of(settings)))
    best = max(auc for _, auc in course)
    return [
        Figure(f"time to AUC {_LEVEL}", [seconds_to(_LEVEL, course)], "s"),
        Figure("best AUC by then", [best]),
    ]


def _prediction(network: str, image_size: int, images: Path | None, repeats: int) -> list[Figure]:
    """Full-size files to rows, beside its halves; decoding on the GPU where torchvision can."""
    with tempfile.TemporaryDirectory() as folder:
        files = find_originals(images, Path(folder), 1600)
        files = (files * -(-_DECODED // len(files)))[:_DECODED]
        figures = measure_rates(build_model(network, image_size), files, repeats)
        return figures + _decoders(files, image_size, repeats)


def _decoders(files: Sequence[Path], image_size: int, repeats: int) -> list[Figure]:
    """Decoding JPEG files whole on the GPU (nvJPEG), against our own decoder on all cores."""
    jpegs = [path for path in files if path.suffix.lower() in {".jpg", ".jpeg"}]
    if not torch.cuda.is_available() or not jpegs:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    def on_gpu() -> None:
        encoded = [read_file(str(path)) for path in jpegs]
        decode_jpeg(encoded, ImageReadMode.GRAY, device="cuda")
        torch.cuda.synchronize()

    def on_cores() -> None:
        preprocessing = Preprocessing(image_size)
        in_threads(lambda path: decode(path.read_bytes(), preprocessing), jpegs)

    on_gpu()
    gpu = [rate(len(jpegs), on_gpu) for _ in range(repeats)]
    cores = [rate(len(jpegs), on_cores) for _ in range(repeats)]
    return [
        Figure("decoding on the GPU (nvJPEG)", gpu, "images/s"),
        Figure("decoding on the GPU over our decoder", ratios(gpu, cores)),
    ]


if __name__ == "__main__":
    main()
