"""Which images a run uses, and in which role."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from pneumonia.config.settings import Settings
from pneumonia.errors import UsageError

DEMO = "demo"
"""The value of ``data`` that asks for synthetic images, made on the spot."""


PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""The folders of a data set: how each is called here, and the names it is recognised by."""


class DataSettings(Settings):
    """What to read and how to split it. Each field is a key of an experiment file and an option."""

    data: str = Field(
        default=DEMO,
        description="Data set folder, or 'demo' for synthetic images made on the spot.",
    )
    classes: str = Field(
        default="NORMAL,PNEUMONIA",
        description="Names of the two class folders, the one to be detected last.",
    )
    labels: str = Field(
        default="",
        description="CSV table of labels, in place of class folders: columns path and label (and "
        "patient, split), or as NIH, RSNA, CheXpert, VinDr-CXR or PadChest publish theirs.",
    )
    findings: str = Field(
        default="Pneumonia",
        description="Findings of a published table that make an image positive, by commas.",
    )
    train_folders: str = Field(
        default="train,val", description="Folders to train on, separated by commas."
    )
    validation_folders: str = Field(
        default="",
        description="Folders to validate on; empty takes validation_share of the training folders.",
    )
    test_folders: str = Field(
        default="test", description="Folders to test on; where missing, test_share is held out."
    )
    validation_share: float = Field(
        default=0.15,
        ge=0.02,
        le=0.5,
        description="Share of images for validation, split by patient.",
    )
    test_share: float = Field(
        default=0.15, ge=0.02, le=0.5, description="Share held out for test if there is no folder."
    )
    subset: float = Field(
        default=1.0,
        ge=0.001,
        le=1,
        description="Share of the training patients to use, for quick tries.",
    )
    split_seed: int = Field(
        default=0, description="Seed of the split, apart from that of training."
    )
    patient_pattern: str = Field(
        default="",
        description="Regular expression with a 'patient' group, searched in each image's path "
        "relative to the data set.",
    )
    keep_identifiers: bool = Field(
        default=False,
        description="Name patients in the files of predictions by their id in DICOM files and "
        "tables, not by its hash.",
    )
    skip_unreadable: bool = Field(
        default=False, description="Leave unreadable images out instead of stopping."
    )
    allow_leakage: bool = Field(
        default=False, description="Continue though splits share patients or images."
    )
    allow_conflicting_labels: bool = Field(
        default=False, description="Continue though identical images are in both class folders."
    )

    @field_validator("classes")
    @classmethod
    def _two_classes(cls, classes: str) -> str:
        two = names(classes)
        if len(two) != 2 or two[0].casefold() == two[1].casefold():
            raise UsageError(f"classes = {classes!r}: name two classes, the one to detect last")
        return classes

    @field_validator("labels")
    @classmethod
    def _absolute_path(cls, labels: str) -> str:
        """A run may be resumed from another folder."""
        return str(Path(labels).absolute()) if labels else ""

    @model_validator(mode="after")
    def _one_role_a_folder(self) -> Self:
        roles: dict[str, str] = {}
        for role in ("train_folders", "validation_folders", "test_folders"):
            for folder in names(getattr(self, role)):
                other = roles.setdefault(part_name(folder), role)
                if other != role:
                    raise UsageError(
                        f"folder {folder!r} is in {other} and in {role}: a folder has one role, "
                        f"so leave it out of one, for instance with --{other.replace('_', '-')}"
                    )
        return self

    @property
    def class_names(self) -> tuple[str, str]:
        """The negative and the positive class."""
        negative, positive = names(self.classes)
        return negative, positive

    @property
    def parts(self) -> set[str]:
        """Which of ``train``, ``val`` and ``test`` have a role; the others are not read."""
        folders = (self.train_folders, self.validation_folders, self.test_folders)
        return {part_name(name) for role in folders for name in names(role)}


def names(commas: str) -> list[str]:
    """Split ``train,val`` into its names."""
    return [name.strip() for name in commas.split(",") if name.strip()]


def part_name(folder: str) -> str:
    """What a folder that a user names is called here: ``val`` for ``Validation``."""
    parts = (part for part, known_as in PART_NAMES.items() if folder.casefold() in known_as)
    return next(parts, folder)
