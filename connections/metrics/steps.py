"""Watch periodic steps: when each succeeded last, and which are overdue."""

from dataclasses import dataclass

from connections.units import Clock

OVERDUE_INTERVALS = 3
"""A step is overdue when it has not succeeded for so many of its intervals."""

LEAST_SECONDS = 3
"""No step is overdue sooner, because a busy event loop delays short intervals."""


@dataclass(slots=True)
class PeriodicStep:
    """One step, its interval, and its last success in seconds of a monotonic clock."""

    name: str
    interval_seconds: float
    succeeded_at: float


class PeriodicSteps:
    """
    The periodic steps of one process.

    A step is declared before its first run, and its age is counted from then. A
    success of a step that nobody declared is ignored.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_name: dict[str, PeriodicStep] = {}

    def declare(self, name: str, interval_seconds: float) -> None:
        """Expect a step to succeed at an interval from now on."""
        self._by_name[name] = PeriodicStep(name, interval_seconds, self._clock())

    def record_success(self, name: str) -> None:
        """Record that a step succeeded for everything that it concerns."""
        step = self._by_name.get(name)
        if step is not None:
            step.succeeded_at = self._clock()

    def get_ages(self) -> dict[str, float]:
        """Return the seconds since the last success of each step."""
        now = self._clock()
        return {one.name: now - one.succeeded_at for one in self._by_name.values()}

    def get_intervals(self) -> dict[str, float]:
        """Return the interval of each step in seconds."""
        return {one.name: one.interval_seconds for one in self._by_name.values()}

    def find_overdue(self) -> list[str]:
        """Return the names of the steps that are overdue, sorted."""
        intervals = self.get_intervals()
        return sorted(
            name
            for name, age_seconds in self.get_ages().items()
            if is_overdue(age_seconds, intervals[name])
        )


def is_overdue(age_seconds: float, interval_seconds: float) -> bool:
    """Return True if a step of that interval should have succeeded since."""
    return age_seconds > max(OVERDUE_INTERVALS * interval_seconds, LEAST_SECONDS)
