"""Decoding: bit depths, damaged files, and metadata that does not matter."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.limits import UnreadableImageError

SIDE = Preprocessing(64)
PICTURE = np.asarray(Image.linear_gradient("L").resize((64, 64))).astype(np.uint16)
PICTURE = (PICTURE - PICTURE.min()) * 255 // (PICTURE.max() - PICTURE.min())  # from 0 to 255


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def png_of(levels: np.ndarray, significant_bits: int | None = None) -> bytes:
    """A 16-bit greyscale PNG, with an sBIT chunk where ``significant_bits`` is given."""
    content = encoded(Image.fromarray(levels.astype(np.uint16)), "PNG")
    if significant_bits is None:
        return content
    return with_chunk(content, b"sBIT", bytes([significant_bits]))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """Insert a chunk after the header of a PNG file."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("in_header", [True, False])
def test_deep_files_are_scaled_by_the_bits_that_they_use(bits: int, in_header: bool) -> None:
    """A 16-bit file of 8-, 10-, 12-, 14- or 16-bit data shows the same picture."""
    levels = PICTURE.astype(np.uint32) * (2**bits - 1) // 255
    decoded = decode(png_of(levels, bits if in_header else None), SIDE)
    assert np.abs(decoded.astype(int) - PICTURE).max() <= 1


def test_the_header_decides_for_an_underexposed_file() -> None:
    """With 12 bits in its header, a file whose values stop at 900 stays dark."""
    levels = PICTURE.astype(np.uint32) * 900 // 255
    assert decode(png_of(levels, 12), SIDE).max() == 900 >> 4
    assert decode(png_of(levels), SIDE).max() == 900 >> 2  # without it, 10 bits hold the values


def test_samples_scaled_up_as_png_recommends_are_not_scaled_twice() -> None:
    """Samples of 12 significant bits that fill all 16 keep their upper eight bits."""
    levels = PICTURE.astype(np.uint32) * 257
    assert np.abs(decode(png_of(levels, 12), SIDE).astype(int) - PICTURE).max() <= 1


# Tag, type, count and value of an EXIF entry, each of which Pillow once failed on.
DAMAGED_ENTRIES = {
    "resolution as text": (0x011A, 2, 4, b"72\0\0"),
    "resolution of two shorts": (0x011A, 3, 2, b"\0\x48\0\1"),
    "rational without value": (0x011A, 5, 0, b"\0\0\0\0"),
    "rational past the end": (0x011A, 5, 1, b"\0\0\xff\xff"),
    "orientation as text": (0x0112, 2, 4, b"6ab\0"),
    "unknown type": (0x0112, 99, 1, b"\0\6\0\0"),
    "subfolder past the end": (0x8769, 4, 1, b"\xff\xff\xff\xff"),
    "maker's note of no bytes": (0x927C, 7, 0, b"\0\0\0\0"),
    "unit as text": (0x0128, 2, 4, b"in\0\0"),
}


@pytest.mark.parametrize("name", DAMAGED_ENTRIES)
def test_damaged_exif_does_not_make_an_image_unreadable(name: str) -> None:
    """A JPEG with a malformed EXIF entry shows the picture of the file without it."""
    tag, kind, count, value = DAMAGED_ENTRIES[name]
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHI4sI", 1, tag, kind, count, value, 0)
    body = b"Exif\0\0" + tiff
    plain = encoded(Image.fromarray(PICTURE.astype(np.uint8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    without_jfif = plain[:2] + plain[20:]  # Pillow reads the resolution from EXIF only then
    damaged = plain[:2] + segment + without_jfif[2:]
    np.testing.assert_array_equal(decode(damaged, SIDE), decode(plain, SIDE))


@pytest.mark.parametrize(
    "damaged", [b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_a_damaged_exif_header_does_not_make_an_image_unreadable(damaged: bytes) -> None:
    """A JPEG whose EXIF has no readable directory shows the picture of the file without it."""
    plain = encoded(Image.fromarray(PICTURE.astype(np.uint8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(damaged) + 2) + damaged
    np.testing.assert_array_equal(
        decode(plain[:2] + segment + plain[20:], SIDE), decode(plain, SIDE)
    )


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt", b"pHYs", b"eXIf", b"gAMA", b"tIME"])
def test_a_damaged_png_chunk_that_is_not_needed_is_ignored(kind: bytes) -> None:
    """An ancillary chunk with nonsense in it does not make a PNG unreadable."""
    image = Image.fromarray(PICTURE.astype(np.uint8))
    plain = encoded(image, "PNG")
    damaged = with_chunk(plain, kind, b"\x00\x01nonsense\x00\x00")
    np.testing.assert_array_equal(decode(damaged, SIDE), decode(plain, SIDE))
    wrong_checksum = bytearray(with_chunk(plain, kind, b"nonsense"))
    wrong_checksum[33 + 8 + 8] ^= 255
    np.testing.assert_array_equal(decode(bytes(wrong_checksum), SIDE), decode(plain, SIDE))


def samples() -> list[bytes]:
    """One small file of each kind that we read, with metadata."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x010F] = 6, 72.0, "maker"
    grey = Image.fromarray(PICTURE.astype(np.uint8))
    return [
        encoded(grey, "JPEG", exif=exif, dpi=(72, 72)),
        encoded(grey.convert("CMYK"), "JPEG", progressive=True),
        encoded(grey, "PNG", exif=exif, dpi=(72, 72)),
        encoded(grey.convert("P"), "PNG", transparency=0),
        png_of(PICTURE * 16, 12),
    ]


@pytest.mark.parametrize("which", range(5))
def test_no_changed_bytes_raise_anything_but_our_own_error(which: int) -> None:
    """Whatever bytes are changed, an image is decoded or refused with UnreadableImageError."""
    original = samples()[which]
    rng = random.Random(which)
    for _ in range(400):
        changed = bytearray(original)
        for _ in range(rng.randint(1, 6)):
            # Most of the damage goes to the headers, where the metadata lies.
            changed[int(len(changed) * rng.random() ** 3)] = rng.randrange(256)
        if rng.random() < 0.2:
            del changed[rng.randrange(len(changed)) :]
        try:
            assert decode(bytes(changed), SIDE).shape == (64, 64)
        except UnreadableImageError:
            continue
