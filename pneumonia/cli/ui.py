"""``pneumonia ui`` and ``pneumonia demo``."""

import os
import sys
from pathlib import Path

import click

from pneumonia.cli.options import port_option, tracking_uri_option
from pneumonia.cli.ports import bound_socket
from pneumonia.cli.progress import ProgressBar


@click.command(short_help="Start the MLflow UI, and print its link.")
@tracking_uri_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@port_option(5000)
@click.option(
    "--allowed-hosts",
    default="",
    help="Names by which others may open it, separated by commas; with a --host other than this "
    "machine's own, its name and private addresses by default.",
)
def ui(tracking_uri: str | None, host: str, port: int, allowed_hosts: str) -> None:
    """Start the MLflow UI, light, and print the link that opens on the runs, the best first.

    \b
    pneumonia ui --port 5001
    pneumonia ui --host 0.0.0.0
    """
    import socket

    from pneumonia.processes import run_until_stopped
    from pneumonia.tracking.runs_page import runs_page
    from pneumonia.tracking.store import connect, shown_uri

    uri = connect(tracking_uri)
    shown = socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared
    base = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    if uri.startswith(("http://", "https://")):
        click.echo(runs_page(shown_uri().rstrip("/")))
        return
    bound_socket(host, port).close()
    click.echo(runs_page(base))
    click.echo("Ctrl-C stops it.", err=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    if allowed_hosts or host not in {"127.0.0.1", "localhost", "::1"}:
        command += ["--allowed-hosts", allowed_hosts or ",".join(_names_of(shown))]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    raise SystemExit(run_until_stopped(command, environment))


def _names_of(host: str) -> list[str]:
    """This machine's names as a browser sends them, and the addresses MLflow takes by default."""
    import socket

    from mlflow.server.security_utils import get_default_allowed_hosts

    names = {host, socket.gethostname(), socket.getfqdn()}
    ports = {f"{name}:*" for name in names}
    return [*get_default_allowed_hosts(), *sorted(names | ports)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--patients",
    default=560,
    show_default=True,
    type=click.IntRange(min=40),
    help="Number of synthetic patients.",
)
@click.option(
    "--size",
    default=256,
    show_default=True,
    type=click.IntRange(32, 1024),
    help="Side of the images in pixels.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the generator.")
def demo(folder: Path, patients: int, size: int, seed: int) -> None:
    """Write a data set of synthetic chest X-rays.

    \b
    pneumonia demo xrays/ && pneumonia train --data xrays/
    """
    from pneumonia.data.demo import write_demo_set

    written = write_demo_set(
        folder, patients=patients, size=size, seed=seed, progress=ProgressBar()
    )
    if not written:
        click.echo("It is there already, with these options: nothing was changed.", err=True)
    click.echo(str(folder))
