"""A data set ready for training: checked, split, and opened as tensors."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data import summary
from pneumonia.data.cache import Cache, default_folder, open_cache
from pneumonia.data.decode import Preprocessing
from pneumonia.data.folders import Found, ImageFile, find_images
from pneumonia.data.layout import data_set_root, part_folders
from pneumonia.data.listed import find_listed
from pneumonia.data.splits import ROLES, assign_roles
from pneumonia.errors import DataError, UsageError, nearest
from pneumonia.progress import Progress

SPLITS = ("train", "val", "test", "all")
"""What ``open_split`` opens."""


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images of one role, as tensors.

    Attributes:
        pixels: Grey levels of the whole cache, uint8 (N, H, W).
        rows: Row in ``pixels`` of each image, int64 (n,).
        labels: 0 negative, 1 positive, int64 (n,).
        files: Where each image came from.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    files: tuple[ImageFile, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels, uint8 (B, H, W), and labels, int64 (B,), at some positions, int64 (B,)."""
        return self.pixels[self.rows[positions]], self.labels[positions]

    def part(self, positions: torch.Tensor) -> "Images":
        """Only the images at some positions, int64 (B,), in their order."""
        files = tuple(self.files[position] for position in positions.tolist())
        here = positions.to(self.rows.device)
        return replace(self, rows=self.rows[here], labels=self.labels[here], files=files)

    def to(self, device: torch.device) -> "Images":
        """Move the images of this role to a device; on the CPU they stay memory-mapped."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            pixels=self.pixels[self.rows].to(device),
            rows=torch.arange(len(self), device=device),
            labels=self.labels.to(device),
        )


@dataclass(frozen=True, slots=True)
class DataSet:
    """A checked data set: who plays which role, and its fingerprint.

    Attributes:
        root: The folder.
        settings: What was asked for.
        files: One file for each digest of content found, used or not: what the cache holds.
        roles: The images of each role.
        skipped: Counts of the files not used.
    """

    root: Path
    settings: DataSettings
    files: Mapping[str, Path]
    roles: Mapping[str, tuple[ImageFile, ...]]
    skipped: Counter[str]

    @property
    def name(self) -> str:
        """``demo``, or the folder's name."""
        return DEMO if self.settings.data == DEMO else self.root.name

    @property
    def is_synthetic(self) -> bool:
        """Whether the images were drawn, not taken."""
        return self.settings.data == DEMO

    @property
    def digest(self) -> str:
        """Fingerprint over all roles: differs when an image, a label or a role differs."""
        return "-".join(self.role_digest(role)[:10] for role in self.roles)

    def role_digest(self, role: str) -> str:
        """Fingerprint of one role: 16 hexadecimal digits."""
        return summary.digest(self.roles[role])

    def counts(self) -> dict[str, int]:
        """Counts by role, as ``train/images`` or ``test/PNEUMONIA``."""
        return {
            f"{role}/{what}": count
            for role, images in self.roles.items()
            for what, count in summary.counts(images, self.settings.class_names).items()
        }

    def report(self) -> str:
        """The counts as a table, and what a user should know."""
        return summary.report(self.roles, self.settings.class_names, self.skipped)

    @property
    def warning(self) -> str:
        """What makes results on this data set doubtful, to be said again with them; or empty."""
        return summary.unknown_patients([i for images in self.roles.values() for i in images])

    def open(
        self, preprocessing: Preprocessing, progress: Progress | None = None
    ) -> dict[str, Images]:
        """Open the images of every role, decoding those not decoded before.

        Raises:
            DataError: The disk is too full for the cache.
        """
        cache = open_cache(self.files, preprocessing, progress=progress)
        return {role: images_of(files, cache) for role, files in self.roles.items()}


def preprocessing_of(training: TrainingSettings) -> Preprocessing:
    """How images are decoded for the network that these settings train."""
    return Preprocessing(training.image_size, training.resize)


def load_data_set(
    settings: DataSettings, preprocessing: Preprocessing, progress: Progress | None = None
) -> DataSet:
    """Find, check, decode and split a data set; nothing bad is left to be found while training.

    Raises:
        DataError: Images are missing, unreadable or too few.
        LabelError: Identical images are in both class folders.
        LeakageError: A patient or an identical image is in two roles.
    """
    root, found, cache = find_readable(settings, preprocessing, progress, settings.parts)
    if not settings.allow_conflicting_labels:
        summary.refuse_conflicting_labels(found.images)
    roles = assign_roles(found, settings)
    if not settings.allow_leakage:
        summary.refuse_leakage(roles)
    ordered = {role: tuple(roles[role]) for role in ROLES}
    return DataSet(root, settings, cache.files, ordered, found.skipped)


def demo_folder(progress: Progress | None = None) -> Path:
    """Folder of the synthetic demo set, made on the spot the first time."""
    from pneumonia.data.demo import DEMO_FOLDER, write_demo_set

    folder = default_folder() / DEMO_FOLDER
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_demo_set(folder, progress=progress)
    return folder


def find_readable(
    settings: DataSettings,
    preprocessing: Preprocessing,
    progress: Progress | None = None,
    only: Collection[str] | None = None,
) -> tuple[Path, Found, Cache]:
    """Find the images and decode every one, so that unreadable ones stop us here.

    Args:
        settings: Which data.
        preprocessing: How to decode it.
        progress: Called with what is done, and how many images of how many.
        only: Which of ``train``, ``val`` and ``test`` to read; by default all.

    Returns:
        The folder, its readable images, and all decoded images.

    Raises:
        DataError: There is no data set, or there are unreadable images and ``skip_unreadable`` is
            not set.
    """
    folder = demo_folder(progress) if settings.data == DEMO else Path(settings.data).absolute()
    if settings.labels:
        root = folder
        found = find_listed(
            root,
            Path(settings.labels),
            findings=settings.findings,
            class_names=settings.class_names,
            patient_pattern=settings.patient_pattern,
            skip_missing=settings.skip_unreadable,
            keep_identifiers=settings.keep_identifiers,
        )
    else:
        root = data_set_root(folder, settings.class_names)
        found = find_images(
            root,
            settings.class_names,
            settings.patient_pattern,
            only,
            keep_identifiers=settings.keep_identifiers,
        )
    files = {image.digest: image.path for image in found.images}
    cache = open_cache(files, preprocessing, progress=progress)
    unreadable = [image for image in found.images if image.digest in cache.unreadable]
    if unreadable and not settings.skip_unreadable:
        listed = "; ".join(
            f"{str(image.path.relative_to(root))!r}: {cache.unreadable[image.digest]}"
            for image in unreadable[:3]
        )
        raise DataError(
            f"{len(unreadable)} unreadable images in {str(root)!r} ({listed}): "
            "repair them, or leave them out with --skip-unreadable"
        )
    if unreadable:
        found.images = [image for image in found.images if image.digest in cache.rows]
        found.skipped["unreadable"] += len(unreadable)
    return root, found, cache


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images that one folder of a data set holds, or all of them.

    Attributes:
        root: The data set's folder.
        images: The images.
        flat: Whether the data set has no such folders.
    """

    root: Path
    images: Images
    flat: bool

    @property
    def digest(self) -> str:
        """Fingerprint of the labelled images: 16 hexadecimal digits."""
        return summary.digest(self.images.files)


def open_split(
    settings: DataSettings,
    preprocessing: Preprocessing,
    split: str,
    progress: Progress | None = None,
) -> Split:
    """Open the images of one folder of a data set.

    Args:
        settings: Which data.
        preprocessing: How to decode it.
        split: ``train``, ``val``, ``test``, or ``all`` of it, as for a flat data set.
        progress: Called with how many images are decoded.

    Raises:
        DataError: There are no such images, or some cannot be read.
        UsageError: There is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
    only = None if split == "all" else {split}
    root, found, cache = find_readable(settings, preprocessing, progress, only)
    files = [image for image in found.images if split in {"all", image.part}]
    if not files:
        parts = ", ".join(part_folders(root)) or "none"
        raise DataError(
            f"no images in {split!r} of {str(root)!r} (folders with images: {parts}): use --split "
            "with one of them, or all"
        )
    return Split(root, images_of(files, cache), flat=found.parts == {""})


def images_of(files: Sequence[ImageFile], cache: Cache) -> Images:
    """Look up files in a cache, and give them as tensors."""
    return Images(
        torch.from_numpy(cache.pixels),  # (N, H, W)
        torch.tensor([cache.rows[file.digest] for file in files], dtype=torch.int64),
        torch.tensor([file.label for file in files], dtype=torch.int64),
        tuple(files),
    )
