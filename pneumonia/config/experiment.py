"""Experiment files: a network, its fixed settings, the data's roles, and a search space."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pneumonia.config.checking import checked
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.space import Dimension, parse_space
from pneumonia.config.training import TrainingSettings
from pneumonia.errors import PneumoniaError, UsageError, nearest
from pneumonia.networks.registry import network_named

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Experiment:
    """What to run.

    Attributes:
        name: The file's name without its ending.
        training: The fixed settings.
        data: The data's settings.
        space: What a search varies.
    """

    name: str
    training: TrainingSettings
    data: DataSettings
    space: Mapping[str, Dimension]


def experiment_files() -> dict[str, Path]:
    """The experiments that come with the package, and those in ``./experiments``, by name."""
    package = Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    for folder in (package / "experiments", package.parent / "experiments", Path("experiments")):
        found |= {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return found


def load_experiment(name: str, overrides: Mapping[str, Any]) -> Experiment:
    """Read an experiment and lay the command line's values over it.

    Args:
        name: A name, a path ending in ``.toml``, or ``auto``: the demo experiment for the demo
            set, else the one named after the network.
        overrides: Settings given on the command line, by name. A setting fixed there is not
            searched.

    Raises:
        UsageError: The file is missing or wrong; the message names file, key and value.
    """
    if name == AUTO:
        asked = overrides.get("network")
        demo = overrides.get("data", DEMO) == DEMO
        name = "demo" if demo else str(asked or "resnet34")
        if asked:
            network_named(asked)
    files = experiment_files()
    path = Path(name) if name.endswith(".toml") else files.get(name)
    if path is None or not path.is_file():
        raise UsageError(f"no experiment {name!r}: {nearest(name, files)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        experiment = _parse(path.stem, table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    except PneumoniaError as error:
        raise UsageError(f"{path}: {error}") from None
    training_keys = {item.name for item in fields(TrainingSettings)}
    training = {key: value for key, value in overrides.items() if key in training_keys}
    data = {key: value for key, value in overrides.items() if key not in training_keys}
    settings = replace(experiment.training, **training)
    network_named(settings.network)
    space = {key: value for key, value in experiment.space.items() if key not in overrides}
    return Experiment(experiment.name, settings, replace(experiment.data, **data), space)


def _parse(name: str, table: Mapping[str, Any]) -> Experiment:
    known = ("description", "training", "data", "space")
    for key in table:
        if key not in known:
            raise UsageError(f"unknown key {key!r}: {nearest(key, known)}")
    training = TrainingSettings(**_section(TrainingSettings, "training", table))
    network_named(training.network)
    data = DataSettings(**_section(DataSettings, "data", table))
    return Experiment(name, training, data, parse_space(table.get("space", {})))


def _section(kind: type, section: str, table: Mapping[str, Any]) -> dict[str, Any]:
    items = {item.name: item for item in fields(kind) if item.name != "data"}
    given = table.get(section, {})
    if not isinstance(given, dict):
        raise UsageError(f"{section} = {given!r}: write a table [{section}]")
    for key in given:
        if key not in items:
            raise UsageError(f"[{section}] unknown key {key!r}: {nearest(key, items)}")
    return {key: checked(items[key], value) for key, value in given.items()}
