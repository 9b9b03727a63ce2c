"""Build families of Prometheus metrics from a node's counts."""

from collections.abc import Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from connections.metrics.counters import Histogram


def count_by(
    name: str, documentation: str, label: str, counts: Mapping[str, int]
) -> CounterMetricFamily:
    """Return a counter with one label."""
    family = CounterMetricFamily(name, documentation, labels=[label])
    for word, count in counts.items():
        family.add_metric([word], count)
    return family


def make_histogram(
    name: str, documentation: str, histogram: Histogram
) -> HistogramMetricFamily:
    """Return a histogram with cumulative buckets."""
    edges: Sequence[str] = [*(f"{edge:g}" for edge in histogram.edges), "+Inf"]
    total = 0
    buckets: list[tuple[str, float]] = []
    for edge, count in zip(edges, histogram.counts, strict=True):
        total += count
        buckets.append((edge, total))
    return HistogramMetricFamily(
        name, documentation, buckets=buckets, sum_value=histogram.sum_seconds
    )
