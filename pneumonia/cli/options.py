"""Options made from the settings' own fields, so that names, help and ranges are said once."""

import math
from collections.abc import Callable
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

from pneumonia.config.data import DataSettings
from pneumonia.config.search import SearchSettings
from pneumonia.config.settings import Settings, choices_of
from pneumonia.config.training import TrainingSettings
from pneumonia.errors import UsageError

Command = Callable[..., Any]


def settings_options(command: Command) -> Command:
    """Add an option for each setting of training and data; unset means the experiment's value."""
    command = data_options(command)
    command = _options_of(TrainingSettings, but=("network",))(command)
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


def data_options(command: Command) -> Command:
    """Add an option for each setting of data, but the data itself."""
    return _options_of(DataSettings, but=("data",))(command)


def labelled_images_options(*, split: str) -> Callable[[Command], Command]:
    """Options that say which labelled images a model is scored on, but the data itself.

    Args:
        split: The default of ``--split``.
    """
    named = ("labels", "findings", "patient_pattern", "skip_unreadable", "keep_identifiers")

    def add(command: Command) -> Command:
        command = device_option(command)
        command = _options_of(DataSettings, only=named)(command)
        command = click.option(
            "--classes",
            help="Class folders, if not named as the model's classes: FOLDER=CLASS,FOLDER=CLASS.",
        )(command)
        return click.option(
            "--split",
            default=split,
            show_default=True,
            help="Folder to score: train, val, test, or all.",
        )(command)

    return add


def search_options(command: Command) -> Command:
    """Add an option for each setting of a search."""
    return _options_of(SearchSettings, with_defaults=True)(command)


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
        help="MLflow experiment to log to; else MLFLOW_EXPERIMENT_ID, else "
        "MLFLOW_EXPERIMENT_NAME, else Default.",
    )(command)
    return tracking_uri_option(command)


def tracking_uri_option(command: Command) -> Command:
    """Add ``--tracking-uri``."""
    return click.option(
        "--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db."
    )(command)


def port_option(default: int) -> Callable[[Command], Command]:
    """An option ``--port``."""
    return click.option(
        "--port",
        default=default,
        show_default=True,
        type=click.IntRange(1, 65535),
        help="Port to listen on.",
    )


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
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


def refuse_options_beside_resume(*allowed: str) -> None:
    """Raise where another option is given: a run goes on as it was begun."""
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = str(parameter.name)
        typed = ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if typed and name not in ("resume", *allowed):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} cannot be given with --resume RUN_ID: a run goes on as it was begun; "
                f"leave {option} out, or begin another run"
            )


class FloatInRange(click.FloatRange):
    """A float within a range; unlike Click's own type it refuses NaN, which no bound excludes."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the option's text."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def _options_of(
    kind: type[Settings],
    *,
    but: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    with_defaults: bool = False,
) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for name, field in reversed(kind.model_fields.items()):
            if name not in but and (not only or name in only):
                default = field.default if with_defaults else None
                command = _option(name.replace("_", "-"), field, default)(command)
        return command

    return add


def _option(name: str, field: FieldInfo, default: Any) -> Callable[[Command], Command]:
    text = field.description or ""
    if field.annotation is bool:
        return flag(name, default=default, help=text)
    shown: dict[str, Any] = {"default": default, "show_default": bool(default), "help": text}
    if choices := choices_of(field):
        return click.option(f"--{name}", type=click.Choice(choices), **shown)
    # ``float | None`` takes a float.
    kind: Any = next(iter(get_args(field.annotation)), field.annotation)
    types = {int: click.INT, float: click.FLOAT}
    return click.option(f"--{name}", type=types.get(kind, click.STRING), **shown)


model_uri_option = click.option(
    "--model-uri", required=True, help="models:/NAME/VERSION, models:/NAME@champion, or runs:/…"
)
threshold_option = click.option(
    "--threshold",
    type=FloatInRange(0, 1),
    help="Lowest probability called positive; the model's own by default.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to compute on.",
)
gate_option = click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    help="Give no probability to what looks like no chest X-ray, or unlike the training images.",
)
