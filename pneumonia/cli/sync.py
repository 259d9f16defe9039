"""``pneumonia sync``."""

import click

from pneumonia.cli.options import tracking_uri_option


@click.command(short_help="Deliver what could not be logged.")
@tracking_uri_option
def sync(tracking_uri: str | None) -> None:
    """Deliver what could not be logged while the tracking store was away.

    Each run goes to the store given here if that has it, and else to the store it was begun in.
    Runs whose process still works are left to it.

    \b
    pneumonia sync
    pneumonia sync --tracking-uri http://moved:5000
    """
    from pneumonia.errors import TrackingError
    from pneumonia.tracking.sync import deliver_all

    runs = failed = 0
    for delivery in deliver_all(tracking_uri):
        runs, failed = runs + 1, failed + delivery.failed
        line = f"{delivery.run_id}  {delivery.delivered:,} delivered"
        if delivery.status:
            line += f", {delivery.status}"
        if delivery.waiting:
            line += f"; {delivery.waiting:,} wait: {delivery.remark}"
        click.echo(line)
    if failed:
        raise TrackingError(
            f"{failed:,} of {runs:,} runs could not be brought up to date: see above"
        )
    if not runs:
        click.echo("Nothing waits to be delivered.")
