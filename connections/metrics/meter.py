"""Sample a node's counters: the last minute, whole minutes, the event loop's lag."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from connections.metrics.counters import (
    CREDENTIAL_OUTCOMES,
    UNPLANNED_ENDS,
    Counters,
    Totals,
    add,
    subtract,
)
from connections.metrics.memory import read_rss_bytes
from connections.units import Clock

if TYPE_CHECKING:
    from connections.hub.hub import Hub

TICK_SECONDS = 0.25
"""The interval at which the lag of the event loop is measured."""

WINDOW_SECONDS = 60
"""The period of the recent counts."""

_SAMPLE_SECONDS = 1
_LAG_SAMPLES = 10
_MAX_MINUTES = 240
"""Minutes kept while no sweeper rolls them up: four hours."""

_RECENT = (
    "messages_in",
    "messages_out",
    "errors",
    "opened",
    "ended",
    "unplanned",
    "slow_consumers",
    "refused",
    "auth_failures",
    "pool_full",
    "would_have",
)


class Meter:
    """
    Samples a node's counters once a second.

    `latest` are columns of the node's row. It is made on the event loop and never
    changed afterwards, so that the writing thread may read it. `unrolled` are the
    minutes that no sweeper has rolled up yet, oldest first, each a difference of
    totals. A minute is closed once and does not change afterwards.
    """

    def __init__(
        self,
        counters: Counters,
        hub: "Hub",
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.counters = counters
        self._hub = hub
        self._clock = clock
        self._wall = wall
        self._due_at: float | None = None
        self._lag_seconds = 0.0
        self._max_lag_seconds = 0.0
        self._first_rss_bytes = self.rss_bytes = read_rss_bytes()
        self._max_rss_bytes = self.rss_bytes
        now = clock()
        totals = counters.get_totals(())
        self._sampled_at = now
        self._totals = totals
        self._samples = deque([(now, _pick_sums(totals))], WINDOW_SECONDS + 1)
        self._lags: deque[float] = deque(maxlen=_LAG_SAMPLES)
        self._minute = self._read_minute()
        self._minute_totals = totals
        self.unrolled: tuple[Totals, ...] = ()
        self.latest: dict[str, Any] = {}
        self._take_sample()

    @property
    def lag_seconds(self) -> float:
        """The largest lag of the event loop in the last ten seconds."""
        return max(self._lag_seconds, *self._lags, 0.0)

    @property
    def bytes_per_connection(self) -> float:
        """The growth of the process since the node was created, per connection."""
        grown_bytes = max(0, self.rss_bytes - self._first_rss_bytes)
        return grown_bytes / len(self._hub) if len(self._hub) else 0.0

    async def tick(self) -> None:
        """Measure the loop's lag, and once a second sample the counters."""
        now = self._clock()
        if self._due_at is not None:
            self._lag_seconds = max(self._lag_seconds, now - self._due_at)
            self._max_lag_seconds = max(self._max_lag_seconds, self._lag_seconds)
        if now - self._sampled_at >= _SAMPLE_SECONDS - TICK_SECONDS / 2:
            self._lags.append(self._lag_seconds)
            self._take_sample()
            self._lag_seconds = 0.0
        self._due_at = self._clock() + TICK_SECONDS

    def finish(self) -> None:
        """Close the minute under way, because the node stops."""
        self._take_sample()
        self._close_minute(self._minute + 1)

    def forget(self, rolled_minute: int) -> None:
        """Delete the minutes that a sweeper has rolled up."""
        self.unrolled = tuple(
            one for one in self.unrolled if one["minute"] > rolled_minute
        )

    def get_recent(self) -> dict[str, float]:
        """Return the counts of the last minute, up to now."""
        totals = self.counters.get_totals(self._hub)
        return self._compare(self._clock(), _pick_sums(totals))

    def _compare(self, now: float, picked: dict[str, int]) -> dict[str, float]:
        """Return the difference to a minute ago, or to the start, and its length."""
        while len(self._samples) > 1 and now - self._samples[1][0] >= WINDOW_SECONDS:
            self._samples.popleft()
        began_at, before = self._samples[0]
        recent: dict[str, float] = {
            name: picked[name] - before[name] for name in _RECENT
        }
        recent["seconds"] = max(now - began_at, _SAMPLE_SECONDS)
        return recent

    def _take_sample(self) -> None:
        now = self._clock()
        self._sampled_at = now
        self.rss_bytes = read_rss_bytes()
        self._max_rss_bytes = max(self._max_rss_bytes, self.rss_bytes)
        self._totals = self.counters.get_totals(self._hub)
        picked = _pick_sums(self._totals)
        recent = self._compare(now, picked)
        self._samples.append((now, picked))
        minute = self._read_minute()
        if minute > self._minute:
            # After a clock was set back, the minute stays open until its end again.
            self._close_minute(minute)
        self.latest = {
            "counters": {
                **self._totals,
                "recent": recent,
                "consumers": self.counters.consumers,
                "stuck_consumers": self.counters.count_stuck(now),
            },
            "minute": self._describe_minute(),
            "unrolled": self.unrolled,
            "loop_lag_seconds": round(self.lag_seconds, 4),
        }

    def _close_minute(self, following: int) -> None:
        minutes = [*self.unrolled, self._describe_minute()]
        if len(minutes) > _MAX_MINUTES:
            oldest, second, *rest = minutes
            at_end = {name: second[name] for name in ("minute", "open_connections")}
            minutes = [add(oldest, second) | at_end, *rest]
        self.unrolled = tuple(minutes)
        self._minute = following
        self._minute_totals = self._totals
        self.counters.max_open = len(self._hub)
        self._max_lag_seconds = 0.0
        self._max_rss_bytes = self.rss_bytes

    def _describe_minute(self) -> Totals:
        """Return the counts of the minute under way so far."""
        return subtract(self._totals, self._minute_totals) | {
            "minute": self._minute,
            "open_connections": len(self._hub),
            "max_open": max(self.counters.max_open, len(self._hub)),
            "max_loop_lag_seconds": round(self._max_lag_seconds, 4),
            "max_rss_bytes": self._max_rss_bytes,
        }

    def _read_minute(self) -> int:
        return int(self._wall() // 60)


def _pick_sums(totals: Totals) -> dict[str, int]:
    """Return the sums that the recent counts consist of."""
    ends, refused = totals["ends"], totals["refused"]
    return {
        "messages_in": totals["messages_in"],
        "messages_out": totals["messages_out"],
        "errors": sum(totals["errors"].values()),
        "opened": totals["opened"],
        "ended": sum(ends.values()),
        "unplanned": sum(ends.get(reason, 0) for reason in UNPLANNED_ENDS),
        "slow_consumers": ends.get("slow_consumer", 0),
        "refused": sum(refused.values()),
        "auth_failures": sum(refused.get(word, 0) for word in CREDENTIAL_OUTCOMES),
        "pool_full": refused.get("pool_full", 0),
        "would_have": sum(totals["would_have"].values()),
    }
