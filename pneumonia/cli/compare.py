"""``pneumonia compare``."""

import math
from dataclasses import asdict
from pathlib import Path

import click

from pneumonia.cli.group import print_json
from pneumonia.cli.options import FloatInRange, json_option, tracking_uri_option


@click.command(short_help="Compare two models on the same images.")
@click.argument("first")
@click.argument("second")
@click.option(
    "--role",
    default="test",
    show_default=True,
    help="Which images that the runs scored: test, validation.",
)
@click.option("--metric", default="auc", show_default=True, help="What the verdict is about.")
@click.option(
    "--require",
    type=click.Choice(["better", "non-inferior"]),
    help="Exit with code 3 unless the first model is.",
)
@click.option(
    "--margin",
    default=0.01,
    show_default=True,
    type=FloatInRange(0, 1),
    help="By how much a non-inferior model may be worse.",
)
@click.option(
    "--gallery",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG file to draw the images into that the two call differently.",
)
@tracking_uri_option
@json_option
def compare(
    first: str,
    second: str,
    role: str,
    metric: str,
    require: str | None,
    margin: float,
    gallery: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare two models on the same images: is FIRST better than SECOND?

    Each is a model's URI, the id of a run, or a file predictions_….csv of one. The differences have
    95 % intervals by a bootstrap over patients; two AUCs are compared by DeLong's test, decisions
    by McNemar's.

    \b
    pneumonia compare models:/resnet34/2 models:/simple_cnn/1
    pneumonia compare RUN_ID OTHER_RUN_ID --require non-inferior --margin 0.005
    """
    from pneumonia.tracking.store import connect
    from pneumonia.workflows.compare import check_verdict
    from pneumonia.workflows.compare import compare as run

    if not all(Path(source).is_file() for source in (first, second)):
        connect(tracking_uri)
    result = run(first, second, role=role, metric=metric, margin=margin, gallery=gallery)
    verdict = result.verdict(metric, margin)
    if as_json:
        content = {k: v for k, v in asdict(result).items() if k != "disagreements"}
        print_json({"verdict": verdict, "metric": metric, **content})
        if require:
            check_verdict(result, metric, margin, require)
        return
    click.echo(f"{result.n_images:,} images of {result.n_patients:,} patients\n")
    click.echo(f"{'':18} {'first':>8} {'second':>8} {'difference':>11}  95 % interval")
    for name, row in result.differences.items():
        low, high = row.interval
        interval = "not known" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"
        click.echo(
            f"{name:18} {row.first:8.4f} {row.second:8.4f} {row.first - row.second:+11.4f}  "
            f"{interval}"
        )
    if result.auc is not None:
        auc = result.auc
        click.echo(
            f"\nDeLong    AUC {auc.difference:+.4f} ({auc.low:+.4f} to {auc.high:+.4f}), "
            f"p = {auc.p_value:.3g}"
        )
    click.echo(
        f"McNemar   {result.only_first_right} images only the first calls right, "
        f"{result.only_second_right} only the second, p = {result.mcnemar_p:.3g}"
    )
    said = {
        "better": "the first is better",
        "worse": "the first is worse",
        "non-inferior": f"the first is not worse by more than {margin:g}",
        "undecided": "these images cannot tell",
    }
    click.echo(f"verdict   {verdict} by {metric}: {said[verdict]}")
    if require is not None:
        check_verdict(result, metric, margin, require)
