"""Show how far long work is."""

import time
from collections.abc import Callable

from connections.dashboard.charts.scales import format_seconds
from connections.units import Clock

_INTERVAL_SECONDS = 2


class Progress:
    """Write a line with an estimate every two seconds, for work of several parts."""

    def __init__(
        self, write: Callable[[str], object], clock: Clock = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._written_at = clock()
        self._part = ""
        self._began_at = 0.0
        self._at_begin = 0
        self._total = 0

    def advance(self, part: str, done: int, count_left: Callable[[], int]) -> None:
        """
        Note that so many rows of a part are done.

        `count_left` returns how many are left; it is called once for each part that
        takes long.
        """
        now = self._clock()
        if part != self._part:
            self._part, self._began_at, self._at_begin = part, now, done
            self._total = 0
        if now - self._written_at < _INTERVAL_SECONDS:
            return
        self._total = max(self._total or done + count_left(), done)
        left = ""
        if done > self._at_begin:
            seconds_each = (now - self._began_at) / (done - self._at_begin)
            left = f", about {format_seconds(seconds_each * (self._total - done))} left"
        self._write(f"{part}: {done:,} of {self._total:,} rows{left}")
        self._written_at = now
