"""Which files are X-rays: by their content where the name does not tell."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pneumonia.data.dicom import is_dicom, may_be_radiograph, written_here

IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"}
)
"""Files so named are images: where one cannot be decoded, that is an error and not skipped."""

SKIPPED_FOLDERS = frozenset(
    {
        # Written by archivers, network drives and operating systems.
        *("__macosx", "@eadir", "lost+found", "$recycle.bin"),
        # Beside X-rays, in public data sets and of programs such as this one.
        *("mask", "masks", "segmentation", "segmentations", "annotations", "labels"),
        *("heatmaps", "overlays", "thumbnails", "thumbs"),
    }
)
"""Folders, in any case, whose files are not X-rays."""

OVERLAY_MARK = ("Software", "pneumonia explain")
"""PNG text of the overlays that this package writes."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM")
BYTES_TO_LOOK_AT = 512


def why_skipped(path: Path) -> str:
    """Why a file is not taken for an X-ray, as ``why_skipped_content`` says; empty where it is."""

    def start() -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(BYTES_TO_LOOK_AT)
        except OSError:
            return b""  # decoding meets the same error, and reports it

    return why_skipped_content(path.name, start)


def why_skipped_content(name: str, start: Callable[[], bytes]) -> str:
    """Why a file is not taken for an X-ray; empty where it is.

    Files of any name are taken whose content begins as JPEG, PNG, TIFF, BMP, WebP or a DICOM
    radiograph does.

    Args:
        name: The file's name.
        start: Gives its first ``BYTES_TO_LOOK_AT`` bytes, where the name does not tell.

    Returns:
        ``DICOM that is no radiograph``, ``result of explain``, the file's ending, or ``without
        ending``.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending in IMAGE_ENDINGS - {".png"}:
        return ""
    content = start()
    if _written_by_explain(content):
        return "result of explain"
    if ending == ".png" or content.startswith(_SIGNATURES):
        return ""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return ""
    if is_dicom(content):
        return "" if may_be_radiograph(content) else "DICOM that is no radiograph"
    return ending or "without ending"


def _written_by_explain(content: bytes) -> bool:
    overlay = b"\0".join(part.encode() for part in OVERLAY_MARK)
    return overlay in content or (is_dicom(content) and written_here(content))
