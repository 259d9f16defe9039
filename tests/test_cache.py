"""The image cache: what is decoded again, what is remembered, what is removed."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from filelock import FileLock
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.data import decode_ahead
from pneumonia.data.cache import open_cache
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing, decode

SMALL = Preprocessing(32)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.rglob("*.jpeg"))}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that are decoded while a test runs."""
    seen: list[bytes] = []

    def counting(encoded: bytes, preprocessing: Preprocessing) -> object:
        seen.append(encoded)
        return decode(encoded, preprocessing)

    monkeypatch.setattr(decode_ahead, "decode", counting)
    return seen


def test_adding_an_image_decodes_that_image_alone(
    xrays: Path, tmp_path: Path, decoded: list[bytes]
) -> None:
    """A cache of one more image takes the others from the cache that was there."""
    files = files_of(xrays / "test")
    last = max(files)
    first = open_cache(
        {name: path for name, path in files.items() if name != last}, SMALL, folder=tmp_path
    )
    decoded.clear()
    cache = open_cache(files, SMALL, folder=tmp_path)
    assert decoded == [files[last].read_bytes()]
    for name, path in files.items():
        np.testing.assert_array_equal(
            cache.pixels[cache.rows[name]], decode(path.read_bytes(), SMALL)
        )
    assert len(first.rows) == len(cache.rows) - 1
    decoded.clear()
    open_cache(files, Preprocessing(16), folder=tmp_path)
    assert len(decoded) == len(files)  # other preprocessing takes nothing over


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOENT])
def test_a_read_error_is_not_remembered(
    code: int, xrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read once is read again the next time."""
    files = files_of(xrays / "val")
    failing, read_bytes = next(iter(files.values())), Path.read_bytes

    def away(path: Path) -> bytes:
        if path == failing:
            raise OSError(code, os.strerror(code))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", away)
        for _ in range(2):
            cache = open_cache(files, SMALL, folder=tmp_path)
            assert cache.unreadable == {failing.name: os.strerror(code)}
            assert len(cache.rows) == len(files) - 1
    cache = open_cache(files, SMALL, folder=tmp_path)
    assert cache.unreadable == {}
    assert cache.rows.keys() == files.keys()


def test_a_damaged_file_is_remembered(tmp_path: Path, decoded: list[bytes]) -> None:
    """Bytes that were read completely and are no image are not decoded a second time."""
    (tmp_path / "text.jpeg").write_bytes(b"no image")
    for _ in range(2):
        cache = open_cache(files_of(tmp_path), SMALL, folder=tmp_path / "cache")
        assert cache.unreadable == {"text.jpeg": "not a JPEG, PNG, TIFF, BMP, WebP or DICOM image"}
    assert decoded == [b"no image"]


def megabyte_cache(tmp_path: Path, name: str) -> Path:
    """Build a cache of 1 MiB that was last used when ``name`` says, in seconds."""
    image = tmp_path / f"{name}.png"
    Image.linear_gradient("L").save(image)
    known = set((tmp_path / "cache").glob("*/index.json"))
    cache = open_cache({name: image}, Preprocessing(1024))
    assert name in cache.rows
    (index,) = set((tmp_path / "cache").glob("*/index.json")) - known
    os.utime(index.parent, (float(name), float(name)))
    return index.parent


@pytest.fixture
def doctor(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., Result],
    empty_store: Path,
) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return lambda *arguments: run_cli("doctor", *arguments).stdout


def test_the_caches_used_longest_ago_are_removed_over_the_limit(
    doctor: Callable[..., str], tmp_path: Path
) -> None:
    """doctor --fix --cache-limit removes the least recently used caches until the rest fit."""
    old, middle, new = (megabyte_cache(tmp_path, name) for name in ("1000", "2000", "3000"))
    open_cache({"1000": tmp_path / "1000.png"}, Preprocessing(1024))  # used now
    assert "over the limit" not in doctor("--fix")
    report = doctor("--cache-limit", "0.0025")
    assert f"cache {str(middle)!r}" in report
    assert middle.exists()
    doctor("--fix", "--cache-limit", "0.0025")
    assert (old.exists(), middle.exists(), new.exists()) == (True, False, True)
    assert "nothing is left behind" in doctor("--cache-limit", "0.0025")


def test_a_cache_in_use_is_never_removed(doctor: Callable[..., str], tmp_path: Path) -> None:
    """A cache that a process holds the lock of, or has mapped into memory, stays."""
    locked, mapped = megabyte_cache(tmp_path, "1000"), megabyte_cache(tmp_path, "2000")
    pixels = np.load(mapped / "pixels.npy", mmap_mode="r")
    with FileLock(f"{locked}.lock"):
        doctor("--fix", "--cache-limit", "0")
    assert locked.exists()
    assert mapped.exists()
    assert pixels.shape == (1, 1024, 1024)
    del pixels
    doctor("--fix", "--cache-limit", "0")
    assert not locked.exists()
    assert not mapped.exists()


def test_an_index_names_only_what_was_decoded(xrays: Path, tmp_path: Path) -> None:
    """The index on disk gives a row for each image of the pixels."""
    open_cache(files_of(xrays / "val"), SMALL, folder=tmp_path)
    (index,) = tmp_path.glob("*/index.json")
    rows = json.loads(index.read_text())["rows"]
    assert sorted(rows.values()) == list(range(len(np.load(index.with_name("pixels.npy")))))


def anonymous_mebibytes() -> float:
    """Memory of this process that is not backed by files."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc of Linux")
def test_pixels_are_never_in_memory_all_at_once(
    xrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while they are decoded nor while batches are read: a cache may exceed the memory."""
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    large = Preprocessing(1536)
    open_cache(dict(list(files_of(xrays).items())[:2]), SMALL)  # what decoding itself keeps
    before = anonymous_mebibytes()
    data = load_data_set(DataSettings(data=str(xrays)), large)
    images = data.open(large)["train"]
    positions = torch.randperm(len(images))
    for batch in positions.split(4):
        images.batch(batch)
        assert anonymous_mebibytes() - before < 60
    size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("pixels.npy"))
    assert size > 120 * 2**20
