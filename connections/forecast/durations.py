"""Estimate how long connections would have lasted that never opened."""

import math
from bisect import bisect_left, insort
from collections import deque

_REMEMBERED = 1000
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, are spread evenly however many are taken."""


class Durations:
    """
    How long the connections lasted that opened last, and whether they were idle then.

    next() takes them evenly spread from the shortest to the longest.
    """

    def __init__(self) -> None:
        self._latest: deque[tuple[float, bool]] = deque()
        self._sorted: list[tuple[float, bool]] = []
        self._position = 0.0

    def add(self, seconds: float, is_idle: bool) -> None:
        """Add the duration of a connection, and whether an idle timeout ends it."""
        one = (seconds, is_idle)
        self._latest.append(one)
        insort(self._sorted, one)
        if len(self._latest) > _REMEMBERED:
            self._sorted.pop(bisect_left(self._sorted, self._latest.popleft()))

    def next(self) -> tuple[float, bool]:
        """Return one of the durations; 0 while there is none."""
        if not self._sorted:
            return 0.0, False
        self._position = (self._position + _GOLDEN_RATIO) % 1
        return self._sorted[int(self._position * len(self._sorted))]
