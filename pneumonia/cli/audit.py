"""``pneumonia audit``."""

from pathlib import Path
from typing import Any

import click

from pneumonia.cli.options import data_options, given
from pneumonia.cli.progress import ProgressBar


@click.command()
@click.argument("data")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG file to draw images into that are there twice or almost so, in pairs.",
)
@data_options
def audit(data: str, sheet: Path | None, **values: Any) -> None:
    """Look for what would make results on a data set wrong.

    Counts images by role; looks for patients, identical and almost identical images in two roles or
    classes; and measures how well the files' size, compression and exposure alone tell the classes
    apart, and the test images from those of training. Exit code 3 if results would be invalid.

    \b
    pneumonia audit chest_xray --sheet pairs.png
    """
    from pneumonia.config.data import DataSettings
    from pneumonia.errors import CheckError
    from pneumonia.evaluation.intervals import value_text
    from pneumonia.workflows.audit import audit as run
    from pneumonia.workflows.audit import draw_alike

    found = run(DataSettings(data=data, **given(values)), ProgressBar())
    click.echo(found.data.report())
    click.echo(f"\n{'what it sees':20} {'class: AUC (95 % interval)':28} train or test: AUC")
    for row in found.shortcuts:
        of_label = value_text(row.label_auc, row.label_interval)
        of_test = value_text(row.test_auc, row.test_interval)
        mark = "  shortcut" if row.strong else ""
        click.echo(f"{row.name:20} {of_label:28} {of_test}{mark}")
    if any(row.strong for row in found.shortcuts):
        click.echo(
            "\nA shortcut tells the classes apart without looking at the lungs. A network may "
            "learn it, and then fails on images from elsewhere. Crops and changes of exposure in "
            "training hide it; the stress test of a training shows what is left."
        )
    for problem in found.problems[:20]:
        click.echo(f"problem: {problem}")
    if sheet is not None:  # last, since it may fail
        draw_alike(found, sheet)
    if found.problems:
        count = len(found.problems)
        problems = "1 problem" if count == 1 else f"{count:,} problems"
        raise CheckError(f"{problems} would make results wrong: see above")
