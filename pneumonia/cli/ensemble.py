"""``pneumonia ensemble``."""

from typing import Any

import click

from pneumonia.cli.group import print_json, print_run
from pneumonia.cli.options import flag, json_option, tracking_uri_option
from pneumonia.cli.progress import ProgressBar
from pneumonia.cli.train import print_result


@click.command(short_help="Put trained networks together as one model.")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@flag("register", default=True, help="Register the ensemble under the network's name.")
@tracking_uri_option
@json_option
def ensemble(run_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Put trained networks together as one model, which answers with their mean probability.

    The runs are trainings of one network on one split; a run of 'train --seeds' stands for all of
    its seeds. The model takes as many times as long to predict as it has members.

    \b
    pneumonia train --data chest_xray --seeds 3
    pneumonia ensemble 0b1c2d3e4f5061728394a5b6c7d8e9f0
    """
    from pneumonia.workflows.ensemble import ensemble as run

    result = run(run_ids, **options, progress=ProgressBar(), on_run=print_run)
    if as_json:
        print_json(result.as_json())
    else:
        print_result(result)
