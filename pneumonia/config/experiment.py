"""Experiment files: a network, its fixed settings, the data's roles, and a search space."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.settings import Settings, check_names
from pneumonia.config.space import Dimension, parse_space
from pneumonia.config.training import TrainingSettings
from pneumonia.errors import PneumoniaError, UsageError, nearest

AUTO = "auto"

_LARGEST = 20_000
"""Bytes; the time that the parser takes grows with the square of a key's parts."""


class Experiment(Settings):
    """What to run.

    Attributes:
        name: The file's name without its ending.
        training: The fixed settings.
        data: The data's settings.
        space: What a search varies.
        changed: The settings that are not the file's own, and their values.
    """

    name: str
    training: TrainingSettings
    data: DataSettings
    space: dict[str, Dimension]
    changed: dict[str, Any] = Field(default_factory=dict)


def experiment_files() -> dict[str, Path]:
    """The experiments that come with the package, and those in ``./experiments``, by name."""
    package = Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    for folder in (package / "experiments", package.parent / "experiments", Path("experiments")):
        found |= {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return found


def load_experiment(name: str, overrides: Mapping[str, Any]) -> Experiment:
    """Read an experiment, and let given settings replace its own.

    Args:
        name: A name, a path ending in ``.toml``, or ``auto``: the demo experiment for the demo
            set, else the one named after the network.
        overrides: Training and data settings by name. A setting given here is not searched.

    Raises:
        UsageError: The file is missing or wrong; the message names file, key and value.
    """
    files = experiment_files()
    if name == AUTO:
        demo = overrides.get("data", DEMO) == DEMO
        network = overrides.get("network", "resnet34")
        name = "demo" if demo else str(network)
        if name not in files:
            raise UsageError(f"unknown network {network!r}: {nearest(network, files)}")
    path = Path(name) if name.endswith(".toml") else files.get(name)
    if path is None or not path.is_file():
        raise UsageError(f"no experiment {name!r}: {nearest(name, files)}")
    if (size := path.stat().st_size) > _LARGEST:
        raise UsageError(f"{path}: {size:,} bytes, over the {_LARGEST:,} of any experiment file")
    try:
        experiment = _parse(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # also of text that is not UTF-8, and of an endless number
        raise UsageError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: not an experiment: it is nested too deeply") from None
    except PneumoniaError as error:
        raise UsageError(f"{path}: {error}") from None
    check_names(overrides, [*TrainingSettings.model_fields, *DataSettings.model_fields])
    training = {k: v for k, v in overrides.items() if k in TrainingSettings.model_fields}
    data = {k: v for k, v in overrides.items() if k in DataSettings.model_fields}
    resolved = Experiment(
        name=experiment.name,
        training=experiment.training.with_values(**training),
        data=experiment.data.with_values(**data),
        space={key: value for key, value in experiment.space.items() if key not in overrides},
    )
    own = experiment.training.parameters() | experiment.data.parameters()
    now = resolved.training.parameters() | resolved.data.parameters()
    return resolved.with_values(changed={k: v for k, v in now.items() if v != own[k]})


def _parse(name: str, table: Mapping[str, Any]) -> Experiment:
    check_names(table, ("description", "training", "data", "space"))
    return Experiment(
        name=name,
        training=TrainingSettings(**_section(table, "training")),
        data=DataSettings(**_section(table, "data")),
        space=parse_space(table.get("space", {})),
    )


def _section(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise UsageError(f"{name} = {section!r}: write a table [{name}]")
    if name == "data":
        check_names(section, [key for key in DataSettings.model_fields if key != "data"])
    return section
