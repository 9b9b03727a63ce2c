"""Merge the metrics of several workers into those of one target."""

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.core import Metric

Families = list[list[Any]]
"""Families as JSON: name, documentation, type, and samples (name, labels, value)."""

_CUMULATIVE = ("counter", "histogram", "summary")

SUMMED = frozenset(
    (
        "active_websocket_connections",
        # Beside the sum of the open ones: alerts divide one by the other.
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "websocket_attached_sessions",
        "websocket_consumers_alive",
        "websocket_consumers_stuck",
        "websocket_leak_suspects",
        "websocket_message_rate",
        "websocket_presence_members",
        "websocket_recorder_pending_rows",
        "websocket_send_buffer_bytes",
        "websocket_slow_consumers",
        "websocket_steps_overdue",
    )
)
"""Gauges of which each worker has a part."""

LEAST = frozenset(
    (
        "process_start_time_seconds",
        "websocket_database_up",
        "websocket_draining",
        "websocket_step_last_success_timestamp_seconds",
    )
)
"""Gauges whose least value is the one to look at; of all others it is the greatest."""


def describe_families(metrics: Iterable[Metric]) -> Families:
    """Return metrics as JSON."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[one.name, one.labels, one.value] for one in metric.samples],
        ]
        for metric in metrics
    ]


def make_metrics(families: Families) -> list[Metric]:
    """Return JSON as metrics."""
    made = []
    for name, documentation, kind, samples in families:
        metric = Metric(name, documentation, kind)
        for sample, labels, value in samples:
            metric.add_sample(sample, labels, value)
        made.append(metric)
    return made


def overlay(families: Families, newer: Families) -> Families:
    """Return families, those that have newer values with these alone."""
    return [*{one[0]: one for one in (*families, *newer)}.values()]


class MergedMetrics:
    """The metrics of all workers; counts of those that have ended are kept."""

    def __init__(self) -> None:
        self._ended: Families = []

    def keep(self, families: Families) -> None:
        """Add the counts of a worker that has ended."""
        counts = [one for one in families if one[2] in _CUMULATIVE]
        self._ended = _merge([self._ended, counts])

    def merge(self, workers: Sequence[Families]) -> Families:
        """Return one set of families for all workers, past ones included."""
        return _merge([*workers, self._ended])


def _merge(sources: Sequence[Families]) -> Families:
    heads: dict[str, list[Any]] = {}
    values: dict[str, dict[tuple[Any, ...], float]] = {}
    for families in sources:
        for name, documentation, kind, samples in families:
            heads.setdefault(name, [name, documentation, kind])
            merged = values.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, *sorted(labels.items()))
                before = merged.get(key)
                merged[key] = (
                    value
                    if before is None
                    else _combine(name, kind, sample, before, value)
                )
    return [
        [
            *head,
            [
                [sample, dict(labels), value]
                for (sample, *labels), value in values[name].items()
            ],
        ]
        for name, head in heads.items()
    ]


def _combine(name: str, kind: str, sample: str, one: float, other: float) -> float:
    if sample.endswith("_created") or name in LEAST:
        return min(one, other)
    if kind in _CUMULATIVE or name in SUMMED:
        return one + other
    return max(one, other)
