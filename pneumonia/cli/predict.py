"""``pneumonia predict``, ``evaluate`` and ``explain``: a registered model on images."""

import os
import sys
from collections import Counter
from pathlib import Path

import click

from pneumonia.cli.group import print_json, print_run, progress
from pneumonia.cli.options import (
    FloatInRange,
    flag,
    json_option,
    tracking_options,
    tracking_uri_option,
)
from pneumonia.errors import UsageError

_MODEL_URI = click.option(
    "--model-uri", required=True, help="models:/NAME/VERSION, models:/NAME@champion, or runs:/…"
)
_THRESHOLD = click.option(
    "--threshold",
    type=FloatInRange(0, 1),
    help="Lowest probability called positive; the model's own by default.",
)


_GATE = click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    help="Give no probability to what looks like no chest X-ray, or unlike the training images.",
)


@click.command(short_help="Classify images, one row each.")
@_MODEL_URI
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl", "parquet", "html"]),
    help="Format of the rows; by default the ending of --output decides, else csv. html is a page "
    "of thumbnails, the most urgent first.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write to; standard output by default.",
)
@_THRESHOLD
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images a forward pass.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to predict on.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Precision: auto is bf16 where that is fast. Labels are those of fp32 in any.",
)
@click.option(
    "--resume", is_flag=True, help="Keep the rows that a stopped job left in --output, and go on."
)
@click.option(
    "--shard", default="", metavar="K/N", help="Classify part K of N of the images: one a machine."
)
@_GATE
@click.option(
    "--prevalence",
    type=FloatInRange(0, 1, min_open=True, max_open=True),
    help="Share of pneumonia where the model is used: probabilities and threshold are re-weighted "
    "for it, and labels stay.",
)
@click.option("--track", is_flag=True, help="Log the batch as an MLflow run.")
@click.option(
    "--spark",
    metavar="MASTER",
    help="Score on a Spark cluster, such as spark://HOST:7077 or local[4]; --output is a folder of "
    "Parquet files, and images whose rows it holds are left out.",
)
@click.option(
    "--trust-model-code",
    is_flag=True,
    help="With --spark, run a model's own scoring source even if it is not this version's.",
)
@tracking_options
def predict(
    model_uri: str,
    paths: tuple[str, ...],
    file_format: str | None,
    output: Path | None,
    threshold: float | None,
    batch_size: int,
    device: str,
    precision: str,
    resume: bool,
    shard: str,
    gate: bool,
    prevalence: float | None,
    track: bool,
    spark: str | None,
    trust_model_code: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
) -> None:
    """Classify images: files, folders, or - for paths from standard input.

    One row an image. Its status is ok, warning (unusual), rejected (no chest X-ray, or unlike those
    of the training; no probability) or error (unreadable), with the reason. The exit code is 1 if
    there are unreadable images, else 3 if any are rejected.

    \b
    pneumonia predict --model-uri models:/resnet34/1 images/ > rows.csv
    find . -name '*.png' | pneumonia predict --model-uri models:/resnet34@champion -
    """
    # Read when torch is imported: its threads sleep while they wait, and those that decode have the
    # cores. That predicts a fifth more images a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pneumonia.data.folders import describe_skipped
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect
    from pneumonia.workflows.predict import log_prediction, predict_on_spark, predict_to_file

    connect(tracking_uri)
    model = load_model(model_uri)
    counts = (
        predict_on_spark(
            model,
            paths,
            _folder_for_spark(output, track or resume or bool(shard) or prevalence is not None),
            spark,
            stdin=sys.stdin,
            threshold=threshold,
            gate=gate,
            trust_model_code=trust_model_code,
            on_batch=_show_count,
        )
        if spark is not None
        else predict_to_file(
            model,
            paths,
            output,
            stdin=sys.stdin,
            file_format=file_format,
            threshold=threshold,
            batch_size=batch_size,
            device=device,
            precision=precision,
            gate=gate,
            prevalence=prevalence,
            resume=resume,
            part=shard,
            on_batch=_show_count,
        )
    )
    if track:
        log_prediction(model, paths, output, counts, experiment_name=experiment_name)
    results = counts.results
    listed = ", ".join(f"{count:,} {key}" for key, count in sorted(results.items()))
    click.echo(f"\n{results.total():,} images: {listed or 'none found'}", err=True)
    if counts.skipped:
        click.echo(f"skipped: {describe_skipped(counts.skipped)}", err=True)
    if counts.warnings:
        click.echo(f"warning: {counts.warnings:,} of them look unusual", err=True)
    if results["error"] or not results.total():
        sys.exit(1)
    if results["rejected"]:
        sys.exit(3)


def _folder_for_spark(output: Path | None, others: bool) -> Path:
    if output is None or output.is_file():
        raise UsageError("--spark needs --output FOLDER")
    if others:
        raise UsageError(
            "--track, --resume, --shard and --prevalence are for files: leave them out with --spark"
        )
    return output


def _show_count(n_images: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{n_images:,} images", err=True, nl=False)


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
@click.option(
    "--split", default="test", show_default=True, help="Folder to score: train, val, test, or all."
)
@click.option(
    "--classes",
    default="",
    help="Class folders, if not named as the model's classes: FOLDER=CLASS,FOLDER=CLASS.",
)
@flag("skip-unreadable", default=False, help="Leave unreadable images out.")
@click.option("--labels", default="", help="CSV table of labels, in place of class folders.")
@click.option(
    "--findings",
    default="Pneumonia",
    show_default=True,
    help="Findings of a published table that make an image positive, by commas.",
)
@_THRESHOLD
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to evaluate on.",
)
@tracking_options
@json_option
def evaluate(
    model_uri: str | None,
    predictions: str | None,
    role: str,
    prevalence: float | None,
    data: str,
    split: str,
    classes: str,
    skip_unreadable: bool,
    labels: str,
    findings: str,
    threshold: float | None,
    device: str,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
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
            split=split,
            classes=classes,
            skip_unreadable=skip_unreadable,
            labels=labels,
            findings=findings,
            threshold=threshold,
            device=device,
            experiment_name=experiment_name,
            progress=progress("preparing"),
            on_run=print_run,
        )
    if as_json:
        kept = {"metrics": scores.metrics, "intervals": scores.intervals}
        print_json({**kept, "times_scored": scores.times_scored})
        return
    for key, value in scores.metrics.items():
        low_high = scores.intervals.get(key)
        interval = f"  ({low_high[0]:.4f}–{low_high[1]:.4f})" if low_high else ""
        click.echo(f"{key:18} {value:.4f}{interval}")
    if scores.times_scored > 1:
        click.echo(f"These test images were scored by {scores.times_scored} runs of this store.")
    if prevalence is not None:
        of_ill, of_others = scores.metrics["sensitivity"], scores.metrics["specificity"]
        values = predictive_values(of_ill, of_others, prevalence)
        for name, value in zip(("precision", "npv"), values, strict=True):
            click.echo(f"{name} at prevalence {prevalence:g}: {value:.4f}")


@click.command(short_help="Write Grad-CAM overlays of images.")
@_MODEL_URI
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the overlays.",
)
@tracking_uri_option
def explain(model_uri: str, paths: tuple[str, ...], output: Path, tracking_uri: str | None) -> None:
    """Write Grad-CAM overlays: where in each image the evidence for the positive class lies.

    \b
    pneumonia explain --model-uri models:/resnet34/1 images/ --output maps/
    """
    from pneumonia.data.folders import describe_skipped
    from pneumonia.prediction.explanation import explain_images
    from pneumonia.prediction.paths import find_paths
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect

    connect(tracking_uri)
    failed: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    files = find_paths(paths, sys.stdin, skipped)
    for row in explain_images(load_model(model_uri), files, output):
        click.echo("\t".join(str(row[key]) for key in ("path", "label", "probability", "overlay")))
        if row["status"] in ("error", "rejected"):
            failed[row["status"]] += 1
            click.echo(f"{row['path']!r}: {row['reason']}", err=True)
    if skipped:
        click.echo(f"skipped: {describe_skipped(skipped)}", err=True)
    if failed:
        listed = ", ".join(f"{count:,} {status}" for status, count in sorted(failed.items()))
        click.echo(f"without an overlay: {listed}", err=True)
        sys.exit(1 if failed["error"] else 3)
