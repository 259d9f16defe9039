"""The settings of a search."""

from typing import Literal

from pydantic import Field

from pneumonia.config.settings import Settings


class SearchSettings(Settings):
    """How to search. Each field is an option of ``pneumonia train``."""

    trials: int = Field(
        default=1,
        ge=1,
        description="Trials of an Optuna search; 1 trains once with the fixed settings.",
    )
    folds: int = Field(
        default=1,
        ge=1,
        description="Folds to score each trial by, by their mean; 1 takes the validation images.",
    )
    timeout: float | None = Field(
        default=None, ge=0, description="Start no trial after these seconds."
    )
    study: str = Field(default="", description="Name of the Optuna study.")
    storage: str = Field(default="", description="Optuna storage URL; ./optuna.db by default.")
    sampler: Literal["tpe", "gp", "random"] = Field(
        default="tpe", description="What draws the settings of a trial."
    )
    pruner: Literal["median", "hyperband", "none"] = Field(
        default="median", description="What ends poor trials early."
    )
    keep_checkpoints: Literal["winner", "all"] = Field(
        default="winner", description="Whose best checkpoint is kept."
    )
