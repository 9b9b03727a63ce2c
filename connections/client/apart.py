"""Know which sessions of a shared connection have a connection of their own."""

import weakref
from collections.abc import Callable

from connections import close_codes
from connections.client.events import State
from connections.client.reconnect import Ended
from connections.client.session import SessionClient
from connections.close_codes import Reconnect

_UNKNOWN_CODES = (
    close_codes.NOT_FOUND.code,
    close_codes.PROTOCOL_ERROR.code,
    close_codes.NETWORK.code,
)
"""How a server ends a connection whose path it does not know, for good."""
_RETURNING_CODES = (close_codes.DRAINING.code, close_codes.ASKED_TO_RECONNECT.code)
"""Ends of a session's own connection after which the next server may know the path."""
_RETURN_SECONDS = 600.0
"""The time after which any session asks for a connection for many again."""


class Apart:
    """Decides whether a session gets a connection of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.is_now = False
        self._clock = clock
        self._since = 0.0
        # Those whose last connection is one of their own.
        self._clients: weakref.WeakSet[SessionClient] = weakref.WeakSet()

    def begin(self, ended: Ended) -> None:
        """Begin if the shared connection has ended because the server has none."""
        if ended.code in _UNKNOWN_CODES and ended.reconnect is Reconnect.NEVER:
            self.is_now = True
            self._since = self._clock()

    def has(self, client: SessionClient) -> bool:
        """Return whether the session that opens gets a connection of its own."""
        code = client.ended and client.ended.code
        is_returning = client in self._clients and code in _RETURNING_CODES
        is_over = self._clock() - self._since >= _RETURN_SECONDS
        if self.is_now and not is_over and not is_returning:
            self._clients.add(client)
            return True
        self.is_now = False
        self._clients.discard(client)
        return False

    def was_evicted(self, client: SessionClient) -> bool:
        """Return whether a session lost a slot of its own, and now needs none."""
        is_closed = client.state is State.CLOSED and client in self._clients
        code = client.ended and client.ended.code
        return is_closed and code == close_codes.EVICTED.code
