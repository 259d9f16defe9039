"""Make the picture of the README from the figures of a run on the demo set.

python docs/picture.py RUN_ID --tracking-uri sqlite:///mlflow.db
"""

import io
from pathlib import Path

import click
import mlflow
from PIL import Image

_ROWS = (("curves", "confusion_test"), ("grad_cam", "stress"))
_WIDTH, _GAP = 1100, 12
_TARGET = Path(__file__).parent / "pages" / "picture.jpg"


@click.command()
@click.argument("run_id")
@click.option("--tracking-uri", default="sqlite:///mlflow.db", show_default=True)
def main(run_id: str, tracking_uri: str) -> None:
    """Lay the figures out in rows of one width."""
    mlflow.set_tracking_uri(tracking_uri)
    if mlflow.get_run(run_id).data.params["data"] != "demo":
        raise click.ClickException("only pictures of the demo set may be published")
    rows = [_row([_figure(run_id, name) for name in names]) for names in _ROWS]
    height = sum(row.height + _GAP for row in rows)
    picture = Image.new("RGB", (_WIDTH, height), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + _GAP
    picture.save(_TARGET, quality=88, subsampling=0, optimize=True)
    click.echo(f"{_TARGET}: {_TARGET.stat().st_size // 1000} KB, {picture.size}")


def _figure(run_id: str, name: str) -> Image.Image:
    path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/figures/{name}.png")
    return Image.open(io.BytesIO(Path(path).read_bytes())).convert("RGB")


def _row(figures: list[Image.Image]) -> Image.Image:
    """Figures beside each other, as high as makes them fill the width."""
    space = _WIDTH - _GAP * (len(figures) - 1)
    height = round(space / sum(figure.width / figure.height for figure in figures))
    row = Image.new("RGB", (_WIDTH, height), "white")
    left = 0
    for figure in figures:
        width = round(height * figure.width / figure.height)
        row.paste(figure.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        left += width + _GAP
    return row


if __name__ == "__main__":
    main()
