"""``--dry-run`` of the commands that train."""

from collections.abc import Callable
from typing import Any

import click

from pneumonia.cli.group import print_json
from pneumonia.cli.progress import ProgressBar

_NOT_ESTIMATED = (
    *("jobs", "join", "register", "tracking_uri", "experiment_name"),
    *("study", "storage", "sampler", "pruner", "keep_checkpoints"),
)


def dry_run_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--dry-run``."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Check settings and data, time a few steps, and estimate time and memory; no run is "
        "made.",
    )(command)


def print_estimate(options: dict[str, Any], *, as_json: bool) -> None:
    """Estimate what a command with these options would take, and print it."""
    from pneumonia.workflows.dry_run import dry_run

    kept = {name: value for name, value in options.items() if name not in _NOT_ESTIMATED}
    estimate = dry_run(**kept, progress=ProgressBar())
    if as_json:
        print_json(estimate.as_json())
    else:
        click.echo(estimate.report)
