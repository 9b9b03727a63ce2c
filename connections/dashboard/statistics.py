"""Statistics over a range of time, from the per-minute rollups."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from connections.dashboard.filters import RANGES
from connections.metrics.counters import DURATION_EDGES
from connections.models import HourRollup, MinuteRollup, Node
from connections.units import Clock

_STEP_MINUTES = {"15m": 1, "1h": 1, "6h": 5, "24h": 15, "7d": 120}
_KEPT_SECONDS = {"15m": 2, "1h": 2, "6h": 10, "24h": 30, "7d": 120}
"""How long statistics are kept before they are read again."""

_MOST_KNOWN = 100

_EMPTY_MINUTE: dict[str, Any] = {
    "opened": 0,
    "messages_in": 0,
    "messages_out": 0,
    "open_connections": 0,
    "ends": {},
    "errors": {},
    "refused": {},
    "handling": [],
    "handling_seconds": 0,
    "max_loop_lag_seconds": 0,
    "durations": [0] * (len(DURATION_EDGES) + 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Sums for each step of a range, oldest first, and for the whole range."""

    times: Sequence[datetime]
    step_minutes: int
    open_connections: Sequence[float]
    opened: Sequence[float]
    ended: Sequence[float]
    messages_in: Sequence[float]
    messages_out: Sequence[float]
    errors: Mapping[str, Sequence[float]]
    """Errors by kind; kinds without errors in the range are absent."""

    refused: Mapping[str, Sequence[float]]
    """Refused handshakes by reason; reasons without any are absent."""

    handling_ms: Sequence[float] = ()
    """The mean time of handling a message, in milliseconds."""

    lag_ms: Sequence[float] = ()
    """The largest lag of an event loop, in milliseconds."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    durations: Sequence[int] = (0,) * (len(DURATION_EDGES) + 1)
    peak_open: int = 0
    """The most open connections at the end of a minute, within 24 hours."""


def read_statistics(range_name: str, node_id: str = "") -> Statistics:
    """Return the statistics of a range until now, for one node or all."""
    step = _STEP_MINUTES[range_name]
    end = timezone.now()
    rows = MinuteRollup.objects.of_node(node_id) if node_id else MinuteRollup.objects
    start = end - RANGES[range_name]
    minutes = _list_minutes(range_name, end)
    hours = [] if node_id or step % 60 else _read_hours(minutes)
    if hours:
        start = datetime.fromtimestamp((hours[-1]["minute"] + 60) * 60, UTC)
    chosen = rows.between(start, end)
    sums = _Sums(
        step=step,
        points={point["minute"]: point for point in chosen.series(step)},
        errors=chosen.series_by_label("errors_by_kind", step),
        refused=chosen.series_by_label("refused_by_outcome", step),
        ends=chosen.series_by_label("ends_by_reason", step),
        durations=chosen.sum_buckets("durations") or [0] * (len(DURATION_EDGES) + 1),
    )
    sums.add(hours)
    sums.add([one for one in _read_pending(node_id) if one["minute"] in minutes])
    day = rows.between(end - timedelta(days=1), end).series(1440)
    peak = max((point["open_connections"] for point in day), default=0)
    return sums.finish(minutes, peak)


def add_minutes(range_name: str, minutes: Iterable[dict[str, Any]]) -> Statistics:
    """Return the statistics of a range from minutes that are not rolled up."""
    wanted = _list_minutes(range_name, timezone.now())
    sums = _Sums(step=_STEP_MINUTES[range_name])
    whole = [{**_EMPTY_MINUTE, **one} for one in minutes if one["minute"] in wanted]
    sums.add(whole)
    return sums.finish(wanted, max((one["max_open"] for one in whole), default=0))


def _list_minutes(range_name: str, end: datetime) -> range:
    """Return the minutes of a range, since 1970, the last one under way."""
    last = int(end.timestamp() // 60)
    return range(last + 1 - int(RANGES[range_name].total_seconds() // 60), last + 1)


@dataclass(slots=True, kw_only=True)
class _Sums:
    """Sums of a range's rows, by the first minute of each step."""

    step: int
    points: dict[int, dict[str, Any]] = field(default_factory=dict)
    errors: dict[int, dict[str, int]] = field(default_factory=dict)
    refused: dict[int, dict[str, int]] = field(default_factory=dict)
    ends: dict[int, dict[str, int]] = field(default_factory=dict)
    durations: list[int] = field(
        default_factory=lambda: [0] * (len(DURATION_EDGES) + 1)
    )

    def add(self, minutes: Sequence[dict[str, Any]]) -> None:
        """Add minutes that are not rolled up yet."""
        open_by_minute = Counter[int]()
        for one in minutes:
            at = one["minute"] - one["minute"] % self.step
            point = self.points.setdefault(at, {})
            for name in ("opened", "messages_in", "messages_out", "handling_seconds"):
                point[name] = point.get(name, 0) + one[name]
            point["handled"] = point.get("handled", 0) + sum(one["handling"])
            lag_seconds = point.get("max_loop_lag_seconds", 0)
            point["max_loop_lag_seconds"] = max(
                lag_seconds, one["max_loop_lag_seconds"]
            )
            point["ended"] = point.get("ended", 0) + sum(one["ends"].values())
            self.errors[at] = Counter(self.errors.get(at)) + Counter(one["errors"])
            self.refused[at] = Counter(self.refused.get(at)) + Counter(one["refused"])
            self.ends[at] = Counter(self.ends.get(at)) + Counter(one["ends"])
            both = zip(self.durations, one["durations"], strict=True)
            self.durations = [before + more for before, more in both]
            open_by_minute[one["minute"]] += one["open_connections"]
        for minute, total in open_by_minute.items():
            point = self.points[minute - minute % self.step]
            point["open_connections"] = max(point.get("open_connections", 0), total)

    def finish(self, minutes: range, peak_open: int) -> Statistics:
        """Return the statistics of a range of minutes."""
        # An incomplete first step would look like a rise.
        first = -(-minutes.start // self.step) * self.step
        steps = range(first, minutes.stop, self.step)
        handled = self._pick("handled", steps)
        seconds = self._pick("handling_seconds", steps)
        lags = self._pick("max_loop_lag_seconds", steps)
        return Statistics(
            times=[datetime.fromtimestamp(minute * 60, UTC) for minute in steps],
            step_minutes=self.step,
            open_connections=self._pick("open_connections", steps),
            opened=self._pick("opened", steps),
            ended=self._pick("ended", steps),
            messages_in=self._pick("messages_in", steps),
            messages_out=self._pick("messages_out", steps),
            errors=_by_label(self.errors, steps),
            refused=_by_label(self.refused, steps),
            handling_ms=[
                1000 * total / count if count else 0
                for total, count in zip(seconds, handled, strict=True)
            ],
            lag_ms=[1000 * lag for lag in lags],
            reasons=_rank(self.ends),
            durations=self.durations,
            peak_open=peak_open,
        )

    def _pick(self, name: str, steps: Iterable[int]) -> list[float]:
        """Return one column for each step."""
        return [self.points.get(minute, {}).get(name, 0) for minute in steps]


def _by_label(
    series: Mapping[int, Mapping[str, int]], steps: Iterable[int]
) -> dict[str, list[float]]:
    """Return the count of each step by label, the most frequent label first."""
    return {
        label: [series.get(minute, {}).get(label, 0) for minute in steps]
        for label in _rank(series)
    }


def _rank(series: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """Return the counts by label of a whole range, the largest first."""
    total = Counter[str]()
    for counts in series.values():
        total.update(counts)
    return dict(total.most_common())


def _read_hours(minutes: range) -> list[dict[str, Any]]:
    """
    Return the hours from the first one of a range of minutes, up to a missing one.

    An hour looks like a minute of one node, the first minute of the hour. None are
    returned if minutes before them are not in hours yet.
    """
    first = -(-minutes.start // 60)
    rows = list(HourRollup.objects.filter(hour__gte=first).order_by("hour"))
    if not rows or (
        MinuteRollup.objects.order_by()
        .filter(minute__gte=first * 60, minute__lt=rows[0].hour * 60)
        .exists()
    ):
        return []
    found: list[dict[str, Any]] = []
    for row in rows:
        if found and found[-1]["minute"] + 60 != row.hour * 60:
            break
        values = {
            "minute": row.hour * 60,
            "ends": row.ends_by_reason,
            "errors": row.errors_by_kind,
            "refused": row.refused_by_outcome,
        }
        for name in _EMPTY_MINUTE.keys() - values.keys():
            values[name] = getattr(row, name) or _EMPTY_MINUTE[name]
        found.append(values)
    return found


def _read_pending(node_id: str) -> list[dict[str, Any]]:
    """Return the minutes that are not rolled up yet, the current one included."""
    nodes = Node.objects.live()
    if node_id:
        nodes = nodes.filter(node_id=node_id)
    found = {
        (name, one["minute"]): one
        for name, unrolled, minute in nodes.values_list("node_id", "unrolled", "minute")
        for one in (*unrolled, minute)
        if one
    }
    # Read afterwards: the sweeper may have rolled up a minute in between.
    rolled_up = MinuteRollup.objects.filter(
        node_id__in={name for name, _ in found},
        minute__in={minute for _, minute in found},
    ).values_list("node_id", "minute")
    for key in rolled_up:
        found.pop(key, None)
    return [{**_EMPTY_MINUTE, **one} for one in found.values()]


@dataclass(slots=True)
class _Cached:
    """The statistics of one range and node, and who reads them anew."""

    reading: threading.Lock = field(default_factory=threading.Lock)
    read_at: float = 0.0
    statistics: Statistics | None = None


class StatisticsCache:
    """
    Cache statistics per range and node, for any number of threads.

    One thread at a time reads a range. Others get its last statistics meanwhile,
    and wait only if there are none; other ranges wait for nothing.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        read: Callable[[str, str], Statistics] = read_statistics,
    ) -> None:
        self._clock = clock
        self._read = read
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Cached] = {}

    def get(self, range_name: str, node_id: str = "") -> Statistics:
        """Return the cached statistics of a range, or read them anew."""
        key = (range_name, node_id)
        with self._lock:
            if key not in self._known and len(self._known) > _MOST_KNOWN:
                self._known.clear()
            cached = self._known.setdefault(key, _Cached())
        last = cached.statistics
        if last is not None and self._is_fresh(cached, range_name):
            return last
        if not cached.reading.acquire(blocking=last is None) and last is not None:
            return last
        try:
            last = cached.statistics
            if last is None or not self._is_fresh(cached, range_name):
                last = self._read(range_name, node_id)
                cached.statistics, cached.read_at = last, self._clock()
            return last
        finally:
            cached.reading.release()

    def _is_fresh(self, cached: _Cached, range_name: str) -> bool:
        return self._clock() - cached.read_at < _KEPT_SECONDS[range_name]
