"""``pneumonia app``: a model on a web page of this machine."""

import click

from pneumonia.cli.options import (
    gate_option,
    model_uri_option,
    port_option,
    threshold_option,
    tracking_uri_option,
)
from pneumonia.cli.ports import bound_socket

_HOST = "127.0.0.1"


@click.command(short_help="Open a model as a web page on this machine.")
@model_uri_option
@threshold_option
@gate_option
@port_option(8000)
@tracking_uri_option
def app(
    model_uri: str, threshold: float | None, gate: bool, port: int, tracking_uri: str | None
) -> None:
    """Serve a web page to this machine alone, and print its link.

    X-rays dropped on it are shown with the decision, the probability, and a heat map. They stay
    in this machine's memory, and are written nowhere.

    \b
    pneumonia app --model-uri models:/resnet34@champion
    """
    import uvicorn

    from pneumonia.prediction.app import create_app
    from pneumonia.tracking.models import load_model
    from pneumonia.tracking.store import connect

    with bound_socket(_HOST, port) as listener:
        connect(tracking_uri)
        page = create_app(load_model(model_uri), threshold=threshold, gate=gate)
        listener.listen()  # a browser that opens the link at once waits for the server
        click.echo(f"http://{_HOST}:{port}")
        click.echo("Ctrl-C stops it.", err=True)
        server = uvicorn.Server(uvicorn.Config(page, log_level="warning", access_log=False))
        server.run(sockets=[listener])
