"""Checking settings against what their dataclass fields declare.

A field's metadata may hold ``choices`` (a tuple), ``range`` (lowest and highest), and ``help``.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from pneumonia.errors import UsageError, nearest


def check_fields(settings: Any) -> None:
    """Check every field of a frozen settings object, and turn integers into floats where due.

    Raises:
        UsageError: A value is of the wrong kind, out of range, or not among the choices.
    """
    for item in fields(settings):
        object.__setattr__(settings, item.name, checked(item, getattr(settings, item.name)))


def checked(item: Field[Any], value: Any) -> Any:
    """Check one value against the dataclass field it is for; integers may stand for floats.

    Raises:
        UsageError: The value is of the wrong kind, out of range, or not among the choices.
    """
    wanted: Any = item.type
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UsageError(
            f"{item.name} = {value!r} is a {type(value).__name__}, not a {wanted.__name__}"
        )
    choices: tuple[str, ...] = item.metadata.get("choices", ())
    if choices and value not in choices:
        raise UsageError(f"unknown {item.name} {value!r}: {nearest(value, choices)}")
    if "range" in item.metadata:
        low, high = item.metadata["range"]
        if not (math.isfinite(value) and low <= value <= high):
            raise UsageError(f"{item.name} = {value} is out of range: give {low} to {high}")
    return value


def as_parameters(settings: Any) -> Mapping[str, Any]:
    """The settings by name, as they are logged."""
    return {item.name: getattr(settings, item.name) for item in fields(settings)}
