"""``pneumonia reproduce``."""

import click

from pneumonia.cli.group import print_run
from pneumonia.cli.options import FloatInRange, tracking_uri_option
from pneumonia.cli.progress import ProgressBar


@click.command()
@click.argument("run_id")
@click.option(
    "--tolerance",
    default=0.0,
    show_default=True,
    type=FloatInRange(0, 1),
    help="Largest difference of a metric; another number of threads makes small ones.",
)
@tracking_uri_option
def reproduce(run_id: str, tolerance: float, tracking_uri: str | None) -> None:
    """Train once more as a run did, and compare the results.

    Exit code 3 where the data are not the same, or a metric differs by more than the tolerance.

    \b
    pneumonia reproduce 0b1c2d3e4f5061728394a5b6c7d8e9f0
    """
    from pneumonia.workflows.reproduce import check_reproduction
    from pneumonia.workflows.reproduce import reproduce as run

    result = run(run_id, tracking_uri=tracking_uri, progress=ProgressBar(), on_run=print_run)
    for name, (then, now) in result.conditions.items():
        click.echo(f"{name}: {then} then, {now} now")
    for name, (before, after) in result.metrics.items():
        if before != after:
            click.echo(f"{name:32} {before:.6f} {after:.6f} {after - before:+.2g}")
    click.echo(f"{len(result.metrics)} metrics, largest difference {result.largest_difference:.2g}")
    check_reproduction(result, tolerance)
