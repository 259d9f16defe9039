"""``pneumonia explain``: where the evidence lies."""

import sys
from collections import Counter
from pathlib import Path

import click

from pneumonia.cli.options import model_uri_option, tracking_uri_option


@click.command(short_help="Write Grad-CAM overlays of images.")
@model_uri_option
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the overlays.",
)
@click.option(
    "--dicom",
    is_flag=True,
    help="Write those of DICOM files as DICOM: a secondary capture, and a structured report. Both "
    "carry the patient's identifiers, as all that belongs to a study does.",
)
@tracking_uri_option
def explain(
    model_uri: str, paths: tuple[str, ...], output: Path, dicom: bool, tracking_uri: str | None
) -> None:
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
    for row in explain_images(load_model(model_uri), files, output, dicom=dicom):
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
