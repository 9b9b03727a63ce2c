"""
Receive the first bytes of a TCP connection: a handshake, or a request for Twisted.

A transport, a channel and a request of Twisted's cost more than the rest of a
handshake on this side. So a plain one becomes a WebSocket at once; all else gets them.
"""

import socket
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from connections.error_log import get_logger
from connections.interning import share
from connections.server.admission import Refusal
from connections.server.timers import HasDeadline
from connections.server.transport import SocketTransport, has_peer_left
from connections.server.websocket.handshake import (
    BadHandshake,
    build_refusal,
    read_handshake,
)
from connections.server.websocket.head import read_head
from connections.server.websocket.protocol import WebSocketProtocol

if TYPE_CHECKING:
    from connections.server.http import HttpChannel

logger = get_logger(__name__)

_READ_BYTES = 65_536

Adopt = Callable[[socket.socket], "HttpChannel | None"]
"""Hands a socket over to Twisted; returns its channel, None if the client has left."""


class Arrival(HasDeadline):
    """
    A TCP connection without TLS whose first bytes are awaited.

    It counts as an incomplete request head, as a channel does. begin() reads at once:
    in a storm the handshake is there, and nothing need be registered.
    """

    __slots__ = (
        "_address",
        "_adopt",
        "_arrived_at",
        "_is_waiting",
        "_peer",
        "_server",
        "_socket",
        "_timers",
    )

    is_sending = False

    def __init__(self, server: Any, sock: socket.socket, peer: Any, adopt: Adopt):
        self._server = server
        self._socket = sock
        self._peer: tuple[str, int] | None = None
        # That of a Unix socket is a text. The family of a socket is slow to read.
        if isinstance(peer, tuple):
            self._peer = (share(peer[0]), peer[1])
        self._adopt = adopt
        self._timers = server.timers
        self._deadline = None
        self._is_waiting = False

    def begin(self) -> None:
        """Handle what has arrived, or wait for it."""
        self._socket.setblocking(False)
        self._read()

    def close_idle(self) -> None:
        """Do nothing: a request may be on its way."""

    def cut_off(self) -> None:
        """Have the channel refuse it: many others are incomplete too."""
        if (channel := self._become_channel()) is not None:
            channel.cut_off()

    def _read(self) -> None:
        """Handle what has arrived; a failure ends this connection alone."""
        try:
            self._take_first()
        except Exception as exc:
            # Twisted would close the port, and the loop would call this again.
            logger.error(
                "Receiving a connection failed: %s",
                exc,
                exc_info=exc,
                extra={"event": "reading_failed"},
            )
            self._stop_waiting()
            self._socket.close()

    def _take_first(self) -> None:
        try:
            received = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            self._wait()
            return
        except OSError:
            received = b""
        if not received:
            self._stop_waiting()
            self._socket.close()
        elif (
            not self._open_websocket(received)
            and (channel := self._become_channel()) is not None
        ):
            channel.take_first(received)

    def _wait(self) -> None:
        if self._is_waiting:
            return
        server = self._server
        self._is_waiting = True
        self._arrived_at = self._timers.time()
        timeout_seconds = server.config.handshake.timeout_seconds
        self._start_deadline(timeout_seconds, self._time_out)
        server.http_channels.add(self)
        server.loop.add_reader(self._socket, self._read)
        # Last: beyond a bound the oldest is cut off, which may be this one.
        server.admission.begin_head(self, server.admission.find_limited(self._host))

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._stop_deadline()
            self._server.http_channels.discard(self)
            self._server.admission.end_head(self)
            self._server.loop.remove_reader(self._socket)

    @property
    def _host(self) -> str | None:
        return self._peer[0] if self._peer else None

    def _time_out(self) -> None:
        if (channel := self._become_channel()) is not None:
            channel.time_out()

    def _become_channel(self) -> "HttpChannel | None":
        """Give the socket to a channel; the deadline of the head stays."""
        was_waiting = self._is_waiting
        self._stop_waiting()
        channel = self._adopt(self._socket)
        if was_waiting and channel is not None:
            channel.arrive(self._arrived_at)
        return channel

    def _open_websocket(self, received: bytes) -> bool:
        """Open a WebSocket if the bytes are a plain handshake; return True if so."""
        head = read_head(received)
        if head is None:
            return False
        if has_peer_left(self._socket.fileno()):
            # A slot for it could evict a connection that is in use.
            self._stop_waiting()
            self._socket.close()
            return True
        target, headers = head
        try:
            handshake = read_handshake(
                *(b"GET", target, b"HTTP/1.1", headers),
                client=list(self._peer) if self._peer else None,
                local=self._find_local(),
            )
        except BadHandshake:
            return False
        self._stop_waiting()
        server = self._server
        websocket = WebSocketProtocol(server, handshake)
        refusal = server.admission.admit(websocket, handshake, self._host)
        if refusal is not None:
            self._refuse(refusal)
            return True
        server.protocol_connected(websocket)
        transport = SocketTransport(
            self._socket, websocket, server.loop, server.write_batch
        )
        try:
            websocket.begin(transport)
            server.create_application(websocket, websocket.get_scope())
        except Exception:
            transport.abort()
            raise
        return True

    def _find_local(self) -> tuple[str, int] | None:
        if self._peer is None:
            return None
        return _share(*self._socket.getsockname()[:2])

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, and close: all bytes are read, so the answer arrives."""
        with self._socket:
            try:
                self._socket.send(build_refusal(*refusal.describe()))
            except OSError as exc:
                logger.debug("A refused client has left: %s", exc)


@lru_cache(256)
def _share(host: str, port: int) -> tuple[str, int]:
    """Return the address of this end, which many connections share."""
    return host, port
