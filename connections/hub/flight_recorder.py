"""The last events in the life of each connection: what an operator reads afterwards."""

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
"""Reasons after which nobody asks what had happened before."""


class _Noted:
    """One event; the same one again at once only counts up."""

    __slots__ = ("at", "count", "detail", "event")

    def __init__(self, at: float, event: str, detail: str) -> None:
        self.at = at
        self.event = event
        self.detail = detail
        self.count = 1


class FlightRecord:
    """
    The last 50 events of one connection.

    An event is a snake_case word of ours with a short detail: a reason, an id, a
    number. Never what a client or a consumer sent.
    """

    __slots__ = ("_clock", "_events")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[_Noted] = []

    def record(self, event: str, detail: str = "") -> None:
        """Add an event, as of now; a flood of one kind takes one place."""
        events = self._events
        if events and (events[-1].event, events[-1].detail) == (event, detail):
            events[-1].count += 1
            return
        if len(events) == MAX_EVENTS:
            del events[0]
        events.append(_Noted(self._clock(), event, detail))

    def describe(self, since: float) -> list[dict[str, Any]]:
        """
        Return the events, oldest first, as they are stored.

        `after_seconds` counts from `since`, on the record's own clock; `count`
        is there where an event came more than once in a row, and `detail` where
        it has one.
        """
        described = []
        for noted in self._events:
            one: dict[str, Any] = {
                "after_seconds": round(noted.at - since, 3),
                "event": noted.event,
            }
            if noted.detail:
                one["detail"] = noted.detail
            if noted.count > 1:
                one["count"] = noted.count
            described.append(one)
        return described


def is_worth_keeping(reason: str, errors: int) -> bool:
    """Tell whether someone may ask how a connection came to its end."""
    return errors > 0 or reason not in PLANNED_ENDS
