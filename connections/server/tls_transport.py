"""Send and receive on a TLS connection, which stays with Twisted."""

import asyncio
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from connections.server.compat import count_unsent_bytes, find_descriptor
from connections.server.transport import (
    Receiver,
    count_unconfirmed_bytes,
    has_peer_left,
)

_LINGER_SECONDS = 0.5
"""How long the last frame may take to arrive: TLS cannot be half-closed."""


@implementer(IPushProducer)
class TlsTransport(Protocol):
    """
    A Transport over Twisted's TLS: its protocol and its producer.

    Twisted tells the producer when the kernel has taken everything.
    """

    def __init__(self, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self._receiver = receiver
        self._loop = loop
        self._is_producer = False
        self._descriptor: Any = None

    # As a Transport

    @property
    def unsent_bytes(self) -> int:
        return count_unsent_bytes(self._descriptor)

    @property
    def has_left(self) -> bool:
        return has_peer_left(self._descriptor.fileno())

    @property
    def unconfirmed_bytes(self) -> int:
        return count_unconfirmed_bytes(self._descriptor.fileno())

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def write_now(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def close(self) -> None:
        self._let_go()
        self.transport.loseConnection()

    def close_sending(self) -> None:
        self._let_go()
        self._loop.call_later(_LINGER_SECONDS, self.transport.loseConnection)

    def abort(self) -> None:
        self._let_go()
        self.transport.abortConnection()

    def _let_go(self) -> None:
        """Unregister the producer, which would keep the transport open."""
        if self._is_producer:
            self._is_producer = False
            self.transport.unregisterProducer()

    # Called by Twisted

    def connectionMade(self) -> None:
        self._descriptor = find_descriptor(self.transport)
        self._is_producer = True
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self._receiver.take(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._receiver.on_lost()

    def pauseProducing(self) -> None:
        """Ignore that more than Twisted's 64 kB wait; SendBuffer decides."""

    def resumeProducing(self) -> None:
        self._receiver.on_drained()

    def stopProducing(self) -> None:
        """Ignore that the transport is closed."""
