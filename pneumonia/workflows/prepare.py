"""What is done before training starts: all that may fail fails here."""

from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.group import progress

if TYPE_CHECKING:
    from pneumonia.config.experiment import Experiment
    from pneumonia.data.dataset import DataSet


def load_data(experiment: "Experiment", *, told: bool = False) -> "DataSet":
    """Check the device, and find, decode and split the images; say what is about to run.

    Args:
        experiment: What is about to run.
        told: Whether the process that began the run has said so already.
    """
    from pneumonia.config.checking import as_parameters
    from pneumonia.config.data import DEMO
    from pneumonia.data.dataset import load_data_set
    from pneumonia.tracking.store import tracking_uri
    from pneumonia.training.device import choose_engine
    from pneumonia.training.distributed import torchrun_ranks

    training = experiment.training
    engine = choose_engine(training.device, training.precision)
    if told:
        return load_data_set(experiment.data, training.preprocessing)
    if experiment.data.data == DEMO:
        click.echo("No --data given: using synthetic X-rays, made on the spot.", err=True)
    loaded = load_data_set(experiment.data, training.preprocessing, progress("preparing"))
    click.echo(f"experiment {experiment.name}, tracked in {tracking_uri()}", err=True)
    settings: dict[str, Any] = {**as_parameters(experiment.data), **as_parameters(training)}
    for key, value in settings.items():
        click.echo(f"  {key} = {value}", err=True)
    click.echo(f"  running on {engine.device} in {engine.precision}", err=True)
    ranks = torchrun_ranks()
    if ranks.size > 1:
        share, rate = ranks.share_of(training.batch_size), training.learning_rate
        click.echo(
            f"  {ranks.size} processes: batches of {training.batch_size} images, {share} each; "
            f"learning rate {rate:g} as with one",
            err=True,
        )
    click.echo(f"{loaded.root}\n{loaded.report()}", err=True)
    return loaded
