"""Inputs to fuzz with: whole files of each kind, hostile ones made on purpose, and mutations."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

_EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

TABLES = (
    """path,label,patient,split
a.png,0,p1,train
b.png,PNEUMONIA,p2,test
""",
    """Image Index,Finding Labels,Patient ID,View Position
1.png,Pneumonia|Edema,1,PA
2.png,No Finding,2,AP
""",
    """patientId,x,y,width,height,Target
a,,,,,0
b,1.0,2.0,3.0,4.0,1
b,1.0,2.0,3.0,4.0,1
""",
    """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia
t/patient1/study1/view1_frontal.jpg,M,5,Frontal,AP,,1.0
t/patient2/study1/view1_frontal.jpg,F,6,Frontal,PA,1.0,-1.0
""",
    """image_id,class_name,class_id,rad_id
a,Pneumonia,1,R1
a,No finding,14,R2
b,No finding,14,R1
""",
    """ImageID,PatientID,Labels,Projection
a.png,1,"['pneumonia', 'effusion']",PA
b.png,2,"['normal']",AP
c.png,3,5,PA
""",
)

EXPERIMENTS = (
    """description = "x"
[training]
network = "resnet34"
epochs = 3
learning_rate = 1e-3
[data]
validation_share = 0.2
[space]
learning_rate = {low = 1e-5, high = 1e-2, log = true}
batch_size = {choices = [16, 32]}
""",
    """[training]
network = "simple_cnn"
threshold = "sensitivity>=0.9"
weights = "none"
""",
)


def images(folder: Path | None) -> list[bytes]:
    """Whole and hostile files of every format but DICOM, and those of a folder."""
    red, green = np.mgrid[0:48, 0:40]
    levels = ((red * 5 + green * 3) % 256).astype(np.uint8)
    grey = Image.fromarray(levels)
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    seeds = []
    for image, kind, options in (
        (grey, "JPEG", {}),
        (grey, "JPEG", {"progressive": True}),
        (Image.merge("RGB", [grey] * 3), "JPEG", {"exif": _exif(6)}),
        (Image.merge("CMYK", [grey] * 4), "JPEG", {}),
        (grey, "PNG", {"pnginfo": _text()}),
        (deep, "PNG", {}),
        (grey.convert("P"), "PNG", {"transparency": 0}),
        (grey.convert("RGBA"), "PNG", {}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (grey, "TIFF", {"compression": "jpeg"}),
        (grey, "BMP", {}),
        (Image.merge("RGB", [grey] * 3), "WEBP", {}),
    ):
        out = io.BytesIO()
        image.save(out, kind, **options)
        seeds.append(out.getvalue())
    return [*seeds, *_bombs(), *_files(folder)]


def dicoms(folder: Path | None) -> list[bytes]:
    """Whole and hostile DICOM files, those that pydicom brings, and those of a folder."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_files
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    def plain(side: int = 48) -> Dataset:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SOPClassUID, data.PatientID = SecondaryCaptureImageStorage, "X"
        data.Rows = data.Columns = side
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.WindowCenter, data.WindowWidth = "2048", "4096"
        levels = np.arange(48 * 48, dtype=np.uint16)
        data.PixelData = (levels % 4096).tobytes()
        return data

    def encoded(data: Dataset) -> bytes:
        out = io.BytesIO()
        data.save_as(out, enforce_file_format=True)
        return out.getvalue()

    whole = plain()
    rle = plain()
    rle.compress("1.2.840.10008.1.2.5")
    nested = plain()
    for _ in range(200):
        item = Dataset()
        item.ReferencedSeriesSequence = nested.get("ReferencedSeriesSequence", Sequence())
        nested.ReferencedSeriesSequence = Sequence([item])
    few: list[bytes] = []
    for name in get_testdata_files("*.dcm"):
        file = Path(name)
        try:
            if file.stat().st_size < 200_000 and "PixelData" in dcmread(file, force=True):
                few.append(file.read_bytes())
        except Exception:  # noqa: BLE001 - pydicom ships damaged files on purpose
            continue
    hostile = [encoded(plain(side)) for side in (0, 1, 65_535)]
    return [*map(encoded, (whole, rle, nested)), *hostile, *few, *_files(folder)]


def archives(folder: Path | None) -> list[bytes]:
    """Zip and tar archives: whole ones, and some with bombs, links and names that climb out."""
    picture = images(folder)[4]
    names = ("NORMAL/1.png", "../../climbs.png", "/etc/climbs.png", "a\\..\\..\\b.png", "x" * 5000)
    seeds = []
    for compression in ("STORED", "DEFLATED", "BZIP2", "LZMA"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", getattr(zipfile, f"ZIP_{compression}")) as archive:
            for name in names:
                archive.writestr(name, picture)
        seeds.append(out.getvalue())
    for bomb in (bytes(200_000_000), seeds[1]):  # zeros, and an archive in an archive
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.png", bomb)
        seeds.append(out.getvalue())
    whole = _tar((name, picture) for name in names)
    compress = (gzip.compress, bz2.compress, lzma.compress)
    packed = [press(content) for content in (whole, bytes(100_000_000)) for press in compress]
    return [*seeds, whole, *packed]


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar archive of files, and of links out of it, a device and a pipe."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "../../climbs.png"),
            (tarfile.CHRTYPE, ""),
            (tarfile.FIFOTYPE, ""),
        ):
            entry = tarfile.TarInfo("link.png")
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return out.getvalue()


def mutated(seed: bytes, others: Iterable[bytes], random: Random) -> bytes:
    """A seed with one to eight mutations: bits, extreme numbers, cuts, copies and splices."""
    content = bytearray(seed)
    pool = list(others)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at = random.randrange(len(content) + 1)
        # Most of what a decoder believes stands at the beginning.
        near = random.randrange(min(len(content), 256) + 1)
        length = random.choice((1, 2, 4, 16, 256))
        match random.randrange(8):
            case 0 if content:
                content[at % len(content)] ^= 1 << random.randrange(8)
            case 1:
                number = struct.pack(random.choice((">I", "<I")), random.choice(_EXTREME))
                content[near : near + 4] = number
            case 2:
                number = struct.pack(random.choice((">H", "<H")), random.choice(_EXTREME) & 0xFFFF)
                content[at : at + 2] = number
            case 3:
                del content[at:]
            case 4:
                del content[at : at + length]
            case 5:
                content[at:at] = content[near : near + length] * random.choice((1, 2, 50))
            case 6:
                other = random.choice(pool)
                start = random.randrange(len(other) + 1)
                content[at : at + length] = other[start : start + length]
            case _:
                content[at : at + length] = random.randbytes(length)
    return bytes(content)


def _files(folder: Path | None) -> list[bytes]:
    if folder is None:
        return []
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [content for file in files if len(content := file.read_bytes()) < 3_000_000][:200]


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 50, zip=True)
    return info


def _bombs() -> list[bytes]:
    """PNG files that claim to be huge, or unpack to something huge, and chains of TIFF parts."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    def png(width: int, height: int, *chunks: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")

    zeros = zlib.compress(bytes(200_000_000), 9)
    small = chunk(b"IDAT", zlib.compress(bytes(33 * 32)))
    loop = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    return [
        png(60_000, 60_000, chunk(b"IDAT", zeros)),
        png(8_000, 8_000, chunk(b"IDAT", zlib.compress(bytes(8_001 * 8_000)))),
        png(32, 32, chunk(b"IDAT", zeros)),
        png(32, 32, chunk(b"zTXt", b"a\0\0" + zeros), small),
        png(32, 32, chunk(b"iCCP", b"a\0\0" + zeros), small),
        loop,
    ]
