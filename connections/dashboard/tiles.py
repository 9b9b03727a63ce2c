"""The numbers at the top of the dashboard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from connections.config.loader import get_config
from connections.dashboard.charts.scales import (
    NOTHING,
    format_count,
    format_seconds,
    split_seconds,
)
from connections.dashboard.observed import count_decisions, list_observed
from connections.dashboard.statistics import Statistics
from connections.metrics.counters import DURATION_EDGES
from connections.models import Node
from connections.node.live_state import ConnectionState

_BAD_RATIO = 0.05
_FULL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number with its unit and a note."""

    label: str
    value: str
    unit: str = ""
    note: str = ""
    is_bad: bool = False
    is_pair: bool = False
    """True if the value is two numbers, which need more room."""

    is_wide: bool = False
    """True if the tile takes a row of its own."""


def make_tiles(
    statistics: Statistics,
    shown: Sequence[ConnectionState],
    nodes: Sequence[Node],
    *,
    firing: int,
    pending: int,
) -> list[Tile]:
    """Return the tiles, for the connections shown, their nodes and the range."""
    most = get_config().max_total_connections
    peak = max(statistics.peak_open, len(shown))
    return [
        Tile(
            label="Open now",
            value=format_count(len(shown)),
            note=f"peak in 24 h {format_count(peak)} · limit {format_count(most)}",
            is_bad=len(shown) >= _FULL * most,
        ),
        *_make_online(nodes),
        _make_rate("Opened", "opened", statistics.opened, nodes),
        _make_rate("Ended", "ended", statistics.ended, nodes),
        _make_refused(statistics, nodes),
        _make_traffic(statistics, shown),
        _make_errors(statistics),
        _make_durations(statistics),
        Tile(
            label="Alerts firing",
            value=str(firing),
            note=f"{pending} pending" if pending else "none pending",
            is_bad=firing > 0,
        ),
        *_make_observed(nodes),
    ]


def estimate_quantile(
    counts: Sequence[int], part: float, edges: Sequence[float] = DURATION_EDGES
) -> float | None:
    """
    Return an estimated quantile of the durations in buckets, in seconds.

    Interpolates within a bucket, as Prometheus' histogram_quantile() does;
    durations above the last edge count as that edge.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = part * total
    below = 0
    for index, count in enumerate(counts[: len(edges)]):
        if count and below + count >= wanted:
            low = edges[index - 1] if index else 0.0
            return low + (edges[index] - low) * (wanted - below) / count
        below += count
    return edges[-1]


def _make_online(nodes: Sequence[Node]) -> Iterator[Tile]:
    """Yield a tile with the clients that are present, where consumers have presence."""
    online = max((node.counters.get("online", 0) for node in nodes), default=0)
    if online:
        yield Tile(label="Online", value=format_count(online), note="clients present")


def _make_rate(
    label: str, name: str, values: Sequence[float], nodes: Sequence[Node]
) -> Tile:
    """Return a tile with a rate per minute, summed over the nodes."""
    rate = 0.0
    for node in nodes:
        recent = node.counters.get("recent", {})
        rate += 60 * recent.get(name, 0) / recent.get("seconds", 60)
    return Tile(
        label=label,
        value=format_count(round(rate, 1)),
        unit="/min",
        note=f"{format_count(sum(values))} in the range",
    )


def _make_observed(nodes: Sequence[Node]) -> list[Tile]:
    """Return a tile if a node observes limits, with what they would have done."""
    observed = list_observed(nodes)
    if not observed:
        return []
    total = format_count(count_decisions(nodes).total())
    tile = _make_rate("Observed, not enforced", "would_have", (), nodes)
    note = f"{'; '.join(observed)} · {total} decisions since the start of the nodes"
    return [replace(tile, note=note, is_wide=True)]


def _make_refused(statistics: Statistics, nodes: Sequence[Node]) -> Tile:
    """Return the tile of refused handshakes; bad while the pool is full."""
    per_step = [sum(step) for step in zip(*statistics.refused.values(), strict=True)]
    tile = _make_rate("Refused", "refused", per_step, nodes)
    most_frequent = next(iter(statistics.refused), "").replace("_", " ")
    return replace(
        tile,
        note=f"{most_frequent} · {tile.note}" if most_frequent else tile.note,
        is_bad=any(node.counters.get("pool_full") for node in nodes),
    )


def _make_traffic(statistics: Statistics, shown: Sequence[ConnectionState]) -> Tile:
    incoming = format_count(round(sum(one.in_per_second for one in shown), 1))
    outgoing = format_count(round(sum(one.out_per_second for one in shown), 1))
    return Tile(
        label="Messages /s",
        value=f"↓{incoming} ↑{outgoing}",
        note="↓ from clients, ↑ to clients",
        is_pair=True,
    )


def _make_errors(statistics: Statistics) -> Tile:
    errors = sum(map(sum, statistics.errors.values()))
    messages = sum(statistics.messages_in)
    ratio = errors / messages if messages else 0.0
    return Tile(
        label="Error ratio",
        value=f"{ratio * 100:.2f}".rstrip("0").rstrip("."),
        unit="%",
        note=f"{format_count(errors)} of {format_count(messages)} messages",
        is_bad=ratio >= _BAD_RATIO,
    )


def _make_durations(statistics: Statistics) -> Tile:
    middle = estimate_quantile(statistics.durations, 0.5)
    high = estimate_quantile(statistics.durations, 0.95)
    value, unit = split_seconds(middle) if middle is not None else (NOTHING, "")
    longest = NOTHING if high is None else format_seconds(high)
    return Tile(
        label="Session length",
        value=value,
        unit=unit,
        note=f"half are shorter · p95 {longest}",
    )
