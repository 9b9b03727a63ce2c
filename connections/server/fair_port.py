"""Accept connections on a socket that several workers share, each its fair part."""

import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from connections.server.compat import get_event_loop

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.005
"""How long a worker with more connections than another leaves the next one to it."""

_PUBLISH_SECONDS = 0.1
_EXHAUSTED_SECONDS = 0.5


class Share(Protocol):
    """The numbers of connections that the workers tell each other."""

    def publish(self, connections: int) -> None:
        """Tell the number of this worker."""

    def leave(self) -> None:
        """Tell that this worker accepts no more."""

    def find_least(self) -> int | None:
        """Return the least number of another worker; None without another."""


@implementer(IReadDescriptor)
class FairPort:
    """
    A listening socket that accepts one connection at a time.

    The kernel wakes whichever worker waits, and mostly the same one. A worker with
    more connections than another waits a moment before it accepts, and then accepts
    in any case: the other may be busy.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Any,
        *,
        share: Share,
        count: Callable[[], int],
    ) -> None:
        from twisted.internet import reactor

        self._socket = sock
        self._factory = factory
        self._share = share
        self._count = count
        self._reactor: Any = reactor
        self._loop = get_event_loop()
        self._is_closed = False
        factory.doStart()
        self._publish()
        self._reactor.addReader(self)

    def fileno(self) -> int:
        """Return the descriptor (IFileDescriptor)."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the name of this object in Twisted's log (ILoggingContext)."""
        return "FairPort"

    def connectionLost(self, reason: Any) -> None:
        """Close the socket (IFileDescriptor)."""
        self.stopListening()

    def doRead(self) -> None:
        """Accept a connection, or leave it to another worker for a moment."""
        own = self._count()
        self._share.publish(own)
        least = self._share.find_least()
        if least is not None and least < own:
            self._pause(_PAUSE_SECONDS)
        else:
            self._accept()

    def stopListening(self) -> None:
        """Accept nothing more."""
        if not self._is_closed:
            self._is_closed = True
            self._reactor.removeReader(self)
            self._share.leave()
            self._socket.close()
            self._factory.doStop()

    def _accept(self) -> None:
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # Another worker was first, or the client has left.
        except OSError as exc:
            logger.error(
                "No connection can be accepted: %s",
                exc,
                extra={"event": "accept_failed"},
            )
            self._pause(_EXHAUSTED_SECONDS)
            return
        with accepted:
            try:
                self._reactor.adoptStreamConnection(
                    accepted.fileno(), accepted.family, self._factory
                )
            except OSError:
                return  # The client has left.

    def _pause(self, seconds: float) -> None:
        self._reactor.removeReader(self)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self._is_closed:
            self._reactor.addReader(self)
            self._accept()

    def _publish(self) -> None:
        """Tell the number of connections, which falls without an accept."""
        if not self._is_closed:
            self._share.publish(self._count())
            self._loop.call_later(_PUBLISH_SECONDS, self._publish)
