"""``pneumonia export``."""

from pathlib import Path

import click

from pneumonia.cli.options import tracking_uri_option


@click.command(short_help="Write a model as ONNX.")
@click.option(
    "--model-uri", required=True, help="models:/NAME/VERSION, models:/NAME@champion, or runs:/…"
)
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="ONNX file to write.",
)
@tracking_uri_option
def export(model_uri: str, output: Path, tracking_uri: str | None) -> None:
    """Write a model as ONNX, checked against PyTorch before it is written.

    It takes grey levels 0–255, float32 (B, SIDE, SIDE), and gives the probability of the positive
    class; threshold, class names and side are in the file's metadata.

    \b
    pneumonia export --model-uri models:/resnet34/1 --output resnet34.onnx
    """
    from pneumonia.prediction.onnx_export import export_onnx
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect

    connect(tracking_uri)
    difference = export_onnx(load_model(model_uri), output)
    click.echo(f"{output}: within {difference:.1g} of PyTorch")
