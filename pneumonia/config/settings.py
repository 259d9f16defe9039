"""What all settings have in common: they are checked, and say in one line what is wrong."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pneumonia.errors import UsageError, nearest


class Settings(BaseModel):
    """Settings that cannot change. Each field declares its type, default, range and help once.

    Raises:
        UsageError: A name is unknown, or a value is of the wrong type, out of range or not among
            the choices. An integer may stand for a float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(_message(type(self), error.errors()[0])) from None

    def with_values(self, **changes: Any) -> Self:
        """A copy with some values changed, checked like any other.

        Raises:
            UsageError: A name or a value is wrong.
        """
        return type(self)(**{**dict(self), **changes})

    def parameters(self) -> dict[str, Any]:
        """The settings by name, as they are logged."""
        return self.model_dump()

    def options(self) -> list[str]:
        """The settings as options of a command, without those that are empty."""
        return options_of(self.parameters())


def options_of(values: Mapping[str, Any]) -> list[str]:
    """Values by name as options of a command, without those that are empty."""
    words = []
    for name, value in values.items():
        if str(value) != "":
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            words += [f"--{name.replace('_', '-')}", shown]
    return words


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The values a field may take; empty where it is free."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def check_value(kind: type[Settings], name: str, value: Any) -> Any:
    """Check one value against the field it is for, and return it as the field holds it.

    Raises:
        UsageError: The value is of the wrong type, out of range or not among the choices.
    """
    return getattr(kind(**{name: value}), name)


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are not known.

    Raises:
        UsageError: One is not; the message says which is meant.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise UsageError(f"unknown key {name!r}: {nearest(name, known)}")


def _message(kind: type[Settings], error: ErrorDetails) -> str:
    name, value = str(error["loc"][0]), error["input"]
    if error["type"] == "extra_forbidden":
        return f"unknown key {name!r}: {nearest(name, kind.model_fields)}"
    field = kind.model_fields[name]
    if error["type"] == "literal_error" and isinstance(value, str):
        return f"unknown {name} {value!r}: {nearest(value, choices_of(field))}"
    if error["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        return f"{name} = {value} is out of range: {_range(field)}"
    if error["type"] == "missing":
        return f"{name} is missing"
    wanted = "str" if choices_of(field) else getattr(field.annotation, "__name__", "number")
    return f"{name} = {value!r} is a {type(value).__name__}, not a {wanted}"


def _range(field: FieldInfo) -> str:
    low = next((item.ge for item in field.metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in field.metadata if isinstance(item, Le)), None)
    if low is None:
        return "give a finite number"
    return f"give at least {low}" if high is None else f"give {low} to {high}"
