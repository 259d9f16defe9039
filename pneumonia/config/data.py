"""Which images a run uses, and in which role."""

from dataclasses import dataclass, field

from pneumonia.config.checking import check_fields
from pneumonia.errors import UsageError

DEMO = "demo"
"""The value of ``data`` that asks for synthetic images, made on the spot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What to read and how to split it. Each field is a key of an experiment file and an option."""

    data: str = field(
        default=DEMO,
        metadata={"help": "Data set folder, or 'demo' for synthetic images made on the spot."},
    )
    classes: str = field(
        default="NORMAL,PNEUMONIA",
        metadata={"help": "Names of the two class folders, the one to be detected last."},
    )
    train_folders: str = field(
        default="train,val", metadata={"help": "Folders to train on, separated by commas."}
    )
    validation_folders: str = field(
        default="",
        metadata={
            "help": "Folders to validate on; empty takes validation_share of the training folders."
        },
    )
    test_folders: str = field(
        default="test",
        metadata={"help": "Folders to test on; where missing, test_share is held out."},
    )
    validation_share: float = field(
        default=0.15,
        metadata={
            "help": "Share of images for validation, split by patient.",
            "range": (0.02, 0.5),
        },
    )
    test_share: float = field(
        default=0.15,
        metadata={"help": "Share held out for test if there is no folder.", "range": (0.02, 0.5)},
    )
    subset: float = field(
        default=1.0,
        metadata={
            "help": "Share of the training patients to use, for quick tries.",
            "range": (0.001, 1),
        },
    )
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split, apart from that of training."}
    )
    patient_pattern: str = field(
        default="",
        metadata={"help": "Regular expression with a 'patient' group, for other file names."},
    )
    skip_unreadable: bool = field(
        default=False, metadata={"help": "Leave unreadable images out instead of stopping."}
    )
    allow_leakage: bool = field(
        default=False, metadata={"help": "Go on though splits share patients or images."}
    )

    def __post_init__(self) -> None:
        """Refuse values no run could use (UsageError)."""
        check_fields(self)
        two = names(self.classes)
        if len(two) != 2 or two[0].casefold() == two[1].casefold():
            raise UsageError(
                f"classes = {self.classes!r}: name two classes, the one to detect last"
            )

    @property
    def class_names(self) -> tuple[str, str]:
        """The negative and the positive class."""
        negative, positive = names(self.classes)
        return negative, positive


def names(commas: str) -> list[str]:
    """Split ``train,val`` into its names."""
    return [name.strip() for name in commas.split(",") if name.strip()]
