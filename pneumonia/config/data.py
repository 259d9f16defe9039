"""Which images a run uses, and in which role."""

from pydantic import Field, field_validator

from pneumonia.config.settings import Settings
from pneumonia.errors import UsageError

DEMO = "demo"
"""The value of ``data`` that asks for synthetic images, made on the spot."""


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
        default="", description="Regular expression with a 'patient' group, for other file names."
    )
    skip_unreadable: bool = Field(
        default=False, description="Leave unreadable images out instead of stopping."
    )
    allow_leakage: bool = Field(
        default=False, description="Go on though splits share patients or images."
    )

    @field_validator("classes")
    @classmethod
    def _two_classes(cls, classes: str) -> str:
        two = names(classes)
        if len(two) != 2 or two[0].casefold() == two[1].casefold():
            raise UsageError(f"classes = {classes!r}: name two classes, the one to detect last")
        return classes

    @property
    def class_names(self) -> tuple[str, str]:
        """The negative and the positive class."""
        negative, positive = names(self.classes)
        return negative, positive


def names(commas: str) -> list[str]:
    """Split ``train,val`` into its names."""
    return [name.strip() for name in commas.split(",") if name.strip()]
