"""The settings of one training run: what an experiment file fixes and a search varies."""

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from pneumonia.config.settings import Settings
from pneumonia.errors import UsageError

Metric = Literal[
    "auc", "accuracy", "balanced_accuracy", "average_precision", "f1", "loss", "stress"
]
"""Validation metrics that may choose the best epoch and trial.

``stress`` is the worst AUC of the stress test, which then runs after each epoch.
"""

THRESHOLD_RULES = ("stress", "youden", "accuracy")
"""Rules without a number that choose the operating point."""

_LEAST = re.compile(r"(sensitivity|specificity)>=(0?\.\d+|1(?:\.0*)?)")


def least_share(rule: str) -> tuple[str, float] | None:
    """What a rule such as ``sensitivity>=0.95`` keeps, and its least value; None for others."""
    match = _LEAST.fullmatch(rule.replace(" ", ""))
    return (match[1], float(match[2])) if match else None


def check_threshold_rule(rule: str, named: tuple[str, ...] = THRESHOLD_RULES) -> str:
    """Check a rule that chooses the operating point, and return it.

    Args:
        rule: What was asked for.
        named: The rules without a number that are taken.

    Raises:
        UsageError: It is no rule.
    """
    if rule in named or least_share(rule):
        return rule
    try:
        known = 0 <= float(rule) <= 1
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"threshold = {rule!r}: give {', '.join(named)}, "
            "sensitivity>=0.95, specificity>=0.9, or a probability from 0 to 1"
        )
    return rule


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value of a metric beats the best so far; a NaN never does, and loses to any number.

    More is better but for ``loss``.
    """
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    return value < best if metric == "loss" else value > best


class TrainingSettings(Settings):
    """How to train. Each field is a key of an experiment file and an option of the commands."""

    network: str = Field(default="resnet34", description="Network to train.")
    weights: str = Field(
        default="none", description="Initial weights: 'imagenet', 'none', or a file."
    )
    image_size: int = Field(default=128, ge=32, le=1024, description="Side of the input in pixels.")
    resize: Literal["stretch", "pad"] = Field(
        default="stretch", description="How an image becomes square."
    )
    epochs: int = Field(default=10, ge=1, le=10_000, description="Passes over the training images.")
    batch_size: int = Field(
        default=64, ge=2, le=65_536, description="Images a step, of all processes together."
    )
    optimizer: Literal["adam", "adamw"] = Field(default="adamw", description="Optimizer.")
    learning_rate: float = Field(default=1e-3, ge=1e-8, le=10, description="Highest learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="Weight decay.")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        default="cosine", description="Learning-rate schedule."
    )
    warmup: float = Field(
        default=0.1, ge=0, le=0.9, description="Share of the steps spent warming up."
    )
    standardise: bool = Field(
        default=False,
        description="Give each image a standard brightness and contrast before the first layer.",
    )
    dropout: float = Field(default=0.0, ge=0, le=0.95, description="Dropout probability.")
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5, description="Label smoothing.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="Weights of the classes in the loss."
    )
    augmentation: float = Field(
        default=1.0, ge=0, le=4, description="Strength of augmentation; 0 is none."
    )
    crop: float = Field(
        default=1.0,
        ge=0.05,
        le=1,
        description="Smallest share of the area that a random crop keeps; 1 does not crop.",
    )
    brightness: float = Field(
        default=0.15, ge=0, le=1, description="Largest change of brightness by augmentation."
    )
    contrast: float = Field(
        default=0.2, ge=0, le=1, description="Largest change of contrast by augmentation."
    )
    gamma: float = Field(
        default=0.0, ge=0, le=2, description="Largest change of log gamma by augmentation."
    )
    flip: float = Field(default=0.0, ge=0, le=1, description="Probability of mirroring an image.")
    blur: float = Field(
        default=0.0, ge=0, le=0.1, description="Largest blur, as a share of the image's side."
    )
    noise: float = Field(
        default=0.0, ge=0, le=1, description="Largest noise, as a share of the grey levels' range."
    )
    border: float = Field(
        default=0.0, ge=0, le=0.45, description="Widest border, as a share of the side."
    )
    border_grey: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the borders of a random grey; the others are black.",
    )
    shading: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Largest change of brightness from the middle to one side, as a share of it.",
    )
    clip_norm: float = Field(
        default=0.0, ge=0, le=1e6, description="Largest gradient norm; 0 is no limit."
    )
    ema: float = Field(
        default=0.0, ge=0, le=0.99999, description="Decay of averaged weights; 0 is none."
    )
    patience: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Epochs without a better metric to stop after; 0 is never.",
    )
    metric: Metric = Field(
        default="auc",
        description="Validation metric that chooses the best epoch and trial; 'stress' is the "
        "worst AUC under changes of the images, and takes longer.",
    )
    threshold: str = Field(
        default="stress",
        description="Rule for the operating point: 'stress', 'youden', 'accuracy', "
        "'sensitivity>=0.95', 'specificity>=0.9', or a probability.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of training.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="Device to train on."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="Precision of the network."
    )

    @field_validator("weights")
    @classmethod
    def _absolute_path(cls, weights: str) -> str:
        """A run may be resumed from another folder."""
        if not weights:
            raise UsageError("weights = '': give none, imagenet or a file")
        return weights if weights in {"none", "imagenet"} else str(Path(weights).absolute())

    @field_validator("threshold", mode="before")
    @classmethod
    def _known_rule(cls, threshold: Any) -> str:
        return check_threshold_rule(str(threshold))  # a file may hold a number

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the chosen metric is better."""
        return self.metric != "loss"

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value of the chosen metric beats the best so far; see ``is_better``."""
        return is_better(self.metric, value, best)
