"""One connection of the load generator: its messages and its keepalive."""

import contextlib
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
    """The format of messages: plain, or in Socket.IO's envelope."""

    path: str
    wrap: Callable[..., str]
    """Returns the message for a text and, by default, the event "echo"."""
    greeting: str = ""
    """A message that the client sends first, and the server must answer."""


PLAIN = Dialect(path="/ws/echo/", wrap=lambda text, event="": text)
SOCKET_IO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    wrap=lambda text, event="echo": f'42["{event}","{text}"]',
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
        "why_closed",
    )

    def __init__(self, sock: socket.socket, request: bytes, dialect: Dialect) -> None:
        self.socket = sock
        self.request = request
        self.dialect = dialect
        self.buffer = b""
        self.is_open = False
        self.frame = self.reply = b""
        self.sent_at = 0.0
        self.why_closed = ""
        self.on_data: Callable[[Client, bytes], None] = _ignore


def _ignore(client: Client, data: bytes) -> None:
    """Ignore received bytes."""


def keep_alive(client: Client, data: bytes) -> None:
    """Answer pings and a close frame on an idle connection."""
    try:
        client.buffer = answer_pings(client, client.buffer + data)
    except ConnectionError as exc:
        client.why_closed = str(exc)
        # The server may have reset the connection: the next poll counts it.
        with contextlib.suppress(OSError):
            client.socket.send(build_frame(CLOSE, b""))


def answer_pings(client: Client, data: bytes) -> bytes:
    """
    Answer pings of WebSocket or Socket.IO; return the other frames.

    Raises:
        ConnectionError: the server closed the connection.
    """
    frames, rest = split_frames(data)
    kept = b""
    for raw, payload in frames:
        if raw[0] == PING:
            client.socket.send(build_frame(PONG, payload))
        elif client.dialect is SOCKET_IO and payload == b"2":
            client.socket.send(build_frame(TEXT, b"3"))
        elif raw[0] == CLOSE:
            raise ConnectionError(f"closed by the server: {_read_close(payload)}")
        else:
            kept += raw
    return kept + rest


def _read_close(payload: bytes) -> str:
    """Return the code and reason of a close frame (RFC 6455, section 5.5.1)."""
    code = int.from_bytes(payload[:2], "big")
    return f"{code} {payload[2:].decode(errors='replace')}".rstrip()
