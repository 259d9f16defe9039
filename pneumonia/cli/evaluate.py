"""``pneumonia evaluate``: a model on labelled images, or a table of predictions."""

from pathlib import Path
from typing import Any

import click

from pneumonia.cli.group import print_json, print_run
from pneumonia.cli.options import (
    FloatInRange,
    given,
    json_option,
    labelled_images_options,
    threshold_option,
    tracking_options,
)
from pneumonia.cli.progress import ProgressBar
from pneumonia.errors import UsageError


@click.command(short_help="Score a model on labelled images.")
@click.option("--model-uri", help="models:/NAME/VERSION, models:/NAME@champion, or runs:/…")
@click.option(
    "--predictions",
    help="A file predictions_….csv, or a run or model that left one: compute its metrics again.",
)
@click.option(
    "--role",
    default="test",
    show_default=True,
    help="Which predictions of a run: test, validation.",
)
@click.option(
    "--prevalence",
    type=FloatInRange(0, 1),
    help="Share of pneumonia where the model is to be used: the predictive values there.",
)
@click.option("--data", default="demo", show_default=True, help="Labelled data set folder.")
@labelled_images_options(split="test")
@threshold_option
@tracking_options
@json_option
def evaluate(
    model_uri: str | None,
    predictions: str | None,
    role: str,
    prevalence: float | None,
    data: str,
    threshold: float | None,
    tracking_uri: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a registered model on labelled images, in a run linked to it.

    With --predictions instead of a model, the metrics of a table of predictions are computed again,
    at another --threshold or --prevalence, and nothing is logged.

    \b
    pneumonia evaluate --model-uri models:/resnet34/1 --data chest_xray --split test
    pneumonia evaluate --predictions models:/resnet34/1 --prevalence 0.05
    """
    if (model_uri is None) == (predictions is None):
        raise UsageError("give either --model-uri or --predictions")
    from pneumonia.evaluation.intervals import value_text
    from pneumonia.evaluation.metrics import predictive_values
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.predictions import find_predictions
    from pneumonia.tracking.store import connect
    from pneumonia.workflows.evaluate import evaluate as run
    from pneumonia.workflows.evaluate import evaluate_predictions

    if predictions is None or not Path(predictions).is_file():
        connect(tracking_uri)
    if predictions is not None:
        scores = evaluate_predictions(find_predictions(predictions, role), threshold)
    elif model_uri is not None:
        scores = run(
            load_model(model_uri),
            data,
            threshold=threshold,
            **given(options),
            progress=ProgressBar(),
            on_run=print_run,
        )
    if as_json:
        kept = {"metrics": scores.metrics, "intervals": scores.intervals}
        print_json({**kept, "times_scored": scores.times_scored})
        return
    for key, value in scores.metrics.items():
        click.echo(f"{key:18} {value_text(value, scores.intervals.get(key), digits=4)}")
    if scores.times_scored > 1:
        click.echo(f"These test images were scored by {scores.times_scored} runs of this store.")
    if prevalence is not None:
        of_ill, of_others = scores.metrics["sensitivity"], scores.metrics["specificity"]
        values = predictive_values(of_ill, of_others, prevalence)
        for name, value in zip(("precision", "npv"), values, strict=True):
            click.echo(f"{name} at prevalence {prevalence:g}: {value:.4f}")
