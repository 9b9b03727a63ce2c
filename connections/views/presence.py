"""Describe the presence of a node's clients as families of Prometheus metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from connections.presence.node_presence import NodePresence
from connections.views.families import count_by


def describe_presence(presence: NodePresence) -> Iterator[Metric]:
    """Yield the metrics of presence; called on the event loop of its node."""
    rooms, members = presence.measure()
    yield GaugeMetricFamily(
        "websocket_presence_rooms", "Rooms with clients of this node.", rooms
    )
    yield GaugeMetricFamily(
        "websocket_presence_members", "Clients of this node in all its rooms.", members
    )
    if presence.store.online is not None:
        yield GaugeMetricFamily(
            "websocket_presence_online",
            "Clients that are present on any node, those that linger included.",
            presence.store.online,
        )
    yield count_by(
        "websocket_presence_events",
        "Clients that joined and left rooms, as told to this node's connections.",
        "event",
        presence.events,
    )
    yield CounterMetricFamily(
        "websocket_presence_refused",
        "Clients that were not shown because their room was full.",
        presence.refused,
    )
    yield GaugeMetricFamily(
        "websocket_presence_degraded",
        "1 while presence is out of reach.",
        presence.degraded_reason is not None,
    )
