"""The settings of one training run: what an experiment file fixes and a search varies."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pneumonia.config.checking import check_fields

if TYPE_CHECKING:
    from pneumonia.data.decode import Preprocessing

METRICS = {
    "auc": True,
    "accuracy": True,
    "balanced_accuracy": True,
    "average_precision": True,
    "f1": True,
    "loss": False,
}
"""Validation metrics that may choose the best epoch and trial, and whether more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How to train. Each field is a key of an experiment file and an option of the commands."""

    network: str = field(default="resnet34", metadata={"help": "Network to train."})
    weights: str = field(
        default="none", metadata={"help": "Initial weights: 'imagenet', 'none', or a file."}
    )
    image_size: int = field(
        default=128, metadata={"help": "Side of the input in pixels.", "range": (32, 1024)}
    )
    resize: str = field(
        default="stretch",
        metadata={"help": "How an image becomes square.", "choices": ("stretch", "pad")},
    )
    epochs: int = field(
        default=10, metadata={"help": "Passes over the training images.", "range": (1, 10_000)}
    )
    batch_size: int = field(
        default=64,
        metadata={"help": "Images a step, of all processes together.", "range": (2, 65_536)},
    )
    optimizer: str = field(
        default="adamw", metadata={"help": "Optimizer.", "choices": ("adam", "adamw")}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Highest learning rate.", "range": (1e-8, 10)}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay.", "range": (0, 10)})
    schedule: str = field(
        default="cosine",
        metadata={
            "help": "Learning-rate schedule.",
            "choices": ("constant", "cosine", "one_cycle"),
        },
    )
    warmup: float = field(
        default=0.1,
        metadata={"help": "Share of the steps spent warming up.", "range": (0, 0.9)},
    )
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout probability.", "range": (0, 0.95)}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Label smoothing.", "range": (0, 0.5)}
    )
    class_weights: str = field(
        default="none",
        metadata={"help": "Weights of the classes in the loss.", "choices": ("none", "balanced")},
    )
    augmentation: float = field(
        default=1.0,
        metadata={"help": "Strength of augmentation; 0 is none.", "range": (0, 4)},
    )
    flip: float = field(
        default=0.0, metadata={"help": "Probability of mirroring an image.", "range": (0, 1)}
    )
    clip_norm: float = field(
        default=0.0, metadata={"help": "Largest gradient norm; 0 is no limit.", "range": (0, 1e6)}
    )
    ema: float = field(
        default=0.0,
        metadata={"help": "Decay of averaged weights; 0 is none.", "range": (0, 0.99999)},
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "Epochs without a better metric to stop after; 0 is never.",
            "range": (0, 10_000),
        },
    )
    metric: str = field(
        default="auc",
        metadata={
            "help": "Validation metric that chooses the best epoch and trial.",
            "choices": tuple(METRICS),
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of training.", "range": (0, 2**31 - 1)})
    device: str = field(
        default="auto",
        metadata={"help": "Device to train on.", "choices": ("auto", "cpu", "cuda", "mps")},
    )
    precision: str = field(
        default="auto",
        metadata={"help": "Precision of the network.", "choices": ("auto", "fp32", "bf16", "fp16")},
    )

    def __post_init__(self) -> None:
        """Refuse values no run could use (UsageError)."""
        check_fields(self)

    @property
    def preprocessing(self) -> "Preprocessing":
        """How images are decoded for the network."""
        from pneumonia.data.decode import Preprocessing  # slow, and options need no torch

        return Preprocessing(self.image_size, self.resize)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the chosen metric is better."""
        return METRICS[self.metric]

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value of the chosen metric beats the best so far."""
        return best is None or (value > best if self.higher_is_better else value < best)
