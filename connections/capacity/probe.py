"""Open real connections to a node, and estimate how many it can carry."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from connections.capacity.load.generator import Load, LoadFailed
from connections.capacity.load.procfs import read_cpu_seconds, read_memory_kib
from connections.config.loader import WebSocketConfig

_ACTIVE = 50
"""Connections that exchange messages while the others are idle."""

_MOST_EVICTING = 300
"""The most connections that a client opens for the measurement of an eviction."""

_MEMORY_SHARE = 0.8
_CPU_SHARE = 0.6
"""Shares of the free memory and of one core that connections may use."""


Attempt = tuple[float | None, str]
"""A figure and an empty text, or None and why it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Measurements with a number of open connections."""

    connections: int
    connects_per_second: float
    connect_p99_ms: float
    round_trips_per_second: float
    round_trip_p50_ms: float
    round_trip_p99_ms: float
    round_trip_cpu_us: float | None
    """CPU time of the server per round trip; None if its process is unknown."""
    idle_cpu_percent: float | None
    """Share of one core while no connection sends."""
    kib_per_connection: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the number of connections, each by one resource; None: unknown."""

    opened: int
    """The most connections that were open at once."""
    memory: int | None
    cpu: int | None
    files: int

    @property
    def max_total_connections(self) -> int:
        """The lowest bound, but at most three times the number that was open."""
        return max(1, min(self._list().values()))

    @property
    def decided_by(self) -> str:
        """The name of the lowest bound."""
        bounds = self._list()
        return min(bounds, key=lambda name: bounds[name])

    def _list(self) -> dict[str, int]:
        bounds = {"memory": self.memory, "CPU": self.cpu, "open files": self.files}
        known = {name: bound for name, bound in bounds.items() if bound is not None}
        if self.memory is None or self.cpu is None:
            known["the connections that were open; --pid allows an estimate"] = (
                self.opened
            )
        known["3 x the connections that were open; larger --steps allow more"] = (
            3 * self.opened
        )
        return known


def estimate_capacity(
    steps: Sequence[Step],
    *,
    available_kib: int,
    max_files: int,
    messages_per_second: float,
) -> Bounds:
    """Return the bounds at a rate of messages per connection."""
    last = steps[-1]
    memory = cpu = None
    if last.kib_per_connection:
        # The measured connections are closed, so their memory is free again.
        free_kib = available_kib + last.kib_per_connection * last.connections
        memory = _floor(_MEMORY_SHARE * free_kib / last.kib_per_connection)
    if last.round_trip_cpu_us is not None and last.idle_cpu_percent is not None:
        busy = messages_per_second * last.round_trip_cpu_us / 1e6
        idle = last.idle_cpu_percent / 100 / last.connections
        cpu = _floor(_CPU_SHARE / max(busy + idle, 1e-9))
    files = _floor((max_files - 200) / 1.1)
    return Bounds(opened=last.connections, memory=memory, cpu=cpu, files=files)


def count_clients(counts: Sequence[int], limit: int) -> int:
    """
    Return how many clients open the connections of all steps within their limit.

    One of them opens none before the eviction. The twenty in reserve are for slots
    that are not yet free again.
    """
    return math.ceil((max(counts) + _ACTIVE) / limit) + 20 + 1


def find_no_eviction(config: WebSocketConfig) -> str:
    """Return why no eviction can be measured; empty if one can."""
    if config.on_client_limit != "evict_oldest":
        return f"on_client_limit is {config.on_client_limit}"
    if "clients" in config.enforce.find_observed(""):
        return "enforce.clients is observe"
    if config.max_connections_per_client > _MOST_EVICTING:
        return f"max_connections_per_client is over {_MOST_EVICTING}"
    return ""


def attempt(measure: Callable[[], float]) -> Attempt:
    """Measure a figure without which the others are still of use."""
    try:
        return measure(), ""
    except LoadFailed as exc:
        return None, str(exc)


class Ramp:
    """Open connections to one server in steps, and measure each step."""

    def __init__(
        self,
        load: Load,
        *,
        headers: Sequence[str],
        pid: int | None,
        message: str,
        seconds: float,
        most_p99_ms: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._headers = list(headers)
        self._pid = pid
        self._message = message
        self._seconds = seconds
        self._most_p99_ms = most_p99_ms
        self._clock = clock
        self._open = 0
        self.stopped_by = ""
        """Why the ramp stopped early; empty if all steps were done."""

    def run(self, counts: Sequence[int]) -> Iterator[Step]:
        """
        Yield a step for each number of connections, until one fails.

        Raises:
            LoadFailed: the first step failed.
        """
        # Memory that the server allocates once must not count per connection.
        self._load.do("open", group="active", count=_ACTIVE, headers=self._headers)
        self._confirm("active")
        self._exchange(0.2)
        base_kib = self._read_memory()
        for done, count in enumerate(counts):
            try:
                step = self._measure_step(count, base_kib)
            except LoadFailed as exc:
                self.stopped_by = f"{count} connections: {exc}"
                if not done:
                    raise
                return
            yield step
            if step.round_trip_p99_ms > self._most_p99_ms:
                self.stopped_by = f"round trips took {step.round_trip_p99_ms:.0f} ms"
                return

    def _measure_step(self, count: int, base_kib: float | None) -> Step:
        new = count - self._open
        started = self._clock()
        opened = self._load.do(
            "open", group="idle", count=new, headers=self._headers, seconds=60
        )
        seconds = self._clock() - started
        self._confirm("idle")
        # The server writes records a little later.
        left = int(self._load.do("rest", seconds=self._seconds)["open"]) - _ACTIVE
        if left < count:
            raise LoadFailed(f"the server closed {count - left}")
        self._open = count
        memory_kib = self._read_memory()
        idle_cpu = self._cpu_of(lambda: self._load.do("rest", seconds=self._seconds))
        before = self._read_cpu()
        exchanged = self._exchange(self._seconds)
        after = self._read_cpu()
        return Step(
            connections=count,
            connects_per_second=new / seconds,
            connect_p99_ms=opened["p99_ms"],
            round_trips_per_second=exchanged["round_trips"] / exchanged["seconds"],
            round_trip_p50_ms=exchanged["p50_ms"],
            round_trip_p99_ms=exchanged["p99_ms"],
            round_trip_cpu_us=_divide(before, after, exchanged["round_trips"] / 1e6),
            idle_cpu_percent=idle_cpu,
            kib_per_connection=_divide(base_kib, memory_kib, count),
        )

    def _confirm(self, group: str) -> None:
        """Check that the server has closed no connection of a group."""
        confirmed = self._load.do("confirm", group=group, seconds=60)
        if confirmed["why_closed"]:
            raise LoadFailed(confirmed["why_closed"])

    def measure_eviction(self, headers: str, limit: int) -> float:
        """Return the ms until a client's oldest connection is closed for a new one."""
        evicted = self._load.do("evict", headers=headers, limit=limit)
        return float(evicted["seconds"]) * 1000

    def _exchange(self, seconds: float) -> dict[str, float]:
        return self._load.do(
            "exchange",
            group="active",
            seconds=seconds,
            message=self._message,
            members=_ACTIVE,
        )

    def _cpu_of(self, work: Callable[[], object]) -> float | None:
        before, started = self._read_cpu(), self._clock()
        work()
        return _divide(before, self._read_cpu(), (self._clock() - started) / 100)

    def _read_cpu(self) -> float | None:
        return self._read(read_cpu_seconds)

    def _read_memory(self) -> float | None:
        return self._read(read_memory_kib)

    def _read(self, read: Callable[[int], float]) -> float | None:
        if self._pid is None:
            return None
        try:
            return read(self._pid)
        except OSError as exc:
            raise LoadFailed(f"process {self._pid} cannot be read: {exc}") from exc


def _floor(value: float) -> int:
    """Return the floor of a value, ignoring rounding errors below 1e-6."""
    return math.floor(round(value, 6))


def _divide(before: float | None, after: float | None, parts: float) -> float | None:
    if before is None or after is None or not parts:
        return None
    return max(0.0, after - before) / parts
