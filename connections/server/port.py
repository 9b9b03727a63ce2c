"""Accept connections: all, or the fair part of one of several workers."""

import socket
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from connections.error_log import get_logger
from connections.server.arrival import Arrival
from connections.server.compat import get_event_loop

logger = get_logger(__name__)

_ADDRESSES: dict[int, type[IPv4Address] | type[IPv6Address]] = {
    socket.AF_INET: IPv4Address,
    socket.AF_INET6: IPv6Address,
}

_PAUSE_SECONDS = 0.005
"""How long a worker with more connections than another leaves the next one to it."""

_ACCEPTS_PER_TURN = 50
"""A storm of connections must not keep the loop from the others."""

_PUBLISH_SECONDS = 0.1
_EXHAUSTED_SECONDS = 0.5


class Share(Protocol):
    """The numbers of connections that the workers tell each other."""

    def publish(self, connections: int) -> None:
        """Tell the number of this worker."""

    def leave(self) -> None:
        """Tell that this worker accepts nothing, until it publishes again."""

    def find_least(self) -> int | None:
        """Return the least number of another worker; None without another."""


@implementer(IReadDescriptor)
class Port:
    """
    A listening socket, with or without TLS.

    With a share the socket is that of several workers, and each accepts one
    connection at a time. The kernel wakes whichever worker waits, and mostly the same
    one. A worker with more connections than another waits a moment before it accepts,
    and then accepts in any case: the other may be busy. One whose node drains accepts
    nothing while another worker accepts, because it would refuse all; after the last
    worker nobody would.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Any,
        server: Any,
        *,
        is_tls: bool,
        share: Share | None,
    ) -> None:
        from twisted.internet import reactor

        self._socket = sock
        self._factory = factory
        self._server = server
        self._is_tls = is_tls
        self._share = share
        self._reactor: Any = reactor
        self._loop = get_event_loop()
        self._is_closed = False
        self._is_aside = False
        """True while another worker accepts in place of this one, which drains."""
        factory.doStart()
        self._reactor.addReader(self)
        self._publish()

    def fileno(self) -> int:
        """Return the descriptor (IFileDescriptor)."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the name of this object in Twisted's log (ILoggingContext)."""
        return "Port"

    def getHost(self) -> IPv4Address | IPv6Address | None:
        """
        Return the address that daphne logs (IListeningPort).

        None for a Unix socket, and for a shared one, which the parent announces.
        """
        kind = _ADDRESSES.get(self._socket.family)
        if kind is None or self._share is not None:
            return None
        return kind("TCP", *self._socket.getsockname()[:2])

    def connectionLost(self, reason: Any) -> None:
        """Close the socket (IFileDescriptor)."""
        self.stopListening()

    def doRead(self) -> None:
        """Accept what waits; with a share one, or leave it to another for a moment."""
        if self._share is None:
            accepts = 0
            while accepts < _ACCEPTS_PER_TURN and self._accept():
                accepts += 1
            return
        self._tell(self._share)
        if self._is_aside:
            return
        least = self._share.find_least()
        if least is not None and least < self._count():
            self._pause(_PAUSE_SECONDS)
        else:
            self._accept()

    def stopListening(self) -> None:
        """Accept nothing more."""
        if not self._is_closed:
            self._is_closed = True
            self._reactor.removeReader(self)
            if self._share is not None:
                self._share.leave()
            self._socket.close()
            self._factory.doStop()

    def _accept(self) -> bool:
        """Accept a connection; return False if there was none."""
        try:
            accepted, peer = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # Another worker was first, or the client has left.
        except OSError as exc:
            logger.error(
                "No connection can be accepted: %s",
                exc,
                extra={"event": "accept_failed"},
            )
            self._pause(_EXHAUSTED_SECONDS)
            return False
        try:
            if self._is_tls:
                self._adopt(accepted)
            else:
                Arrival(self._server, accepted, peer, self._adopt).begin()
        except Exception as exc:
            # Twisted closes a port whose doRead() fails.
            logger.error(
                "A connection cannot be taken: %s",
                exc,
                exc_info=exc,
                extra={"event": "arrival_failed"},
            )
            accepted.close()
        return True

    def _adopt(self, sock: socket.socket) -> Any:
        """Hand a socket over to Twisted; return its channel, None if it is lost."""
        with sock:
            try:
                transport = self._reactor.adoptStreamConnection(
                    sock.fileno(), sock.family, self._factory
                )
            except OSError:
                return None  # The client has left.
        return transport.protocol

    def _count(self) -> int:
        return len(self._server.connections) + len(self._server.http_channels)

    def _pause(self, seconds: float) -> None:
        self._reactor.removeReader(self)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self._is_closed and not self._is_aside:
            self._reactor.addReader(self)
            self._accept()

    def _publish(self) -> None:
        """Tell the number of connections, which falls without an accept."""
        if not self._is_closed and self._share is not None:
            self._tell(self._share)
            self._loop.call_later(_PUBLISH_SECONDS, self._publish)

    def _tell(self, share: Share) -> None:
        """
        Tell the others the number of connections, or leave new ones to them.

        The number of a worker that drains falls to 0: they would leave all to it.
        """
        was_aside, node = self._is_aside, self._server.node
        if node is not None and node.is_draining:
            share.leave()
            self._is_aside = share.find_least() is not None
        else:
            share.publish(self._count())
            self._is_aside = False
        if self._is_aside:
            self._reactor.removeReader(self)
        elif was_aside:
            self._reactor.addReader(self)
