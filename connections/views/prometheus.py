"""
Export a node's counters as Prometheus metrics, read at each scrape.

One process is one target: its numbers are those of one node, and a sum over
targets is the cluster's. Clients cannot add labels: routes are URL patterns, and
words beyond a bound count as "other".
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.core import (
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from connections.exceptions import PoolUnavailable
from connections.metrics.merging import Families, make_metrics
from connections.node.current import find_running, get_node
from connections.views.series import describe_series

logger = logging.getLogger(__name__)

_COLLECT_SECONDS = 2


class NodeCollector(Collector):
    """
    Collect the metrics of this process's node, from any thread.

    The /metrics of django-prometheus runs in another thread than the node, as
    does an exporter on a port of its own. The node's loop collects for them,
    because counters could change while they are read.
    """

    def collect(self) -> Iterator[Metric]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            yield from _collect_on_loop()
        else:
            yield from describe_series(get_node())

    def describe(self) -> Iterable[Metric]:
        """Return no metrics: there is no node before an event loop runs."""
        return ()


@dataclass(frozen=True, slots=True)
class Format:
    """A text format of metrics."""

    content_type: str
    encode: Callable[[CollectorRegistry], bytes]


_TEXT = Format(CONTENT_TYPE_LATEST, generate_latest)
_OPEN_METRICS = Format(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest)


def choose_format(accept: str) -> Format:
    """Return OpenMetrics, which alone has exemplars, for those who ask for it."""
    return _OPEN_METRICS if "application/openmetrics-text" in accept else _TEXT


def export_metrics(encode: Callable[[CollectorRegistry], bytes]) -> bytes:
    """
    Return all metrics as text, with those of django-prometheus where it is installed.

    In prometheus_client's multiprocess mode (PROMETHEUS_MULTIPROC_DIR), other
    libraries' metrics cover all processes. Metrics of this package cover this node.
    """
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return encode(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # It has no types.
    registry.register(NodeCollector())
    return encode(registry)


class _Collected(Collector):
    """Metrics that are collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def export_families(
    families: Families, encode: Callable[[CollectorRegistry], bytes]
) -> bytes:
    """Return the merged metrics of all workers as text."""
    registry = CollectorRegistry()
    registry.register(_Collected(make_metrics(families)))
    return encode(registry)


_collector = NodeCollector()


def register() -> None:
    """
    Register the collector of this process; a second call changes nothing.

    Django makes the apps ready again when a test overrides INSTALLED_APPS.
    """
    with contextlib.suppress(KeyError):
        REGISTRY.unregister(_collector)
    REGISTRY.register(_collector)


def _collect_on_loop() -> list[Metric]:
    """Return the metrics of the running node, or none without one."""
    running = find_running()
    if running is None:
        return []
    loop, node = running

    async def collect() -> list[Metric]:
        with contextlib.suppress(PoolUnavailable):
            await node.get_usage()
        return list(describe_series(node))

    collecting = asyncio.run_coroutine_threadsafe(collect(), loop)
    try:
        return collecting.result(_COLLECT_SECONDS)
    except TimeoutError:
        collecting.cancel()
        logger.warning(
            "The metrics of the node are missing from an export: its event loop did "
            "not answer within %s s",
            _COLLECT_SECONDS,
            extra={"event": "metrics_missing"},
        )
        return []
