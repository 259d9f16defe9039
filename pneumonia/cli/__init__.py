"""The ``pneumonia`` command. Heavy imports happen inside commands, so that help is quick."""

import os
import signal
from typing import Any

import click

from pneumonia import __version__
from pneumonia.cli.app import app
from pneumonia.cli.audit import audit
from pneumonia.cli.compare import compare
from pneumonia.cli.completion import completion
from pneumonia.cli.cross_validate import cross_validate
from pneumonia.cli.doctor import doctor
from pneumonia.cli.ensemble import ensemble
from pneumonia.cli.evaluate import evaluate
from pneumonia.cli.explain import explain
from pneumonia.cli.export import export
from pneumonia.cli.group import ErrorReportingGroup
from pneumonia.cli.predict import predict
from pneumonia.cli.promote import promote
from pneumonia.cli.recalibrate import recalibrate
from pneumonia.cli.reproduce import reproduce
from pneumonia.cli.study import study
from pneumonia.cli.sync import sync
from pneumonia.cli.train import train
from pneumonia.cli.ui import demo, ui
from pneumonia.errors import UsageError


@click.group(
    cls=ErrorReportingGroup,
    # MLflow passes parameters as they are named in MLproject: --batch_size for --batch-size.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__)
@click.option("-q", "--quiet", is_flag=True, help="Say warnings and errors only, and results.")
@click.option("-v", "--verbose", is_flag=True, help="Say all settings as well.")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, verbose: bool) -> None:
    """Train, compare, register and use networks that tell pneumonia on chest X-rays.

    \b
    pneumonia train                                   the demo, on synthetic images
    pneumonia train --data chest_xray --trials 20     a search on your own images
    pneumonia ui                                      compare runs in the browser
    pneumonia predict --model-uri models:/resnet34/1 images/
    """
    del quiet, verbose  # read by the group, before the command begins
    if ctx.invoked_subcommand != "train" and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UsageError(
            f"torchrun is for training only: start {ctx.invoked_subcommand!r} without it"
        )


cli.add_section("Train", train, cross_validate, ensemble, study, reproduce)
cli.add_section("Look at data and runs", audit, ui, compare, demo)
cli.add_section("Use a model", predict, app, evaluate, recalibrate, explain, export, promote)
cli.add_section("After a crash or an outage", doctor, sync)
cli.add_section("Shell", completion)


def main() -> None:
    """Run the command line; a polite request to stop (SIGTERM) ends a run like Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    cli(prog_name="pneumonia")


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt
