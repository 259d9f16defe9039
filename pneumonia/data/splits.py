"""Which images train, validate and test. Related images are never in two splits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pneumonia.config.data import PART_NAMES, DataSettings, names, part_name
from pneumonia.data.folders import Found, ImageFile
from pneumonia.errors import DataError, nearest

ROLES = ("train", "validation", "test")


def assign_roles(found: Found, settings: DataSettings) -> dict[str, list[ImageFile]]:
    """Give every image its role.

    Raises:
        DataError: A folder named for a role is missing, or a role lacks one of the classes.
    """
    flat = found.parts == {""}
    if flat and settings.validation_folders:
        raise DataError(
            f"validation_folders = {settings.validation_folders!r}, but the data set has no train, "
            "val and test folders: leave it out, and validation_share is held out"
        )
    if flat:
        pool = found.images
        test: list[ImageFile] = []
    else:
        pool = _from_folders(found, settings.train_folders, "train", required=True)
        test = _from_folders(found, settings.test_folders, "test", required=False)
    validation = (
        _from_folders(found, settings.validation_folders, "validation", required=True)
        if settings.validation_folders
        else []
    )
    if not test:
        pool, test = hold_out(pool, settings.test_share, settings.split_seed)
    if not validation:
        pool, validation = hold_out(pool, settings.validation_share, settings.split_seed)
    if settings.subset < 1:
        _, pool = hold_out(pool, settings.subset, settings.split_seed)
    roles = {"train": pool, "validation": validation, "test": test}
    for role, images in roles.items():
        for label, name in enumerate(settings.class_names):
            if not any(image.label == label for image in images):
                raise DataError(f"no {name} image to use for {role}; give more images or folders")
    return roles


def hold_out(
    images: Sequence[ImageFile], share: float, seed: int
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Hold out a share of the images of each class, keeping related images together.

    Args:
        images: What to split.
        share: Share of the images to hold out, 0–1. The number of images held out is as near to
            it as whole groups of related images allow (see ``related_groups``), and at least one
            group of each class is on either side.
        seed: Seed of the order in which groups are considered.

    Returns:
        The images left, and those held out, each in the order given.

    Raises:
        DataError: A class has only one group of related images.
    """
    groups = related_groups(images)
    labels = np.array([image.label for image in images], dtype=np.int64)
    _check_groups(groups, labels, 2)
    counts = np.zeros((groups.max() + 1, 2), dtype=np.int64)  # images by group and class
    np.add.at(counts, (groups, labels), 1)
    held = np.zeros(len(counts), dtype=bool)
    missing = counts.sum(axis=0) * share  # images still to be held out, by class
    left = counts.sum(axis=0)

    def may_move(group: int) -> bool:
        still = (counts[~held] > 0).sum(axis=0) - (counts[group] > 0)  # groups left, by class
        return not held[group] and bool((still > 0).all())

    order = np.random.default_rng(seed).permutation(len(counts))
    for group in order:
        nearer = np.abs(missing - counts[group]).sum() < np.abs(missing).sum()
        if nearer and (left > counts[group]).all():
            held[group] = True
            missing, left = missing - counts[group], left - counts[group]
    by_size = order[np.argsort(counts[order].sum(axis=1), kind="stable")]
    for label in (0, 1):  # a share smaller than every group holds out the smallest one
        if not counts[held, label].any():
            small = next((g for g in by_size if counts[g, label] and may_move(g)), None)
            if small is None:
                raise _too_few(1, 2)
            held[small] = True
    out = held[groups]
    return (
        [image for image, is_out in zip(images, out, strict=True) if not is_out],
        [image for image, is_out in zip(images, out, strict=True) if is_out],
    )


def patient_folds(
    images: Sequence[ImageFile], n_folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split into folds, stratified by class, keeping related images together.

    Args:
        images: What to split.
        n_folds: Number of folds.
        seed: Seed of the shuffle.

    Yields:
        Positions in ``images`` left, and in the fold, int64.

    Raises:
        DataError: A class has fewer groups of related images than folds.
    """
    groups = related_groups(images)
    labels = np.array([image.label for image in images], dtype=np.int64)
    _check_groups(groups, labels, n_folds)
    from sklearn.model_selection import StratifiedGroupKFold  # slow, and predict needs none

    folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    yield from folds.split(np.zeros(len(labels)), labels, groups)


def related_groups(images: Sequence[ImageFile]) -> NDArray[np.int64]:
    """Number the groups of related images.

    Two images are related when they show the same patient or have the same content, directly or
    through other images: a copy under another patient's name joins both patients to one group.

    Returns:
        The group of each image, int64 (n,), numbered from 0.
    """
    from scipy.sparse import coo_array  # slow, and predict needs none
    from scipy.sparse.csgraph import connected_components

    # Each image is an edge between its patient and its content.
    _, patients = np.unique([image.patient.key for image in images], return_inverse=True)
    _, contents = np.unique([image.digest for image in images], return_inverse=True)
    if not len(images):
        return np.zeros(0, dtype=np.int64)
    n_patients = int(patients.max()) + 1
    n_nodes = n_patients + int(contents.max()) + 1
    edges = coo_array(
        (np.ones(len(images)), (patients, n_patients + contents)), shape=(n_nodes, n_nodes)
    )
    _, components = connected_components(edges, directed=False)
    groups: NDArray[np.int64] = np.unique(components[patients], return_inverse=True)[1]
    return groups


def _check_groups(groups: NDArray[np.int64], labels: NDArray[np.int64], least: int) -> None:
    fewest = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if fewest < least:
        raise _too_few(fewest, least)


def _too_few(n_patients: int, n_parts: int) -> DataError:
    return DataError(
        f"{n_patients} patients of one class cannot be split into {n_parts} parts; "
        "give more patients or ask for fewer folds"
    )


def _from_folders(found: Found, folders: str, role: str, *, required: bool) -> list[ImageFile]:
    for name in names(folders):
        if part_name(name) not in PART_NAMES:
            raise DataError(f"unknown folder {name!r} for {role}: {nearest(name, PART_NAMES)}")
    parts = {part_name(name) for name in names(folders)}
    images = [image for image in found.images if image.part in parts]
    if required and not images:
        raise DataError(
            f"no images for {role}: the data set has {', '.join(sorted(found.parts))}, "
            f"and {role} is to come from {folders!r}"
        )
    return images
