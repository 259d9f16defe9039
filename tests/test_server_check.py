"""The tracking server is asked as MLflow would ask it, and no secret is shown."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pneumonia.errors import TrackingError
from pneumonia.tracking.store import connect

Server = tuple[int, list[str | None]]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that answers health checks, with the credentials that it was sent."""
    sent: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization"))
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_port, sent
        listening.shutdown()


def test_mlflows_credentials_reach_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first question carries MLFLOW_TRACKING_USERNAME and _PASSWORD."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    port, sent = server
    with pytest.raises(TrackingError):  # it is no MLflow server
        connect(f"http://127.0.0.1:{port}")
    assert sent[0] == f"Basic {base64.b64encode(b'ann:s3cret').decode()}"


def test_a_password_in_the_uri_is_not_shown(server: Server) -> None:
    """Neither a server that is away nor one that refuses makes us print the password."""
    for port in (1, server[0]):
        with pytest.raises(TrackingError) as refused:
            connect(f"http://ann:s3cret@127.0.0.1:{port}")
        assert "s3cret" not in str(refused.value)
    assert server[1][0] == f"Basic {base64.b64encode(b'ann:s3cret').decode()}"
