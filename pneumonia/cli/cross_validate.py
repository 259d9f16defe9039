"""``pneumonia cross-validate``."""

from typing import Any

import click

from pneumonia.cli.dry_run import dry_run_option, print_estimate
from pneumonia.cli.group import print_json, print_run
from pneumonia.cli.options import given, json_option, settings_options, tracking_options
from pneumonia.cli.progress import ProgressBar


@click.command("cross-validate", short_help="Train once a fold, and score each image out of fold.")
@settings_options
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Number of folds, stratified by class and grouped by patient.",
)
@tracking_options
@dry_run_option
@json_option
def cross_validate(dry_run: bool, as_json: bool, **options: Any) -> None:
    """Train once a fold, and score each image by the network that did not see its patient.

    The images are those for training and validation; test images stay out.

    \b
    pneumonia cross-validate --data chest_xray --folds 5
    """
    if dry_run:
        print_estimate(given(options), as_json=as_json)
        return
    from pneumonia.workflows.cross_validate import cross_validate as run

    summary = run(**given(options), progress=ProgressBar(), on_run=print_run)
    if as_json:
        keys = ("mean", "deviation", "pooled")
        print_json({name: dict(zip(keys, row, strict=True)) for name, row in summary.items()})
        return
    for metric, (mean, deviation, pooled) in summary.items():
        click.echo(f"{metric:18} {mean:.4f} ± {deviation:.4f}   pooled {pooled:.4f}")
