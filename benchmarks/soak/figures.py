"""Measure what a cluster holds at rest, and check that it does not grow."""

import asyncio
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from benchmarks.processes import DIRECT
from benchmarks.soak.cluster import Cluster
from connections.testing import LiveServer

_CLOSED = "closed_at is not null"
_SETTLE_SECONDS = 30
_WARM_UP = 1 / 3
"""The share of samples during the warm-up, which are not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resources of the steady node and of the cluster at rest."""

    at_seconds: float
    opened: int
    """Connections opened so far, each of which could have leaked."""

    open: int
    """Connections of the steady node: clients return to either node."""

    rss_kib: int
    files: int
    threads: int
    tasks: int
    consumers: int
    """Of all nodes."""

    rows_open: int
    rows: int
    entries: int
    redis_keys: int


ALLOWED: dict[str, tuple[float, float]] = {
    "rss_kib": (8192, 0.25),
    "files": (8, 0),
    "threads": (4, 0),
    "tasks": (3, 0),
    "consumers": (1, 0),
    "rows_open": (2, 0),
    "rows": (5, 0),
    "entries": (60, 0),
    "redis_keys": (5, 0),
}
"""Allowed growth of each figure: in total, and per opened connection."""

_OF_CONNECTION = {"files": 1, "tasks": 3}
"""How much a connection holds of a figure of the steady node, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The growth of one figure after the warm-up."""

    name: str
    first: float
    last: float
    growth: float
    """Estimated by the median slope between samples, which ignores outliers."""

    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether the growth is allowed."""
        return self.growth <= self.allowed


async def take(cluster: Cluster, *, standing: int, at_seconds: float) -> Sample:
    """
    Wait until the cluster is at rest and return a sample.

    A cluster that does not come to rest in time is sampled as it is.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_SECONDS
    while loop.time() < deadline:
        alive = [await asyncio.to_thread(_ask, node) for node in cluster.nodes]
        consumers = sum(one["consumers"] for one in alive)
        rows = await asyncio.to_thread(cluster.count_rows, "connections_connection")
        if consumers == rows == standing:
            break
        await asyncio.sleep(0.2)
    return await asyncio.to_thread(_take, cluster, alive, at_seconds)


def check(samples: Sequence[Sample]) -> list[Checked]:
    """
    Compare the growth of every figure with the allowed growth.

    Raises:
        ValueError: there are fewer than three samples after the warm-up.
    """
    checked = samples[int(len(samples) * _WARM_UP) :]
    if len(checked) < 3:
        raise ValueError(f"{len(samples)} samples are too few to check")
    opened = checked[-1].opened - checked[0].opened
    counts = [sample.open for sample in checked]
    moved = max(counts) - min(counts)
    found = []
    for name, (allowed, allowed_each) in ALLOWED.items():
        values = [float(getattr(sample, name)) for sample in checked]
        found.append(
            Checked(
                name=name,
                first=values[0],
                last=values[-1],
                growth=find_growth(values),
                allowed=allowed
                + allowed_each * opened
                + _OF_CONNECTION.get(name, 0) * moved,
            )
        )
    return found


def find_growth(values: Sequence[float]) -> float:
    """Return the growth of equally spaced values (Theil-Sen estimator)."""
    slopes = [
        (values[later] - values[earlier]) / (later - earlier)
        for earlier, later in combinations(range(len(values)), 2)
    ]
    return statistics.median(slopes) * (len(values) - 1)


def _take(
    cluster: Cluster, alive: Sequence[dict[str, int]], at_seconds: float
) -> Sample:
    node = cluster.steady
    process = Path(f"/proc/{node.pid}")
    table = "connections_connection"
    rows = cluster.count_rows(table)
    return Sample(
        at_seconds=round(at_seconds, 1),
        opened=alive[0]["opened"],
        open=alive[0]["open"],
        rss_kib=node.rss_kib(),
        files=len(list((process / "fd").iterdir())),
        threads=len(list((process / "task").iterdir())),
        tasks=alive[0]["tasks"],
        consumers=sum(one["consumers"] for one in alive),
        rows_open=rows - cluster.count_rows(table, _CLOSED),
        rows=rows,
        entries=cluster.count_rows("sessions_history_historyentry"),
        redis_keys=cluster.count_keys(),
    )


def _ask(node: LiveServer) -> dict[str, int]:
    with DIRECT.open(f"{node.url}/soak/", timeout=20) as response:
        alive: dict[str, int] = json.load(response)
    return alive
