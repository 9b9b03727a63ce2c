"""
Count who uses a node: the top clients, addresses and routes of the last minutes.

The counters of open connections are compared every few seconds, so messages cost
nothing. Memory is bounded, however many clients and addresses there are.
"""

import asyncio
import json
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.metrics.space_saving import SpaceSaving
from connections.privacy import reduce_address

COUNT_SECONDS = 5
MOST_MINUTES = 15
CAPACITY = 50
"""Keys that are counted per minute, kind and measure."""

KINDS = ("client", "address", "route")
COUNTED = ("opened", "messages", "bytes", "errors", "refused")
MEASURES = ("connections", *COUNTED)
"""`connections` are those open now, exactly; the others are of the last minutes."""

_TRAFFIC = ("messages", "bytes", "errors")
_AT_ONCE = 500
_VERSION = 1
_NOTHING = (0, 0, 0)

Report = dict[str, Any]
"""What one node has counted, as JSON."""


class _Minute:
    """The sketches of one minute, by kind and measure."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._sketches: dict[tuple[str, str], SpaceSaving] = {}

    def get(self, kind: str, measure: str) -> SpaceSaving:
        """Return a sketch of this minute."""
        key = (kind, measure)
        found = self._sketches.get(key)
        if found is None:
            found = self._sketches[key] = SpaceSaving(CAPACITY)
        return found

    def describe(self) -> Report:
        """Return the sketches as JSON."""
        sketches = {
            f"{kind} {measure}": [found.total, found.floor, found.list()]
            for (kind, measure), found in self._sketches.items()
        }
        return {"minute": self.number, "sketches": sketches}


class TopCounter:
    """Counts the clients, addresses and routes of one node."""

    def __init__(self, hub: Hub, wall: Callable[[], float] = time.time) -> None:
        self._hub = hub
        self._wall = wall
        self._minute = _Minute(self._read_minute())
        self._closed: deque[Report] = deque(maxlen=MOST_MINUTES)
        self._open: Report = {}
        # Messages, bytes and errors of each connection that were counted before.
        self._before: dict[str, tuple[int, int, int]] = {}

    def record_refused(self, client_id: str, address: str, route: str) -> None:
        """Count a handshake that was refused; an unknown part is empty."""
        minute = self._get_minute()
        for kind, key in zip(KINDS, (client_id, address, route), strict=True):
            if key:
                minute.get(kind, "refused").add(key)

    def record_refused_address(self, address: str) -> None:
        """Count a handshake that was refused before the application."""
        self.record_refused("", reduce_address(address), "")

    def record_closed(self, connection: LiveConnection) -> None:
        """Count what a connection did since the last pass, because it has ended."""
        sums = _Sums()
        self._measure(connection, sums)
        self._before.pop(connection.connection_id, None)
        sums.add_to(self._get_minute())

    async def count(self) -> bool:
        """Count what every open connection did since the last pass; return True."""
        sums = _Sums()
        held = [Counter[str]() for _ in KINDS]
        connections = iter(self._hub)
        while some := list(islice(connections, _AT_ONCE)):
            for one in some:
                if one.connection_id in self._hub:
                    self._measure(one, sums)
                    for counts, key in zip(held, _get_keys(one), strict=True):
                        counts[key] += 1
            await asyncio.sleep(0)
        sums.add_to(self._get_minute())
        self._open = {
            kind: [counts.total(), *_cut(counts)]
            for kind, counts in zip(KINDS, held, strict=True)
        }
        return True

    def clear(self) -> None:
        """Forget the last minutes; what is open is counted anew."""
        self._minute = _Minute(self._read_minute())
        self._closed.clear()
        self._open = {}

    def describe(self) -> Report:
        """Return what was counted in the last minutes; the oldest minute first."""
        latest = self._get_minute().describe()
        minutes = [*self._closed, latest]
        return {"version": _VERSION, "open": self._open, "minutes": minutes}

    def _measure(self, one: LiveConnection, sums: "_Sums") -> None:
        counted = (
            one.messages_in + one.messages_out,
            one.bytes_in + one.bytes_out,
            one.errors,
        )
        before = self._before.get(one.connection_id)
        if before == counted:
            return
        # Connections without a message share theirs.
        self._before[one.connection_id] = _NOTHING if counted == _NOTHING else counted
        sums.add(one, counted, before)

    def _get_minute(self) -> _Minute:
        number = self._read_minute()
        if number > self._minute.number:
            self._closed.append(self._minute.describe())
            self._minute = _Minute(number)
        return self._minute

    def _read_minute(self) -> int:
        return int(self._wall() // 60)


class _Sums:
    """What connections did since the pass before, by kind, measure and key."""

    def __init__(self) -> None:
        self._by_kind: list[dict[str, list[int]]] = [{} for _ in KINDS]

    def add(
        self,
        one: LiveConnection,
        counted: tuple[int, int, int],
        before: tuple[int, int, int] | None,
    ) -> None:
        earlier = before or _NOTHING
        for sums, key in zip(self._by_kind, _get_keys(one), strict=True):
            if not key:
                continue
            row = sums.get(key)
            if row is None:
                row = sums[key] = [0, 0, 0, 0]
            row[0] += before is None
            row[1] += counted[0] - earlier[0]
            row[2] += counted[1] - earlier[1]
            row[3] += counted[2] - earlier[2]

    def add_to(self, minute: _Minute) -> None:
        """Add the sums to the sketches of a minute."""
        for kind, sums in zip(KINDS, self._by_kind, strict=True):
            for index, measure in enumerate(("opened", *_TRAFFIC)):
                amounts = {key: row[index] for key, row in sums.items() if row[index]}
                if amounts:
                    minute.get(kind, measure).add_all(amounts)


def _get_keys(one: LiveConnection) -> tuple[str, str, str]:
    return one.client_id, one.address, one.route


def _cut(counts: Counter[str]) -> tuple[int, list[tuple[str, int, int]]]:
    """Return the largest count that is left out, and those that are not."""
    largest = counts.most_common(CAPACITY + 1)
    floor = largest[CAPACITY][1] if len(largest) > CAPACITY else 0
    return floor, [(key, count, 0) for key, count in largest[:CAPACITY] if key]


def encode_report(report: Report) -> bytes:
    """Encode a report for storage."""
    return zlib.compress(json.dumps(report, separators=(",", ":")).encode(), level=1)


def decode_report(content: bytes | None) -> Report | None:
    """Return a stored report; None if there is none, or another version wrote it."""
    if not content:
        return None
    report: Report = json.loads(zlib.decompress(content))
    return report if report.get("version") == _VERSION else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopRow:
    """A client, address or route with its counts; each is never too low."""

    key: str
    count: float
    error: float
    """By how much the count may be too high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The largest counts of one kind and measure, over nodes and minutes."""

    rows: Sequence[TopRow]
    total: float
    floor: float
    """The largest count that a key which is not listed can have."""


def rank(
    reports: Iterable[Report],
    kind: str,
    measure: str,
    *,
    minutes: int,
    limit: int,
    wall: Callable[[], float] = time.time,
) -> Top:
    """Return the keys with the largest counts in the last minutes, of all reports."""
    since = int(wall() // 60) - minutes
    parts = list(_pick(reports, kind, measure, since))
    floor = sum(part[1] for part in parts)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for _, part_floor, rows in parts:
        for key, count, error in rows:
            counts[key] += count
            errors[key] += error
            known[key] += part_floor
    rows = [
        # Where a key is absent, it may have had as much as the floor there.
        TopRow(
            key=key,
            count=count + floor - known[key],
            error=errors[key] + floor - known[key],
        )
        for key, count in counts.items()
    ]
    rows.sort(key=lambda row: (row.error - row.count, row.key))
    left = max((row.count for row in rows[limit:]), default=0)
    total = sum(part[0] for part in parts)
    return Top(rows=rows[:limit], total=total, floor=max(floor, left))


def _pick(
    reports: Iterable[Report], kind: str, measure: str, since: int
) -> Iterator[Sequence[Any]]:
    """Yield total, floor and rows of each sketch of a kind and measure."""
    for report in reports:
        if measure == "connections":
            if kind in report["open"]:
                yield report["open"][kind]
            continue
        for one in report["minutes"]:
            found = one["sketches"].get(f"{kind} {measure}")
            if found is not None and one["minute"] > since:
                yield found
