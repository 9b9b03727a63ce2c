"""Run the timers of thousands of connections on few timers of the event loop."""

import asyncio
import math
from collections.abc import Callable

TICK_SECONDS = 0.1
"""How late a timer may run while the event loop is in time."""

_STALL_SECONDS = 0.5
"""A loop that is later than this stood still."""

_MOST_EXTRA_SECONDS = 5.0


class Timer:
    """An action that runs at a tick unless it is cancelled before."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Drop the action."""
        self._action = None

    def run(self) -> None:
        """Run the action unless it was cancelled."""
        if self._action is not None:
            self._action()


class CoarseTimers:
    """
    A call_later() for inexact timers: pings, and deadlines that are nearly always
    cancelled.

    A timer of the loop costs a heap entry, a context and a wake-up. Timers that
    are due in the same tenth of a second share them here.

    A loop that stood still (the process was frozen, or something blocked it) did
    not let the application work either. Timers that fell due meanwhile are put off
    once, by the length of the stall and by at most five seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self._loop = loop
        self._timers: dict[int, list[Timer]] = {}

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run an action after so many seconds, at most one tick later."""
        timer = Timer(action)
        number = math.ceil((self.time() + seconds) / TICK_SECONDS)
        timers = self._timers.get(number)
        if timers is None:
            timers = self._timers[number] = []
            self._loop.call_at(number * TICK_SECONDS, self._ring, number)
        timers.append(timer)
        return timer

    def _ring(self, number: int) -> None:
        timers = self._timers.pop(number)
        late_seconds = self.time() - number * TICK_SECONDS
        if late_seconds > _STALL_SECONDS:
            extra_seconds = min(late_seconds, _MOST_EXTRA_SECONDS)
            self._loop.call_later(extra_seconds, self._run, timers)
        else:
            self._run(timers)

    def _run(self, timers: list[Timer]) -> None:
        for timer in timers:
            try:
                timer.run()
            except Exception as exc:
                # The loop does the same with its own timers: the others still run.
                self._loop.call_exception_handler(
                    {"message": f"{timer!r} failed", "exception": exc}
                )


class HasDeadline:
    """An object with at most one deadline at a time, which is nearly always met."""

    __slots__ = ("_deadline",)

    _timers: CoarseTimers
    _deadline: Timer | None

    def _start_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_deadline()
        self._deadline = self._timers.call_later(seconds, action)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
