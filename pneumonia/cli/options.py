"""Options made from the settings' own fields, so that names, help and ranges are said once."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings

Command = Callable[..., Any]


def settings_options(command: Command) -> Command:
    """Add an option for each setting of training and data; unset means the experiment's value."""
    for kind in (DataSettings, TrainingSettings):
        for item in reversed(fields(kind)):
            if item.name not in ("data", "network"):
                command = _option(item)(command)
    command = click.option(
        "--network",
        default="auto",
        show_default=True,
        help="Network to train; 'auto' is the experiment's.",
    )(command)
    command = click.option(
        "--experiment",
        default="auto",
        show_default=True,
        help="Name in experiments/ or a TOML file; 'auto' is the network's, or the demo's.",
    )(command)
    return click.option(
        "--data",
        default="demo",
        show_default=True,
        help="Data set folder, or 'demo' for synthetic images made on the spot.",
    )(command)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The settings the user gave, by name."""
    # 'auto' is a value of its own only for the device and the precision.
    return {
        key: value
        for key, value in values.items()
        if value is not None and (value != "auto" or key in {"device", "precision"})
    }


def tracking_options(command: Command) -> Command:
    """Add the options that say where runs are kept."""
    command = click.option(
        "--experiment-name",
        envvar="MLFLOW_EXPERIMENT_NAME",
        default="Default",
        show_default=True,
        help="MLflow experiment to log to.",
    )(command)
    return tracking_uri_option(command)


def tracking_uri_option(command: Command) -> Command:
    """Add ``--tracking-uri``."""
    return click.option(
        "--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db."
    )(command)


def flag(name: str, *, default: bool | None, help: str) -> Callable[[Command], Command]:  # noqa: A002 - Click's word
    """An option that is on when named alone, and takes true or false, as MLproject passes it."""
    return click.option(
        f"--{name}",
        is_flag=False,
        flag_value="true",
        type=click.BOOL,
        default=default,
        help=help,
        show_default=default is not None,
        metavar="[BOOLEAN]",
    )


def _option(item: Any) -> Callable[[Command], Command]:
    name, text = item.name.replace("_", "-"), item.metadata["help"]
    if item.type is bool:
        return flag(name, default=None, help=text)
    if "choices" in item.metadata:
        kind: Any = click.Choice(item.metadata["choices"])
    else:
        kind = {int: click.INT, float: click.FLOAT}.get(item.type, click.STRING)
    return click.option(f"--{name}", type=kind, help=text)
