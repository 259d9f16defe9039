"""``pneumonia predict``: a model on images."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from pneumonia.cli.options import (
    FloatInRange,
    device_option,
    gate_option,
    model_uri_option,
    threshold_option,
    tracking_options,
)
from pneumonia.cli.progress import ProgressBar
from pneumonia.errors import UsageError


@click.command(short_help="Classify images, one row each.")
@model_uri_option
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
@threshold_option
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images a forward pass.",
)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="Precision: auto is bf16 where that is fast. int8 needs pneumonia[onnx], and is faster on "
    "processors. Labels are those of fp32 in any.",
)
@click.option(
    "--resume", is_flag=True, help="Keep the rows that a stopped job left in --output, and go on."
)
@click.option(
    "--shard", default="", metavar="K/N", help="Classify part K of N of the images: one a machine."
)
@gate_option
@click.option(
    "--prevalence",
    type=FloatInRange(0, 1, min_open=True, max_open=True),
    help="Share of pneumonia where the model is used: probabilities and threshold are re-weighted "
    "for it, and labels stay.",
)
@click.option(
    "--coverage",
    type=FloatInRange(0, 1, min_open=True, max_open=True),
    help="Give no label where more than one class, or none, is possible at this coverage.",
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
    coverage: float | None,
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
    # torch reads this when it is imported. Its threads then sleep while they wait, and leave the
    # cores to those that decode: that predicts a fifth more images a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pneumonia.data.folders import describe_skipped
    from pneumonia.tracking.http_registry import load_http_model
    from pneumonia.tracking.local_registry import load_local_model
    from pneumonia.workflows.predict import predict_to_file

    needs_mlflow = track or spark is not None
    model = None
    if not needs_mlflow:
        model = load_local_model(model_uri, tracking_uri) or load_http_model(
            model_uri, tracking_uri
        )
    if model is None:
        from pneumonia.tracking.models import load_model
        from pneumonia.tracking.store import connect

        connect(tracking_uri)
        model = load_model(model_uri)
    bar = ProgressBar()
    if spark is not None:
        from pneumonia.workflows.predict_on_spark import predict_on_spark

        counts = predict_on_spark(
            model,
            paths,
            _folder_for_spark(
                output, (track, resume, shard, prevalence, coverage, precision != "auto")
            ),
            spark,
            stdin=sys.stdin,
            threshold=threshold,
            gate=gate,
            trust_model_code=trust_model_code,
            on_batch=partial(bar, "scoring"),
        )
    else:
        counts = predict_to_file(
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
            coverage=coverage,
            resume=resume,
            part=shard,
            on_batch=partial(bar, "scoring"),
        )
    bar.close()
    if track:
        from pneumonia.workflows.log_prediction import log_prediction

        log_prediction(model, paths, output, counts, experiment_name=experiment_name)
    results = counts.results
    listed = ", ".join(f"{count:,} {key}" for key, count in sorted(results.items()))
    click.echo(f"{results.total():,} images: {listed or 'none found'}", err=True)
    if counts.skipped:
        click.echo(f"skipped: {describe_skipped(counts.skipped)}", err=True)
    if counts.warnings:
        click.echo(f"warning: {counts.warnings:,} of them look unusual", err=True)
    if results["error"] or not results.total():
        sys.exit(1)
    if results["rejected"]:
        sys.exit(3)


def _folder_for_spark(output: Path | None, others: Sequence[object]) -> Path:
    if output is None or output.is_file():
        raise UsageError("--spark needs --output FOLDER")
    if any(others):
        raise UsageError(
            "--track, --resume, --shard, --prevalence, --coverage and --precision are for files: "
            "leave them out with --spark"
        )
    return output
