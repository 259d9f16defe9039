"""Decoded images on disk, so that each is decoded once for all trials and runs.

A cache is a folder named after the content of the images and the preprocessing. It holds
``pixels.npy``, uint8 (N, image_size, image_size), and ``index.json``, which gives each image's row
or the reason why it could not be decoded. It appears whole or not at all. Images that another
cache with the same preprocessing holds are copied from there. The folder's modification time is
when the cache was last used.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray

from pneumonia.data.decode import Preprocessing
from pneumonia.data.decode_ahead import DecodedFile, decode_ahead
from pneumonia.errors import DataError
from pneumonia.progress import Progress

_FORMAT = 3
_SPARE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Cache:
    """Decoded images.

    Attributes:
        pixels: Grey levels, uint8 (N, image_size, image_size), memory-mapped; writes do not
            reach the file.
        rows: Row of each readable image, by the digest of its content.
        unreadable: Reason for each unreadable image, by the digest of its content. Only decoding
            failures are kept on disk; a file that could not be read is read again next time.
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
        progress: Called with how many images are decoded.

    Raises:
        DataError: The disk has too little room, or fills up on the way.
    """
    folder = folder or default_folder()
    target = folder / _key(files, preprocessing)
    try:
        if (cache := _read_all(target, files)) is not None:
            return cache
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if (cache := _read_all(target, files)) is not None:  # built while we waited
                return cache
            _check_room(folder, len(files), preprocessing.image_size)
            failures = _build(target, files, preprocessing, progress)
    except OSError as error:
        raise DataError(
            f"cannot write the image cache {str(folder)!r}: {error.strerror or error}. "
            "Free some disk, or set PNEUMONIA_CACHE to another folder"
        ) from None
    built = _read(target, files)
    if built is None:
        raise DataError(f"the image cache {str(target)!r} vanished while it was opened; try again")
    return replace(built, unreadable={**built.unreadable, **failures})


def _key(files: Mapping[str, Path], preprocessing: Preprocessing) -> str:
    """Name of a cache: 8 hexadecimal digits for the preprocessing, 16 for the images."""
    recipe = {"format": _FORMAT, "pillow": PIL.__version__, **asdict(preprocessing)}
    return _short_digest(recipe, 4) + _short_digest(sorted(files), 8)


def _short_digest(content: object, size: int) -> str:
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(encoded, digest_size=size).hexdigest()


def _read_all(target: Path, files: Mapping[str, Path]) -> Cache | None:
    """Open a cache that knows all of the files, and note that it was used."""
    cache = _read(target, files)
    if cache is None or files.keys() - cache.rows.keys() - cache.unreadable.keys():
        return None
    with suppress(OSError):  # another user's cache can be read all the same
        os.utime(target)
    return cache


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
) -> dict[str, str]:
    """Fill a cache; return why files could not be read, which the cache does not keep."""
    side = preprocessing.image_size
    known, unreadable = _known_elsewhere(target, files)
    failures: dict[str, str] = {}
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        rows: dict[str, int] = {}
        with (building / "pixels.npy").open("wb") as out:
            _write_header(out, (0, side, side))
            digests = sorted(files.keys() - unreadable.keys())
            new = (files[digest] for digest in digests if digest not in known)
            decoded = decode_ahead(new, preprocessing, window=256)
            for n_done, digest in enumerate(digests, 1):
                if digest in known:
                    image = DecodedFile(files[digest], known[digest])
                else:
                    image = next(decoded)
                if image.grey is not None:
                    out.write(image.grey.tobytes())
                    rows[digest] = len(rows)
                else:
                    (failures if image.may_pass else unreadable)[digest] = image.failure
                if progress is not None and (n_done % 64 == 0 or n_done == len(digests)):
                    progress("decoding", n_done, len(digests))
            out.seek(0)
            _write_header(out, (len(rows), side, side))
        index = {"rows": rows, "unreadable": unreadable}
        (building / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return failures


def _known_elsewhere(
    target: Path, files: Mapping[str, Path]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """Collect the pixels of images, and reasons of undecodable ones, from caches made alike."""
    known: dict[str, NDArray[np.uint8]] = {}
    unreadable: dict[str, str] = {}
    for other in sorted(target.parent.glob(f"{target.name[:8]}{'?' * 16}")):
        if (cache := _read(other, files)) is not None:
            wanted = files.keys() - known.keys()
            known |= {key: cache.pixels[cache.rows[key]] for key in wanted & cache.rows.keys()}
            unreadable |= {key: cache.unreadable[key] for key in wanted & cache.unreadable.keys()}
    return known, unreadable


def _write_header(out: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Write the .npy header, which NumPy pads so that the number of rows may still grow."""
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
