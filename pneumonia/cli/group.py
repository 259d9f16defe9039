"""How every command ends: one line for an error, and the exit code it stands for."""

import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Never

import click

from pneumonia.cli.progress import LogHandler, wrap_line
from pneumonia.errors import PneumoniaError

if TYPE_CHECKING:
    from pneumonia.tracking.runs import Run

INTERRUPTED = 130


class ErrorReportingGroup(click.Group):
    """A group whose commands show errors as one line and never as a traceback.

    With ``PNEUMONIA_DEBUG`` in the environment tracebacks are shown, for those who fix us.
    Its help lists the commands by purpose.
    """

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands under a title of their own."""
        for command in commands:
            self.add_command(command)
            self._sections.setdefault(title, []).append(command)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._sections: dict[str, list[click.Command]] = {}
        super().__init__(*arguments, **options)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, a list a section."""
        del ctx
        width = max(len(str(command.name)) for command in self.commands.values())
        limit = formatter.width - 6 - width
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (str(command.name).ljust(width), command.get_short_help_str(limit))
                        for command in commands
                    ]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what it raises into a message and an exit code."""
        for stream in (sys.stdin, sys.stdout):
            if isinstance(stream, io.TextIOWrapper):
                # A file name need not be UTF-8: it goes out as the bytes it came in as.
                stream.reconfigure(errors="surrogateescape")
        log = logging.getLogger("pneumonia")
        log.handlers = [LogHandler(sys.stderr)]
        if ctx.params.get("quiet"):
            log.setLevel(logging.WARNING)
        else:
            log.setLevel(logging.DEBUG if ctx.params.get("verbose") else logging.INFO)
        log.propagate = False
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted: what was logged so far is kept.", err=True)
            ctx.exit(INTERRUPTED)
        except PneumoniaError as error:
            _fail(ctx, str(error), error.exit_code, error)
        except Exception as error:  # noqa: BLE001 - the last resort, see above
            _fail(
                ctx,
                f"unexpected {type(error).__name__}: {error} "
                "(PNEUMONIA_DEBUG=1 shows where; please report it)",
                1,
                error,
            )


def print_run(run: "Run") -> None:
    """Print the id and the page of the MLflow run that a command logs to; not among JSON."""
    ctx = click.get_current_context()
    as_json = bool(ctx.params.get("as_json"))
    ctx.obj = ctx.obj or run  # the first one, which the others belong to
    click.echo(f"run       {run.id}", err=as_json)
    if run.link:
        click.echo(f"          {run.link}", err=as_json)


def print_next(*commands: str) -> None:
    """Print what to look at and to type next: the run's page where a server has one."""
    run = click.get_current_context().obj
    page = run.link if run is not None and run.link else "pneumonia ui"
    click.echo(f"next      {page}")
    for command in commands:
        click.echo(f"          {command}")


def print_field(name: str, text: str) -> None:
    """Print a result after its name; on a terminal in lines that fit."""
    line = f"{name:10}{text}"
    if sys.stdout.isatty():
        line = wrap_line(line, " " * 10)
    click.echo(line)


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one JSON object; what is no number, or not finite, as null or text."""
    click.echo(json.dumps(_plain(result), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _fail(ctx: click.Context, message: str, code: int, error: Exception) -> Never:
    if os.environ.get("PNEUMONIA_DEBUG"):
        raise error
    # One line, whatever file names and other programs' messages hold.
    click.echo("Error: " + " ".join(message.split()), err=True)
    ctx.exit(code)
