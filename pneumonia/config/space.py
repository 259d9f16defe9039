"""The search space of an experiment: which settings a search varies, and between what."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pneumonia.config.settings import Settings, check_value
from pneumonia.config.training import TrainingSettings
from pneumonia.errors import UsageError, nearest

_FIXED = ("network", "metric", "device", "seed")
"""Settings one search must not vary: its trials would not be comparable."""


class Dimension(Settings):
    """One setting's range or choices.

    Attributes:
        low: Lowest value, where it is a range.
        high: Highest value, where it is a range.
        log: Whether to sample the range by its logarithm.
        choices: The values to choose from, where it is no range.
    """

    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[Any, ...] = Field(default=(), strict=False)  # JSON holds a list


Space = Mapping[str, Dimension]


def parse_space(table: Any) -> dict[str, Dimension]:
    """Check a ``[space]`` table.

    Raises:
        UsageError: It names no setting, or a value the setting cannot have.
    """
    if not isinstance(table, dict):
        raise UsageError(f"space = {table!r}: write a table [space]")
    return {key: _dimension(key, value) for key, value in table.items()}


def point_inside(space: Space, settings: TrainingSettings) -> dict[str, Any]:
    """The fixed settings as a point of the space, without those that lie outside it."""
    point = {}
    for key, dimension in space.items():
        value = getattr(settings, key)
        if (
            value in dimension.choices
            if dimension.choices
            else dimension.low <= value <= dimension.high
        ):
            point[key] = value
    return point


def clip_batch_size(space: Space, n_images: int) -> dict[str, Dimension]:
    """Leave out batch sizes that are larger than the training set, which no trial could use."""
    clipped = dict(space)
    if "batch_size" not in space:
        return clipped
    sizes = space["batch_size"]
    choices = tuple(size for size in sizes.choices if size <= n_images)
    if choices or (sizes.low <= n_images and not sizes.choices):
        high = min(sizes.high, n_images)
        clipped["batch_size"] = sizes.with_values(choices=choices, high=high)
    else:
        del clipped["batch_size"]
    return clipped


def _dimension(key: str, value: Any) -> Dimension:
    variable = [name for name in TrainingSettings.model_fields if name not in _FIXED]
    if key not in variable:
        raise UsageError(f"[space] {key}: no setting to search; {nearest(key, variable)}")
    if not isinstance(value, dict):
        raise UsageError(
            f"[space] {key} = {value!r}: write {{low = …, high = …}} or {{choices = […]}}"
        )
    for name in value:
        if name not in Dimension.model_fields:
            raise UsageError(f"[space] {key}.{name}: {nearest(name, Dimension.model_fields)}")
    if "choices" in value:
        choices = value["choices"]
        if not isinstance(choices, list) or not choices or len(value) > 1:
            raise UsageError(f"[space] {key} = {value!r}: choices is a list, and stands alone")
        checked = tuple(check_value(TrainingSettings, key, choice) for choice in choices)
        return Dimension(choices=checked)
    number = TrainingSettings.model_fields[key].annotation in (int, float)
    if not number or not {"low", "high"} <= value.keys():
        raise UsageError(f"[space] {key} = {value!r}: a number needs low and high, a word choices")
    low, high = (check_value(TrainingSettings, key, value[end]) for end in ("low", "high"))
    log = value.get("log", False)
    if low > high or (log is True and low <= 0) or not isinstance(log, bool):
        raise UsageError(f"[space] {key} = {value!r}: low must not be above high, nor 0 under log")
    return Dimension(low=low, high=high, log=log)
