"""``pneumonia promote``."""

import click

from pneumonia.cli.options import tracking_uri_option


@click.command()
@click.argument("model_uri")
@click.option("--alias", default="champion", show_default=True, help="Alias to move.")
@click.option(
    "--require",
    type=click.Choice(["better"]),
    help="Move it only to a version whose validation metric is better on the same images.",
)
@tracking_uri_option
def promote(model_uri: str, alias: str, require: str | None, tracking_uri: str | None) -> None:
    """Move an alias to a registered version.

    Prints from which version to which. Exit code 3 says that --require does not hold, and that the
    alias stays where it is.

    \b
    pneumonia promote models:/resnet34/2
    pneumonia promote models:/resnet34/3 --alias candidate --require better
    """
    from pneumonia.tracking.registry import promote as move_alias
    from pneumonia.tracking.store import connect

    connect(tracking_uri)
    click.echo(move_alias(model_uri, alias, require_better=require == "better"))
