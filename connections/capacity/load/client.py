"""One connection of the load generator: its messages and its keepalive."""

import dataclasses
import socket
from collections.abc import Callable

from connections.capacity.load.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    build_frame,
    split_frames,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a message travels: as it is, or in Socket.IO's envelope."""

    path: str
    wrap: Callable[[str], str]
    greeting: str = ""
    """What a client sends once it is connected, and has to be answered."""


PLAIN = Dialect(path="/ws/echo/", wrap=lambda text: text)
SOCKET_IO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    wrap=lambda text: f'42["echo","{text}"]',
    greeting="40",
)
DIALECTS = {"plain": PLAIN, "socket_io": SOCKET_IO}


class Client:
    """One connection of the generator."""

    __slots__ = (
        "buffer",
        "dialect",
        "frame",
        "is_open",
        "on_data",
        "reply",
        "request",
        "sent_at",
        "socket",
    )

    def __init__(self, sock: socket.socket, request: bytes, dialect: Dialect) -> None:
        self.socket = sock
        self.request = request
        self.dialect = dialect
        self.buffer = b""
        self.is_open = False
        self.frame = self.reply = b""
        self.sent_at = 0.0
        self.on_data: Callable[[Client, bytes], None] = _ignore


def _ignore(client: Client, data: bytes) -> None:
    """Take what an idle connection is sent."""


def keep_alive(client: Client, data: bytes) -> None:
    """Answer the pings among what an idle connection is sent, and a close."""
    try:
        client.buffer = answer_pings(client, client.buffer + data)
    except ConnectionError:
        client.socket.send(build_frame(CLOSE, b""))


def answer_pings(client: Client, data: bytes) -> bytes:
    """
    Answer pings, of WebSocket or of Socket.IO; return what else there is.

    Raises:
        ConnectionError: the server ends the connection.
    """
    frames, rest = split_frames(data)
    kept = b""
    for raw, payload in frames:
        if raw[0] == PING:
            client.socket.send(build_frame(PONG, payload))
        elif client.dialect is SOCKET_IO and payload == b"2":
            client.socket.send(build_frame(TEXT, b"3"))
        elif raw[0] == CLOSE:
            raise ConnectionError(f"closed by the server: {payload!r}")
        else:
            kept += raw
    return kept + rest
