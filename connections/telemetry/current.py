"""
Find what the project has set up: OpenTelemetry, Sentry, or neither.

Nothing is imported here that the project has not imported itself. Without
opentelemetry and sentry_sdk a handshake costs two look-ups in sys.modules, and an
event nothing.
"""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from connections.asgi import Message
from connections.background import find_sentry
from connections.config.loader import get_config
from connections.telemetry.carrier import TRACE_API
from connections.telemetry.events import Event, Watched

if TYPE_CHECKING:
    from connections.telemetry.traces import Traces


class Instrument(Protocol):
    """What watches handshakes and events: traces, or Sentry."""

    def begin_handshake(self, scope: Message, node_id: str, start_ns: int) -> Any:
        """Begin a handshake; the result is given to the other methods."""

    def attach(self, part: Any, watched: Watched) -> None:
        """Add the connection to a handshake."""

    def end_handshake(self, part: Any, outcome: str, status: int | None) -> None:
        """End a handshake; without a status nothing was answered."""

    def watch(
        self, part: Any, event: Event, watched: Watched
    ) -> AbstractContextManager[object]:
        """Return the block that an event is handled in."""

    def record_failure(
        self, event: Event, watched: Watched, exc: BaseException, ref: str
    ) -> None:
        """Record an exception whose id the client gets."""


def find_traces() -> "Traces | None":
    """Return what makes spans, or None while traces are off."""
    if TRACE_API not in sys.modules or not get_config().telemetry.traces:
        return None
    from connections.telemetry import traces

    return traces.find_traces()


def find_instruments() -> tuple[Instrument, ...]:
    """Return what watches a new connection."""
    found: list[Instrument] = []
    traces = find_traces()
    if traces is not None:
        found.append(traces)
    if find_sentry() is not None:
        from connections.telemetry import sentry

        if sentry.is_set_up():
            found.append(sentry.Sentry())
    return tuple(found)


def send_in_span(name: str, destination: str, message: Message) -> Message:
    """Return a layer message with the context of the span of its sending."""
    traces = find_traces()
    return message if traces is None else traces.send(name, destination, message)
