"""``pneumonia cross-validate``."""

from typing import Any

import click

from pneumonia.cli.options import given, settings_options, tracking_options


@click.command("cross-validate")
@settings_options
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Number of folds, stratified by class and grouped by patient.",
)
@tracking_options
def cross_validate(
    data: str,
    experiment: str,
    network: str,
    folds: int,
    tracking_uri: str | None,
    experiment_name: str,
    **settings: Any,
) -> None:
    """Train once a fold, and score each image by the network that did not see its patient.

    The images are those for training and validation; test images stay out.

    \b
    pneumonia cross-validate --data chest_xray --folds 5
    """
    from pneumonia.config.experiment import load_experiment
    from pneumonia.tracking.runs import parent_run
    from pneumonia.tracking.store import choose_experiment, connect
    from pneumonia.workflows.cross_validate import run_cross_validation
    from pneumonia.workflows.prepare import load_data

    chosen = load_experiment(experiment, given({"data": data, "network": network, **settings}))
    connect(tracking_uri)
    choose_experiment(experiment_name)
    loaded = load_data(chosen)
    name = f"{chosen.training.network}-{loaded.name}-cv{folds}"
    with parent_run(name, {"network": chosen.training.network, "kind": "cross-validation"}) as run:
        summary = run_cross_validation(run, chosen, loaded, folds)
        click.echo(f"run       {run.id}")
    for metric, (mean, deviation, pooled) in summary.items():
        click.echo(f"{metric:18} {mean:.4f} ± {deviation:.4f}   pooled {pooled:.4f}")
