"""Ports that servers listen on."""

import socket

from pneumonia.errors import PortError


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the port, and does not listen yet.

    Raises:
        PortError: Another program has it, or there is no such address.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PortError(
            f"cannot listen on {host}:{port} ({error.strerror}): try another with --port {port + 1}"
        ) from None
    return bound
