"""Build families of Prometheus metrics from a node's counts."""

from collections.abc import Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    HistogramMetricFamily,
)

from connections.metrics.counters import SIZE_EXPONENTS, Histogram, TracedDuration


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
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for number, (edge, count) in enumerate(zip(edges, histogram.counts, strict=True)):
        total += count
        traced = histogram.exemplars.get(number)
        if traced is None:
            buckets.append((edge, total))
        else:
            buckets.append((edge, total, _make_exemplar(traced)))
    return HistogramMetricFamily(
        name, documentation, buckets=buckets, sum_value=histogram.sum_seconds
    )


def add_sizes(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    sizes: Sequence[int],
    sum_bytes: int,
) -> None:
    """Add the messages of a route and direction by size; nothing without any."""
    if not any(sizes):
        return
    buckets = [
        (str(2**exponent), float(sum(sizes[: exponent + 1])))
        for exponent in SIZE_EXPONENTS
    ]
    family.add_metric(labels, [*buckets, ("+Inf", float(sum(sizes)))], sum_bytes)


def _make_exemplar(traced: TracedDuration) -> Exemplar:
    """Return the exemplar of a bucket, which OpenMetrics alone shows."""
    labels = {"trace_id": traced.trace_id, "span_id": traced.span_id}
    return Exemplar(labels, traced.seconds, traced.at)
