"""``pneumonia train`` and ``pneumonia cross-validate``."""

from typing import Any

import click

from pneumonia.cli.group import progress
from pneumonia.cli.options import flag, given, settings_options, tracking_options


@click.command()
@settings_options
@click.option(
    "--trials",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Trials of an Optuna search; 1 trains once with the fixed settings.",
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Begin no trial after these seconds.")
@click.option("--study", default="", help="Name of the Optuna study.")
@click.option("--storage", default="", help="Optuna storage URL; ./optuna.db by default.")
@click.option(
    "--pruner",
    type=click.Choice(["median", "hyperband", "none"]),
    default="median",
    show_default=True,
    help="What ends poor trials early.",
)
@flag("resume", default=False, help="Go on with the study named by --study.")
@click.option(
    "--keep-checkpoints",
    type=click.Choice(["winner", "all"]),
    default="winner",
    show_default=True,
    help="Whose best checkpoint is kept.",
)
@flag("register", default=True, help="Register the winner under the network's name.")
@tracking_options
def train(
    data: str,
    experiment: str,
    network: str,
    trials: int,
    timeout: float | None,
    study: str,
    storage: str,
    pruner: str,
    resume: bool,
    keep_checkpoints: str,
    register: bool,
    tracking_uri: str | None,
    experiment_name: str,
    **settings: Any,
) -> None:
    """Train a network, or search for the best settings, and register the winner.

    \b
    pneumonia train
    pneumonia train --data chest_xray --network simple_cnn --epochs 5
    pneumonia train --data chest_xray --trials 20 --study night
    pneumonia train --data chest_xray --trials 40 --study night --resume
    """
    from pneumonia.search.outcome import in_words
    from pneumonia.search.study import SearchSettings
    from pneumonia.search.trials import run_experiment
    from pneumonia.tracking.runs import parent_run

    chosen, loaded = _prepare(
        experiment, {"data": data, "network": network, **settings}, tracking_uri, experiment_name
    )
    search = SearchSettings(
        trials=trials,
        timeout=timeout,
        study=study,
        storage=storage,
        resume=resume,
        pruner=pruner,
        keep_checkpoints=keep_checkpoints,
    )
    kind = "search" if trials > 1 or resume else "train"
    name = f"{chosen.training.network}-{loaded.name}" + (f"-x{trials}" if kind == "search" else "")
    with parent_run(name, {"network": chosen.training.network, "kind": kind}) as run:
        outcome = run_experiment(
            run, chosen, loaded, search, registering=register, progress=progress("decoding")
        )
        click.echo(f"run       {run.id}")
    click.echo(f"test      {in_words(outcome)}")
    click.echo(f"model     {outcome.model_uri} ({outcome.verdict})")
    if data == "demo":
        click.echo("These are results on synthetic images: they say nothing about real X-rays.")
    click.echo("next      pneumonia ui")
    click.echo(f"          pneumonia predict --model-uri {outcome.model_uri} IMAGES")


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
    from pneumonia.search.cross_validation import run_cross_validation
    from pneumonia.tracking.runs import parent_run

    chosen, loaded = _prepare(
        experiment, {"data": data, "network": network, **settings}, tracking_uri, experiment_name
    )
    name = f"{chosen.training.network}-{loaded.name}-cv{folds}"
    with parent_run(name, {"network": chosen.training.network, "kind": "cross-validation"}) as run:
        summary = run_cross_validation(run, chosen, loaded, folds)
        click.echo(f"run       {run.id}")
    for metric, (mean, deviation, pooled) in summary.items():
        click.echo(f"{metric:18} {mean:.4f} ± {deviation:.4f}   pooled {pooled:.4f}")


def _prepare(
    experiment: str, values: dict[str, Any], tracking_uri: str | None, experiment_name: str
) -> tuple[Any, Any]:
    """Resolve settings, reach the tracking store, and load the data: all that may fail early."""
    from pneumonia.checking import as_parameters
    from pneumonia.data.dataset import load_data_set
    from pneumonia.data.preprocessing import Preprocessing
    from pneumonia.search.experiment import load_experiment
    from pneumonia.tracking.store import choose_experiment, connect
    from pneumonia.training.device import choose_engine

    chosen = load_experiment(experiment, given(values))
    training = chosen.training
    engine = choose_engine(training.device, training.precision)
    uri = connect(tracking_uri)
    choose_experiment(experiment_name)
    if chosen.data.data == "demo":
        click.echo("No --data given: using synthetic X-rays, made on the spot.", err=True)
    loaded = load_data_set(
        chosen.data, Preprocessing(training.image_size, training.resize), progress("preparing")
    )
    click.echo(f"experiment {chosen.name}, tracked in {uri}", err=True)
    for key, value in {**as_parameters(chosen.data), **as_parameters(training)}.items():
        click.echo(f"  {key} = {value}", err=True)
    click.echo(f"  running on {engine.device} in {engine.precision}", err=True)
    click.echo(f"{loaded.root}\n{loaded.report()}", err=True)
    return chosen, loaded
