"""Open a connection of the load generator: handshake and greeting."""

import base64
import hashlib
from collections import deque
from collections.abc import Callable

from connections.capacity.load.client import Client, keep_alive
from connections.capacity.load.frames import TEXT, build_frame, split_frames

KEY = base64.b64encode(b"0123456789abcdef")
_ACCEPT = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
)


class Opening:
    """Handle one connection from its handshake to the end of its greeting."""

    def __init__(self, record: Callable[[Client], None]) -> None:
        self._record = record
        self._has_head = False

    def take(self, client: Client, data: bytes) -> None:
        client.buffer += data
        if not self._has_head:
            head, end, rest = client.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101") or _ACCEPT not in head:
                raise ConnectionError(head.decode("latin-1")[:300])
            self._has_head = True
            client.buffer = rest
            if not client.dialect.greeting:
                self._finish(client, rest)
                return
        self._greet(client)

    def _greet(self, client: Client) -> None:
        """Greet as Socket.IO: server 0{...}, client 40, server 40{...}."""
        frames = deque(split_frames(client.buffer)[0])
        if frames and frames[-1][1].startswith(b"40"):
            self._finish(client, b"")
        elif len(frames) == 1 and client.frame == b"":
            client.frame = build_frame(TEXT, client.dialect.greeting.encode())
            client.socket.send(client.frame)

    def _finish(self, client: Client, rest: bytes) -> None:
        """Start keepalive; keep bytes that followed the greeting."""
        client.buffer, client.frame = rest, b""
        client.on_data = keep_alive
        self._record(client)
