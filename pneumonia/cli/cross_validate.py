"""``pneumonia cross-validate``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.dry_run import dry_run_option, print_estimate
from pneumonia.cli.group import print_field, print_json, print_next, print_run
from pneumonia.cli.options import (
    flag,
    given,
    json_option,
    refuse_options_beside_resume,
    settings_options,
    tracking_options,
)
from pneumonia.cli.progress import ProgressBar
from pneumonia.errors import UsageError

if TYPE_CHECKING:
    from pneumonia.tracking.cross_validation import CrossValidation


@click.command("cross-validate", short_help="Train once a fold, and score each image out of fold.")
@settings_options
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Number of folds, stratified by class and grouped by patient.",
)
@flag("register", default=False, help="Test and register the ensemble of the folds' networks.")
@click.option(
    "--resume", default="", metavar="RUN_ID", help="Go on with a cross-validation that was stopped."
)
@flag(
    "join", default=False, help="With --resume: train folds of a run that another process works on."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Workers on this machine that share the folds; by default as many as make it faster.",
)
@tracking_options
@dry_run_option
@json_option
def cross_validate(resume: str, join: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Train once a fold, and score each image by the network that did not see its patient.

    The images are those for training and validation; test images are for the ensemble only.

    \b
    pneumonia cross-validate --data chest_xray --folds 5
    pneumonia cross-validate --data chest_xray --folds 5 --register
    pneumonia cross-validate --resume 0b1c2d3e4f5061728394a5b6c7d8e9f0
    """
    if join and not resume:
        raise UsageError("--join needs the run to join: --resume RUN_ID")
    if resume:
        refuse_options_beside_resume("join", "jobs", "tracking_uri", "as_json")
    elif dry_run:
        print_estimate(given(options), as_json=as_json)
        return
    from pneumonia.workflows import cross_validate as workflow

    arguments: dict[str, Any] = {"progress": ProgressBar(), "on_run": print_run}
    if join:
        workflow.join_cross_validation(
            resume, tracking_uri=options["tracking_uri"], progress=arguments["progress"]
        )
        return
    if resume:
        kept = {name: options[name] for name in ("jobs", "tracking_uri")}
        result = workflow.resume_cross_validation(resume, **kept, **arguments)
    else:
        result = workflow.cross_validate(**given(options), **arguments)
    if as_json:
        print_json(asdict(result))
    else:
        _print_result(result)


def _print_result(result: "CrossValidation") -> None:
    from pneumonia.evaluation.intervals import value_text

    for metric, row in result.metrics.items():
        of_folds = f"{row.mean:.4f} ± {row.deviation:.4f}"
        pooled = value_text(row.pooled, row.interval, digits=4)
        click.echo(f"{metric:18} {of_folds}   pooled {pooled}")
    low, high = result.interval
    print_field("threshold", f"{result.threshold:g} ({low:.2f}–{high:.2f}), by {result.rule}")
    if result.ensemble:
        from pneumonia.tracking.results import summary

        print_field("test", f"{summary(result.ensemble)}, of the ensemble")
        print_field("model", f"{result.ensemble.model_uri} ({result.ensemble.verdict})")
    print_next()
