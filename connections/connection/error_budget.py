"""Count the errors of a connection within a window of time."""

from collections import deque

from connections.units import Clock


class ErrorBudget:
    """Errors within a sliding window of seconds."""

    __slots__ = ("_budget", "_clock", "_moments", "_window_seconds")

    def __init__(self, budget: int, window_seconds: float, clock: Clock) -> None:
        self._budget = budget
        self._window_seconds = window_seconds
        self._clock = clock
        self._moments: deque[float] = deque(maxlen=budget)

    def spend(self) -> bool:
        """Count an error now; return False when the budget is used up."""
        now = self._clock()
        self._moments.append(now)
        is_full = len(self._moments) == self._budget
        return not (is_full and now - self._moments[0] < self._window_seconds)
