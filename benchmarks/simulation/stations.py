"""Processors of the simulation, and what is counted in each second of it."""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import simpy


class Station:
    """
    A processor that serves one piece of work after another.

    With several cores, work takes that much less time: a queue is as long as behind
    so many cores, and a single piece of work, which is short, ends too early.
    """

    def __init__(self, env: simpy.Environment, cores: float = 1) -> None:
        self._env = env
        self._cores = cores
        self._free_at = 0.0
        self.busy_seconds: defaultdict[int, float] = defaultdict(float)
        """CPU used in each second."""

    @property
    def delay(self) -> float:
        """The seconds until it is free."""
        return max(0.0, self._free_at - self._env.now)

    def serve(self, cpu_seconds: float) -> float:
        """Add work; return the seconds until it is done."""
        begins_at = max(self._env.now, self._free_at)
        self._free_at = begins_at + cpu_seconds / self._cores
        while begins_at < self._free_at:
            second = math.floor(begins_at)
            ends_at = min(self._free_at, second + 1)
            self.busy_seconds[second] += (ends_at - begins_at) * self._cores
            begins_at = ends_at
        return self._free_at - self._env.now


@dataclass(slots=True)
class Counted:
    """Counts of one second."""

    attempts: int = 0
    accepted: int = 0
    refused: int = 0
    """Handshakes that a node cut off, because too many were unfinished."""

    full: int = 0
    """Connects that were closed with pool_full."""

    alone: int = 0
    """Connects that nodes admitted without the pool, which was too slow."""

    failed: int = 0
    """Connects that reached no node."""

    rows: float = 0
    open: int = 0
    """Open connections in the middle of the second."""


@dataclass(slots=True)
class Counts:
    """What happened, second by second, and how long clients were away."""

    env: simpy.Environment
    seconds: defaultdict[int, Counted] = field(
        default_factory=lambda: defaultdict(Counted)
    )
    away: list[tuple[float, int]] = field(default_factory=list)
    """Seconds from the end of connections to the next ones, and how many clients."""

    returned: list[tuple[float, int]] = field(default_factory=list)
    """When they had the next connections."""

    @property
    def now(self) -> Counted:
        """The counts of this second."""
        return self.seconds[math.floor(self.env.now)]


def find_quantile(values: list[tuple[float, int]], share: float) -> float:
    """Return the value that this share of all, by weight, does not exceed."""
    ordered = sorted(values)
    wanted = share * sum(weight for _, weight in ordered)
    reached = 0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    return ordered[-1][0] if ordered else 0.0
