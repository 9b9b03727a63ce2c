"""Timers of thousands of connections, rung together: one of the loop for each round."""

import asyncio
import math
from collections.abc import Callable

TICK_SECONDS = 0.1
"""A timer may ring late by so much."""


class Timer:
    """Something to be done in a round, unless it is cancelled before."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it."""
        self._action = None

    def run(self) -> None:
        """Do it."""
        if self._action is not None:
            self._action()


class CoarseTimers:
    """
    call_later() for what need not be exact: pings, and deadlines that nearly
    always are cancelled.

    A timer of the loop's costs a place in its heap, a context and a wake-up of its
    own. What is due in the same tenth of a second shares all of that here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self._loop = loop
        self._timers: dict[int, list[Timer]] = {}

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Do something after so many seconds, and at most a round more."""
        timer = Timer(action)
        number = math.ceil((self.time() + seconds) / TICK_SECONDS)
        timers = self._timers.get(number)
        if timers is None:
            timers = self._timers[number] = []
            self._loop.call_at(number * TICK_SECONDS, self._ring, number)
        timers.append(timer)
        return timer

    def _ring(self, number: int) -> None:
        for timer in self._timers.pop(number):
            try:
                timer.run()
            except Exception as exc:
                # As the loop does with a timer of its own: the others still ring.
                self._loop.call_exception_handler(
                    {"message": f"{timer!r} failed", "exception": exc}
                )


class HasDeadline:
    """What has one deadline at a time, which nearly always is met."""

    _timers: CoarseTimers
    _deadline: Timer | None = None

    def _start_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_deadline()
        self._deadline = self._timers.call_later(seconds, action)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
