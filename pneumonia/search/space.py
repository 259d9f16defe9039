"""Drawing a trial's settings from the search space."""

from typing import Any

import optuna

from pneumonia.config.space import Space
from pneumonia.config.training import TrainingSettings


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Draw one value for each dimension."""
    drawn: dict[str, Any] = {}
    for key, dimension in space.items():
        if dimension.choices:
            drawn[key] = trial.suggest_categorical(key, dimension.choices)
        elif TrainingSettings.model_fields[key].annotation is int:
            low, high = int(dimension.low), int(dimension.high)
            drawn[key] = trial.suggest_int(key, low, high, log=dimension.log)
        else:
            drawn[key] = trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)
    return drawn
