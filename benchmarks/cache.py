"""How fast the cache of decoded images is built from full-size originals, and opened again.

python -m benchmarks.cache --images /path/to/full_size_xrays --image-size 128

Building is compared with a plain decode, one file at a time, and with the decoder's own limit: as
many threads as there are cores, on bytes already in memory, writing nothing. Files are read before
anything is timed, so that the disk is out of it.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import click
from PIL import Image

from benchmarks.report import Figure, ratios, report
from pneumonia.data.cache import open_cache
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.demo import write_demo_set
from pneumonia.data.folders import walk_images

Item = TypeVar("Item")


def find_originals(images: Path | None, folder: Path, side: int) -> list[Path]:
    """Find image files in a folder; where none is named, write synthetic ones of that side."""
    if images is None:
        images = folder / "originals"
        write_demo_set(images, patients=20, size=side)
    return list(walk_images(images))


def rate(count: int, work: Callable[[], Any]) -> float:
    """Images a second of what works on so many of them."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def in_threads(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do the same to all items, with as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(work, items):
            pass


def decode_plainly(paths: Iterable[Path], image_size: int) -> None:
    """Decode one file after the other, as a script with Pillow would."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("L").resize((image_size, image_size), Image.Resampling.BILINEAR)


def bytes_an_image(folder: Path, n_images: int) -> float:
    """Bytes of everything in a folder, for each image."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / n_images


def take_turn(
    files: Mapping[str, Path], contents: Sequence[bytes], preprocessing: Preprocessing
) -> tuple[float, float, float, float, float]:
    """Decode plainly, decode in threads, build a cache and open it, one after the other.

    Returns:
        The three rates in images a second, the milliseconds of opening, and bytes an image.
    """
    n_images = len(files)
    plain = rate(n_images, lambda: decode_plainly(files.values(), preprocessing.image_size))
    limit = rate(n_images, lambda: in_threads(lambda each: decode(each, preprocessing), contents))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = rate(n_images, lambda: open_cache(files, preprocessing, folder=folder))
        opening = 1000 / rate(1, lambda: open_cache(files, preprocessing, folder=folder))
        return plain, limit, build, opening, bytes_an_image(folder, n_images)


def measure(files: Mapping[str, Path], image_size: int, repeats: int) -> list[Figure]:
    """Take that many turns."""
    contents = [path.read_bytes() for path in files.values()]
    turns = [take_turn(files, contents, Preprocessing(image_size)) for _ in range(repeats)]
    plain, limit, build, opening, size = zip(*turns, strict=True)
    return [
        Figure("plain decode, one at a time", plain, "images/s"),
        Figure("decoder's limit, all cores", limit, "images/s"),
        Figure("building the cache", build, "images/s"),
        Figure("building over plain decode", ratios(build, plain)),
        Figure(
            "building over decoder's limit",
            ratios(build, limit),
            limit=">= 0.9, the decoder's limit with all cores",
        ),
        Figure("opening a cache that is there", opening, "ms", "milliseconds"),
        Figure("bytes an image", size, "bytes", f"{image_size**2:,} and its line in the index"),
        Figure("bytes an image over image size squared", [each / image_size**2 for each in size]),
    ]


@click.command()
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of full-size images; synthetic ones by default.",
)
@click.option("--image-size", default=128, show_default=True)
@click.option("--side", default=1600, show_default=True, help="Side of the synthetic images.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
def main(images: Path | None, image_size: int, side: int, repeats: int) -> None:
    """Print rates, ratios, and what a cache that is there costs."""
    with tempfile.TemporaryDirectory() as name:
        files = {
            hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(): path
            for path in find_originals(images, Path(name), side)
        }
        figures = measure(files, image_size, repeats)
    source = str(images) if images else f"synthetic, {side} px"
    report("cache", figures, images=len(files), source=source, image_size=image_size)


if __name__ == "__main__":
    main()
