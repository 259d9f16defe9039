"""``pneumonia predict``, ``evaluate`` and ``explain``: a registered model on images."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from pneumonia.cli.group import print_run, progress
from pneumonia.cli.options import FloatInRange, flag, tracking_options, tracking_uri_option

_MODEL_URI = click.option(
    "--model-uri", required=True, help="models:/NAME/VERSION, models:/NAME@champion, or runs:/…"
)
_THRESHOLD = click.option(
    "--threshold", type=FloatInRange(0, 1), help="Least probability called positive."
)


@click.command()
@_MODEL_URI
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the rows.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
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
@click.option("--track", is_flag=True, help="Log the batch as an MLflow run.")
@tracking_options
def predict(
    model_uri: str,
    paths: tuple[str, ...],
    file_format: str,
    output: Path | None,
    threshold: float | None,
    batch_size: int,
    device: str,
    precision: str,
    track: bool,
    tracking_uri: str | None,
    experiment_name: str,
) -> None:
    """Classify images: files, folders, or - for paths from standard input.

    One row an image: path, label, probability, status, error, model. An unreadable file is a row
    with status 'error'; then the exit code is 1.

    \b
    pneumonia predict --model-uri models:/resnet34/1 images/ > rows.csv
    find . -name '*.png' | pneumonia predict --model-uri models:/resnet34@champion -
    """
    # Read when torch is imported: its threads sleep while they wait, and those that decode have the
    # cores. That predicts a fifth more images a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pneumonia.prediction.batch import find_paths, score
    from pneumonia.prediction.rows import open_writer
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.runs import parent_run
    from pneumonia.tracking.store import choose_experiment, connect

    connect(tracking_uri)
    model = load_model(model_uri)
    files = find_paths(paths, sys.stdin)
    counts: dict[str, int] = {}
    with open_writer(file_format, output) as write:
        scored = score(
            model,
            files,
            batch_size=batch_size,
            device=device,
            precision=precision,
            threshold=threshold,
        )
        for rows in scored:
            write(rows)
            for row in rows:
                result = row["label"] or row["status"]
                counts[result] = counts.get(result, 0) + 1
            if sys.stderr.isatty():
                click.echo(f"\r{sum(counts.values()):,} images", err=True, nl=False)
    if track:
        choose_experiment(experiment_name)
        with parent_run(f"predict-{model.config.network}", {"kind": "predict"}) as run:
            run.log_parameters({"model_uri": model.uri, "paths": " ".join(paths)})
            run.log_metrics({f"count/{key}": value for key, value in counts.items()})
            run.tag({"model_uri": model.uri, "model.run_id": model.run_id or ""})
            if output is not None:
                run.log_file(output.name, output.read_bytes())
    listed = ", ".join(f"{count:,} {key}" for key, count in sorted(counts.items()))
    click.echo(f"\n{sum(counts.values()):,} images: {listed or 'none found'}", err=True)
    if counts.get("error") or not counts:
        sys.exit(1)


@click.command()
@_MODEL_URI
@click.option("--data", default="demo", show_default=True, help="Labelled data set folder.")
@click.option(
    "--split", default="test", show_default=True, help="Folder to score: train, val, test, or all."
)
@click.option("--classes", default="", help="Class folders, if not those of the model.")
@flag("skip-unreadable", default=False, help="Leave unreadable images out.")
@_THRESHOLD
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to evaluate on.",
)
@tracking_options
def evaluate(
    model_uri: str,
    data: str,
    split: str,
    classes: str,
    skip_unreadable: bool,
    threshold: float | None,
    device: str,
    tracking_uri: str | None,
    experiment_name: str,
) -> None:
    """Score a registered model on labelled images, in a run linked to it.

    \b
    pneumonia evaluate --model-uri models:/resnet34/1 --data chest_xray --split test
    """
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect
    from pneumonia.workflows.evaluate import evaluate as run

    connect(tracking_uri)
    metrics, intervals = run(
        load_model(model_uri),
        data,
        split=split,
        classes=classes,
        skip_unreadable=skip_unreadable,
        threshold=threshold,
        device=device,
        experiment_name=experiment_name,
        progress=progress("preparing"),
        on_run=print_run,
    )
    for key, value in metrics.items():
        low_high = intervals.get(key)
        interval = f"  ({low_high[0]:.4f}–{low_high[1]:.4f})" if low_high else ""
        click.echo(f"{key:18} {value:.4f}{interval}")


@click.command()
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
    from pneumonia.prediction.batch import find_paths
    from pneumonia.prediction.explanation import explain_images
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect

    connect(tracking_uri)
    failures: list[Any] = []
    for row in explain_images(load_model(model_uri), find_paths(paths, sys.stdin), output):
        click.echo("\t".join(str(row[key]) for key in ("path", "label", "probability", "overlay")))
        if row["status"] == "error":
            failures.append(row)
            click.echo(f"{row['path']!r}: {row['error']}", err=True)
    if failures:
        click.echo(f"{len(failures)} images could not be read", err=True)
        sys.exit(1)
