"""What is in a data set: counts by role, class and pathogen; duplicates; and leakage."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pneumonia.data.folders import ImageFile, describe_skipped
from pneumonia.errors import LabelError, LeakageError

Roles = Mapping[str, Sequence[ImageFile]]


@dataclass(frozen=True, slots=True)
class Leakage:
    """What is shared between two roles.

    Attributes:
        roles: The two roles.
        patients: Keys of the patients in both.
        images: Digests of the images in both.
    """

    roles: tuple[str, str]
    patients: tuple[str, ...]
    images: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in words, with one example."""
        example = (self.patients or self.images)[0]
        return (
            f"{self.roles[0]} and {self.roles[1]} share {len(self.patients)} patients "
            f"and {len(self.images)} identical images (such as {example})"
        )


def leakages(roles: Roles) -> list[Leakage]:
    """Find patients and identical images that are in more than one role."""
    found = []
    order = list(roles)
    for position, first in enumerate(order):
        for second in order[position + 1 :]:
            patients = _patients(roles[first]) & _patients(roles[second])
            images = _digests(roles[first]) & _digests(roles[second])
            if patients or images:
                shared = Leakage((first, second), tuple(sorted(patients)), tuple(sorted(images)))
                found.append(shared)
    return found


def refuse_leakage(roles: Roles) -> None:
    """Stop where a patient or an identical image is in two roles.

    Raises:
        LeakageError: There is one.
    """
    if shared := leakages(roles):
        raise LeakageError(
            f"{'; '.join(map(str, shared))}: results would flatter. "
            "Move the files, or go on with --allow-leakage"
        )


def refuse_conflicting_labels(images: Iterable[ImageFile]) -> None:
    """Stop where identical images are in both class folders.

    Raises:
        LabelError: There are some.
    """
    if pairs := conflicting_labels(images):
        listed = "; ".join(f"{str(one.path)!r} and {str(other.path)!r}" for one, other in pairs[:3])
        raise LabelError(
            f"{len(pairs)} images are in both class folders with identical content ({listed}): "
            "remove each from the wrong class, or continue with --allow-conflicting-labels"
        )


def unknown_patients(images: Sequence[ImageFile]) -> str:
    """A warning where more than a tenth of the file names tell no patient; else empty."""
    unknown = sum(not image.patient.known for image in images)
    if unknown <= len(images) / 10:
        return ""
    return (
        f"{unknown:,} of {len(images):,} file names tell no patient: each such image counts as its "
        "own patient, so one patient may be in several splits and the results may flatter; see "
        "--patient-pattern"
    )


def digest(images: Sequence[ImageFile]) -> str:
    """Fingerprint of a set of labelled images, wherever the files lie: 16 hexadecimal digits."""
    lines = sorted(f"{image.label} {image.digest}" for image in images)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def counts(images: Sequence[ImageFile], class_names: tuple[str, str]) -> dict[str, int]:
    """Count images by class and pathogen, patients, and duplicates by content."""
    result = {"images": len(images)}
    for label, name in enumerate(class_names):
        result[name] = sum(image.label == label for image in images)
    pathogens = Counter(image.patient.pathogen for image in images if image.patient.pathogen)
    result |= {pathogen: pathogens[pathogen] for pathogen in sorted(pathogens, key=str)}
    result["patients"] = len(_patients(images))
    result["duplicates"] = len(images) - len(_digests(images))
    return result


def report(roles: Roles, class_names: tuple[str, str], skipped: Counter[str]) -> str:
    """A table of counts by role, and a line for each thing a user should know."""
    rows = {role: counts(images, class_names) for role, images in roles.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = [
        ("", *columns),
        *((role, *(f"{row.get(column, 0):,}" for column in columns)) for role, row in rows.items()),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([f"{role:{widths[0]}}", *map(str.rjust, numbers, widths[1:])])
        for role, *numbers in table
    ]
    return "\n".join([*lines, *_remarks(roles, skipped)])


def _remarks(roles: Roles, skipped: Counter[str]) -> Iterator[str]:
    images = [image for part in roles.values() for image in part]
    unknown = sum(not image.patient.known for image in images)
    if warning := unknown_patients(images):
        yield warning
    elif unknown:
        yield (
            f"{unknown:,} of {len(images):,} file names tell no patient: each such image counts as "
            "its own patient (see --patient-pattern)"
        )
    if pairs := conflicting_labels(images):
        yield f"{len(pairs)} images are in both class folders with identical content"
    if skipped:
        yield f"skipped: {describe_skipped(skipped)}"
    yield from map(str, leakages(roles))


def conflicting_labels(images: Iterable[ImageFile]) -> list[tuple[ImageFile, ImageFile]]:
    """Find pairs of identical images with different labels, one pair for each content."""
    first: dict[str, ImageFile] = {}
    pairs: dict[str, tuple[ImageFile, ImageFile]] = {}
    for image in images:
        known = first.setdefault(image.digest, image)
        if known.label != image.label:
            pairs.setdefault(image.digest, (known, image))
    return list(pairs.values())


def _patients(images: Sequence[ImageFile]) -> set[str]:
    return {image.patient.key for image in images}


def _digests(images: Sequence[ImageFile]) -> set[str]:
    return {image.digest for image in images}
