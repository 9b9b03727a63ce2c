"""Record the last events of each connection, for operators."""

from typing import Any

from connections import close_codes
from connections.units import Clock

MAX_EVENTS = 50

PLANNED_ENDS = frozenset(
    (
        close_codes.CLOSED.reason,
        close_codes.APPLICATION,
        close_codes.PEER,
        close_codes.IDLE.reason,
        close_codes.EVICTED.reason,
        close_codes.REPLACED.reason,
        close_codes.DRAINING.reason,
        close_codes.ASKED_TO_RECONNECT.reason,
        close_codes.LOGGED_OUT.reason,
        close_codes.KICKED.reason,
    )
)
"""Reasons of planned ends, whose events are not stored."""


class _Event:
    """One event; an equal one that follows directly increases its count."""

    __slots__ = ("at", "count", "detail", "event")

    def __init__(self, at: float, event: str, detail: str) -> None:
        self.at = at
        self.event = event
        self.detail = detail
        self.count = 1


class FlightRecord:
    """
    The last 50 events of one connection.

    An event is a snake_case word with a short detail: a reason, an id or a
    number. It never contains data of a client or a consumer.
    """

    __slots__ = ("_clock", "_events")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[_Event] = []

    def record(self, event: str, detail: str = "") -> None:
        """Add an event at the current time; equal events in a row take one place."""
        events = self._events
        if events and (events[-1].event, events[-1].detail) == (event, detail):
            events[-1].count += 1
            return
        if len(events) == MAX_EVENTS:
            del events[0]
        events.append(_Event(self._clock(), event, detail))

    def describe(self, since: float) -> list[dict[str, Any]]:
        """
        Return the events for storage, oldest first.

        `after_seconds` counts from `since`, on the record's own clock. `count`
        and `detail` are left out where they say nothing.
        """
        described = []
        for event in self._events:
            described_event: dict[str, Any] = {
                "after_seconds": round(event.at - since, 3),
                "event": event.event,
            }
            if event.detail:
                described_event["detail"] = event.detail
            if event.count > 1:
                described_event["count"] = event.count
            described.append(described_event)
        return described


def is_worth_keeping(reason: str, errors: int) -> bool:
    """Return True if the end of a connection may need an explanation."""
    return errors > 0 or reason not in PLANNED_ENDS
