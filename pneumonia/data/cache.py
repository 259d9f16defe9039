"""Decoded images on disk, so that each is decoded once for all trials and runs.

A cache is a folder named after the content of the images and the preprocessing. It holds
``pixels.npy``, uint8 (N, image_size, image_size), and ``index.json``, which gives each image's row
or the reason why it could not be read. It appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray

from pneumonia.data.decode import Preprocessing
from pneumonia.data.decode_ahead import decode_ahead
from pneumonia.errors import DataError

_FORMAT = 2
_SPARE_BYTES = 256 * 2**20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Cache:
    """Decoded images.

    Attributes:
        pixels: Grey levels, uint8 (N, image_size, image_size), memory-mapped; writes do not
            reach the file.
        rows: Row of each readable image, by the digest of its content.
        unreadable: Reason for each unreadable image, by the digest of its content.
        files: The files asked for, by the digest of their content.
    """

    pixels: NDArray[np.uint8]
    rows: Mapping[str, int]
    unreadable: Mapping[str, str]
    files: Mapping[str, Path]


def default_folder() -> Path:
    """Where caches live: ``PNEUMONIA_CACHE``, else the user's cache folder (XDG)."""
    if chosen := os.environ.get("PNEUMONIA_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pneumonia"


def open_cache(
    files: Mapping[str, Path],
    preprocessing: Preprocessing,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Cache:
    """Open the cache of these images, building it first where there is none.

    Several processes may call this at once: one builds, the others wait for it.

    Args:
        files: One file for each digest of content.
        preprocessing: How to decode them.
        folder: Where caches live; ``default_folder()`` by default.
        progress: Called with the number of images decoded so far, and of all.

    Raises:
        DataError: The disk has too little room, or fills up on the way.
    """
    folder = folder or default_folder()
    target = folder / _key(files, preprocessing)
    try:
        if (cache := _read(target, files)) is not None:
            return cache
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if (cache := _read(target, files)) is not None:  # built while we waited
                return cache
            _check_room(folder, len(files), preprocessing.image_size)
            _build(target, files, preprocessing, progress)
    except OSError as error:
        raise DataError(
            f"cannot write the image cache {str(folder)!r}: {error.strerror or error}. "
            "Free some disk, or set PNEUMONIA_CACHE to another folder"
        ) from None
    built = _read(target, files)
    if built is None:
        raise DataError(f"the image cache {str(target)!r} vanished while it was opened; try again")
    return built


def _key(files: Mapping[str, Path], preprocessing: Preprocessing) -> str:
    recipe = {"format": _FORMAT, "pillow": PIL.__version__, **asdict(preprocessing)}
    content = json.dumps([recipe, sorted(files)], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _read(target: Path, files: Mapping[str, Path]) -> Cache | None:
    """Open a finished cache; a damaged one counts as absent and is built anew."""
    try:
        index = json.loads((target / "index.json").read_text(encoding="utf-8"))
        pixels = np.load(target / "pixels.npy", mmap_mode="c")
        if len(pixels) != len(index["rows"]):
            return None
        return Cache(pixels, index["rows"], index["unreadable"], files)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def is_whole(target: Path) -> bool:
    """Whether a folder is a finished cache, which would be used and not built anew."""
    return _read(target, {}) is not None


def _check_room(folder: Path, n_images: int, image_size: int) -> None:
    needed = n_images * image_size**2 + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the image cache needs {needed / 2**30:.1f} GiB and {str(folder)!r} has "
            f"{free / 2**30:.1f} GiB free; free some disk, or set PNEUMONIA_CACHE to another folder"
        )


def _build(
    target: Path,
    files: Mapping[str, Path],
    preprocessing: Preprocessing,
    progress: Progress | None,
) -> None:
    side = preprocessing.image_size
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        rows: dict[str, int] = {}
        unreadable: dict[str, str] = {}
        with (building / "pixels.npy").open("wb") as out:
            _write_header(out, (0, side, side))
            digests = sorted(files)
            decoded = decode_ahead((files[digest] for digest in digests), preprocessing, window=256)
            for n_done, (digest, (_, image)) in enumerate(zip(digests, decoded, strict=True), 1):
                if isinstance(image, str):
                    unreadable[digest] = image
                else:
                    out.write(image.tobytes())
                    rows[digest] = len(rows)
                if progress is not None and (n_done % 64 == 0 or n_done == len(files)):
                    progress(n_done, len(files))
            out.seek(0)
            _write_header(out, (len(rows), side, side))
        index = {"rows": rows, "unreadable": unreadable}
        (building / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_header(out: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Write the .npy header, which NumPy pads so that the number of rows may still grow."""
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
