"""Open listening sockets, or inherit them; nothing of Twisted is imported."""

import socket
from typing import Any

BACKLOG = 2048
"""The kernel's backlog of connections; daphne's 50 fills up in a storm."""


def open_socket(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """
    Listen on an address; with reuse_port other processes may do the same.

    Raises:
        OSError: it cannot be had.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"{host}:{port}: {exc.strerror or exc}") from exc
    sock.setblocking(False)
    return sock


def take_socket(number: int) -> socket.socket:
    """
    Take over a listening socket that a supervisor opened.

    Raises:
        OSError: there is no such file descriptor, or it is no socket.
        ValueError: it is no listening stream socket.
    """
    try:
        sock = socket.socket(fileno=number)
    except OSError as exc:
        text = f"file descriptor {number}: {exc.strerror or exc}"
        raise OSError(exc.errno, text) from exc
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        sock.detach()
        raise ValueError(f"file descriptor {number} is not a listening socket")
    sock.setblocking(False)
    return sock


def with_backlog(endpoint: Any) -> Any:
    """Return a Twisted endpoint string with a larger backlog."""
    if isinstance(endpoint, str) and endpoint.startswith(("tcp:", "ssl:")):
        return endpoint if ":backlog=" in endpoint else f"{endpoint}:backlog={BACKLOG}"
    return endpoint


def is_unix(endpoint: Any) -> bool:
    """Return True if an endpoint, text or SocketEndpoint, is a Unix socket."""
    if isinstance(endpoint, str):
        return endpoint.startswith("unix:")
    return isinstance(getattr(endpoint, "address", None), str | bytes)
