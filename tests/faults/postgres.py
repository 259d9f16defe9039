"""A PostgreSQL cluster of its own, on a free loopback port, which goes as it came."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: Its data folder.
        port: Its port on 127.0.0.1.
    """

    folder: Path
    port: int

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database; its URL."""
        _as_postgres("createdb", "-h", "127.0.0.1", "-p", str(self.port), database)
        return self.url(database)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        log = self.folder / "server.log"
        _as_postgres("pg_ctl", "-D", str(self.folder), "-l", str(log), "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: ``smart``, ``fast`` or ``immediate``."""
        _as_postgres("pg_ctl", "-D", str(self.folder), "-w", "-m", mode, "stop")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make a cluster, start it, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pneumonia-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    started = Cluster(folder, free_port())
    try:
        _as_postgres("initdb", "-D", str(folder), "-A", "trust", "-U", "postgres", "-N")
        started.start()
        try:
            yield started
        finally:
            started.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _as_postgres(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs; as its own user where we are root, which it refuses."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    found = str(installed[-1]) if installed else shutil.which(program)
    if found is None:
        raise click.ClickException(f"{program} is not installed: apt-get install postgresql")
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    done = subprocess.run(  # type: ignore[call-overload]
        [found, *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # pg_ctl's server keeps it open
        stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
        check=False,
        **user,
    )
    if done.returncode:
        raise click.ClickException(f"{program} ended with {done.returncode}: {done.stderr}")
