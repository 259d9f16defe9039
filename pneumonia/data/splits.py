"""Who is trained on, validated on and tested on. No patient is ever in two splits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pneumonia.config.data import DataSettings, names
from pneumonia.data.folders import Found, ImageFile
from pneumonia.errors import DataError, nearest

ROLES = ("train", "validation", "test")


def assign_roles(found: Found, settings: DataSettings) -> dict[str, list[ImageFile]]:
    """Give every image its role.

    Raises:
        DataError: A folder named for a role is missing, or a role lacks one of the classes.
    """
    if found.parts == {""}:
        pool = found.images
        test: list[ImageFile] = []
    else:
        pool = _from_folders(found, settings.train_folders, "train", required=True)
        test = _from_folders(found, settings.test_folders, "test", required=False)
    validation = (
        _from_folders(found, settings.validation_folders, "validation", required=True)
        if settings.validation_folders and found.parts != {""}
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
    """Take about ``share`` of the images away, stratified by class and grouped by patient.

    Returns:
        The images left, and those held out. A share over one half holds out the complement of
        the smaller part, so that ``subset=0.9`` works too.

    Raises:
        DataError: There are too few patients of a class.
    """
    if share > 1 / 2:
        held_out, left = hold_out(images, 1 - share, seed)
        return left, held_out
    n_folds = max(2, round(1 / share))
    first = next(patient_folds(images, n_folds, seed, at_most=True))
    left = [images[position] for position in first[0]]
    return left, [images[position] for position in first[1]]


def patient_folds(
    images: Sequence[ImageFile], n_folds: int, seed: int, *, at_most: bool = False
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split into folds, stratified by class and grouped by patient (StratifiedGroupKFold).

    Args:
        images: What to split.
        n_folds: Number of folds.
        seed: Seed of the shuffle.
        at_most: Make do with fewer folds where a class has fewer patients.

    Yields:
        Positions in ``images`` left, and in the fold, int64.

    Raises:
        DataError: A class has fewer patients than folds, or fewer than two.
    """
    labels = np.array([image.label for image in images])
    patients = np.array([image.patient.key for image in images])
    fewest = min(len(set(patients[labels == label])) for label in (0, 1))
    if fewest < (2 if at_most else n_folds):
        raise DataError(
            f"{fewest} patients of one class cannot be split into {n_folds} parts; "
            "give more patients or ask for fewer folds"
        )
    n_folds = min(n_folds, fewest)
    from sklearn.model_selection import StratifiedGroupKFold  # slow, and predict needs none

    folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    yield from folds.split(np.zeros(len(labels)), labels, patients)


def _from_folders(found: Found, folders: str, role: str, *, required: bool) -> list[ImageFile]:
    for name in names(folders):
        if name not in ("train", "val", "test"):
            raise DataError(
                f"unknown folder {name!r} for {role}: {nearest(name, ('train', 'val', 'test'))}"
            )
    images = [image for image in found.images if image.part in names(folders)]
    if required and not images:
        raise DataError(
            f"no images for {role}: the data set has {', '.join(sorted(found.parts))}, "
            f"and {role} is to come from {folders!r}"
        )
    return images
