"""Watch a handshake until it is accepted or denied, and the events that follow."""

import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from connections.asgi import ARRIVED, Message, Send, get_extension
from connections.telemetry.current import Instrument, find_instruments
from connections.telemetry.events import Event, Watched

if TYPE_CHECKING:
    from connections.node.node import Node

HANDSHAKE = "handshake"
"""The key of the scope that holds the handshake, while traces or Sentry are on."""

_ACCEPT = "websocket.accept"
_ANSWERS = (_ACCEPT, "websocket.close", "websocket.http.response.start")
_FORBIDDEN, _SWITCHING = 403, 101


class Handshake:
    """
    One handshake on its way to its consumer, and later its connection.

    The handshake ends with the answer to the client, whatever connect() does after it.
    """

    __slots__ = ("_event", "_is_open", "_parts", "_send", "_watched", "refusal")

    def __init__(
        self,
        instruments: tuple[Instrument, ...],
        scope: Message,
        send: Send,
        node_id: str,
        age_seconds: float,
    ) -> None:
        self.refusal = ""
        """The reason of a refusal, set before its answer."""
        self._is_open = True
        self._watched: Watched | None = None
        self._event: Event | None = None
        self._send = send
        start_ns = time.time_ns() - int(age_seconds * 1e9)
        self._parts: list[tuple[Instrument, Any]] = [
            (one, one.begin_handshake(scope, node_id, start_ns)) for one in instruments
        ]

    def attach(self, watched: Watched) -> None:
        """Add the connection, once there is one."""
        self._watched = watched
        for one, part in self._parts:
            one.attach(part, watched)

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the application; the first answer ends the handshake."""
        if self._is_open and message["type"] in _ANSWERS:
            refusal = self.refusal
            if self._watched is not None and self._watched.connection.close_reason:
                refusal = self._watched.connection.close_reason.reason
            if message["type"] == _ACCEPT:
                self.finish(refusal or "accepted", _SWITCHING)
            else:
                self.finish(refusal or "denied", message.get("status", _FORBIDDEN))
        return self._send(message)

    def finish(self, outcome: str, status: int | None = None) -> None:
        """End the handshake; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        for one, part in self._parts:
            one.end_handshake(part, outcome, status)

    @contextmanager
    def watch(self, message: Message) -> Iterator[Event]:
        """Handle an event of the connection; the trace is taken out of its message."""
        before, event = self._event, Event(message=message)
        if self._watched is None:
            raise RuntimeError("a handshake has no connection yet")
        self._event = event
        try:
            with ExitStack() as stack:
                for one, part in self._parts:
                    stack.enter_context(one.watch(part, event, self._watched))
                yield event
        finally:
            self._event = before

    def record_failure(self, exc: BaseException, ref: str) -> None:
        """Record an exception whose id the client gets."""
        if self._watched is None:
            return
        if self._event is None:
            # A hook failed that is called before the handler, such as is_activity().
            with self.watch({"type": "websocket.receive"}):
                self.record_failure(exc, ref)
            return
        for one, _ in self._parts:
            one.record_failure(self._event, self._watched, exc, ref)


def begin_handshake(scope: Message, send: Send, node: "Node") -> tuple[Message, Send]:
    """
    Return the scope and the send() of a handshake, watched if anything watches.

    The handshake arrived at the moment that the scope names. A second call for it
    changes nothing.
    """
    instruments = () if HANDSHAKE in scope else find_instruments()
    if not instruments:
        return scope, send
    now = node.clock()
    node_id, age_seconds = node.node_id, now - get_extension(scope, ARRIVED, now)
    handshake = Handshake(instruments, scope, send, node_id, age_seconds)
    return {**scope, HANDSHAKE: handshake}, handshake.send


def find_handshake(scope: Message) -> Handshake | None:
    """Return the watched handshake of a scope, or None."""
    return scope.get(HANDSHAKE)
