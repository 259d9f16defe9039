"""``pneumonia recalibrate``."""

from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.group import print_field, print_json, print_next, print_run
from pneumonia.cli.options import (
    flag,
    given,
    json_option,
    labelled_images_options,
    model_uri_option,
    tracking_options,
)
from pneumonia.cli.progress import ProgressBar

if TYPE_CHECKING:
    from pneumonia.tracking.recalibration import RecalibrationResult


@click.command(short_help="Fit a model's probabilities to images of another source.")
@model_uri_option
@click.option("--data", required=True, help="Labelled data set folder, new to the model.")
@labelled_images_options(split="all")
@click.option(
    "--threshold",
    default="0.5",
    show_default=True,
    help="The operating point: a probability, or a rule: 'youden', 'accuracy', "
    "'sensitivity>=0.95', 'specificity>=0.9'.",
)
@flag("register", default=True, help="Register the recalibrated model as a new version.")
@tracking_options
@json_option
def recalibrate(
    model_uri: str, data: str, tracking_uri: str | None, as_json: bool, **options: Any
) -> None:
    """Fit a model's probabilities to labelled images of the source where it is used.

    The network does not change, so that some hundred images are enough, and no GPU is needed. The
    metrics after it are cross-fitted: each image is scored by a fit without its patient.

    \b
    pneumonia recalibrate --model-uri models:/resnet34@champion --data our_hospital
    pneumonia recalibrate --model-uri models:/resnet34/1 --data scans --threshold accuracy
    """
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect
    from pneumonia.workflows.recalibrate import recalibrate as run

    connect(tracking_uri)
    model = load_model(model_uri)
    result = run(model, data, **given(options), progress=ProgressBar(), on_run=print_run)
    if as_json:
        print_json(result.as_json())
    else:
        _print_result(result)


def _print_result(result: "RecalibrationResult") -> None:
    from pneumonia.evaluation.intervals import value_text
    from pneumonia.tracking.recalibration_card import SHOWN

    click.echo(f"{'':18} {'before':22} after, cross-fitted")
    for key in SHOWN:
        before, after = (
            value_text(scores.metrics[key], scores.intervals[key])
            for scores in (result.before, result.after)
        )
        click.echo(f"{key:18} {before:22} {after}")
    scaling, point = result.scaling, result.point
    low, high = point.interval
    chosen = f" ({low:.2f}–{high:.2f}) by {point.rule}" if point.chosen else ""
    print_field(
        "fitted",
        f"temperature {scaling.temperature:.3f}, intercept {scaling.intercept:.3f}, threshold "
        f"{point.threshold:g}{chosen}",
    )
    print_field("model", f"{result.model_uri} ({result.verdict})")
    if result.warning:
        print_field("warning", result.warning)
    print_next(f"pneumonia predict --model-uri {result.model_uri} IMAGES")
