"""Ports that nobody else takes while a test has them."""

import socket
import sys
import weakref


def hold_port(owner: object) -> int:
    """
    Return a port of 127.0.0.1 that nobody else gets for as long as an owner lives.

    A free port may be taken before a server listens on it, or while it restarts: by
    another process that asks for a port, or for an outgoing connection. Here a socket
    is bound to it. Linux gives such a port to nobody, and lets a server that sets
    SO_REUSEADDR, as all do, listen on it; connections are refused until then.
    """
    holding = socket.socket()
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind(("127.0.0.1", 0))
    port: int = holding.getsockname()[1]
    if sys.platform == "linux":
        weakref.finalize(owner, holding.close)
    else:
        holding.close()
    return port
