"""``pneumonia study``: looking at searches."""

import click

_STORAGE = click.option("--storage", default="", help="Optuna storage URL; ./optuna.db by default.")


@click.group()
def study() -> None:
    """Look at the studies of searches."""


@study.command()
@click.argument("name")
@_STORAGE
def show(name: str, storage: str) -> None:
    """Show a study: its trials, best first, what decided, and its winner.

    \b
    pneumonia study show night
    """
    from pneumonia.search.report import show_study

    click.echo(show_study(name, storage))


@study.command("list")
@_STORAGE
def list_(storage: str) -> None:
    """List the studies of a storage.

    \b
    pneumonia study list --storage sqlite:///optuna.db
    """
    from pneumonia.search.report import list_studies

    click.echo(list_studies(storage))
