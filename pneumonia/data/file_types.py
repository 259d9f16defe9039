"""Which files are X-rays: by their content where the name does not tell."""

from pathlib import Path

from pneumonia.data.dicom import is_dicom, may_be_radiograph

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
_BYTES_TO_LOOK_AT = 512


def why_skipped(path: Path) -> str:
    """Why a file is not taken for an X-ray; empty where it is.

    Files of any name are taken whose content begins as JPEG, PNG, TIFF, BMP, WebP or a DICOM
    radiograph does.

    Returns:
        ``DICOM that is no radiograph``, ``overlay of explain``, the file's ending, or ``without
        ending``.
    """
    ending = path.suffix.lower()
    if ending in IMAGE_ENDINGS - {".png"}:
        return ""
    try:
        with path.open("rb") as file:
            start = file.read(_BYTES_TO_LOOK_AT)
    except OSError:
        start = b""  # decoding meets the same error, and reports it
    if b"\0".join(part.encode() for part in OVERLAY_MARK) in start:
        return "overlay of explain"
    if ending == ".png" or start.startswith(_SIGNATURES):
        return ""
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return ""
    if is_dicom(start):
        return "" if may_be_radiograph(start) else "DICOM that is no radiograph"
    return ending or "without ending"
