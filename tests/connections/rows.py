"""Rows of nodes and connections, that several test modules create."""

from typing import Any

from django.utils import timezone

from connections.models import Connection, Node


def make_node_row(node_id: str = "n1", **values: Any) -> Node:
    """Create the row of a node that serves and has just beaten."""
    now = timezone.now()
    moments = {"beat_at": now, "started_at": now}
    defaults: dict[str, Any] = {"host": "h", "pid": 1, "version": "v", **moments}
    return Node.objects.create(node_id=node_id, **(defaults | values))


def make_connection_row(
    connection_id: str, *, node_id: str = "n1", **values: Any
) -> Connection:
    """Create the row of an open connection of alice that was active just now."""
    now = timezone.now()
    moments = {"opened_at": now, "last_activity_at": now}
    defaults: dict[str, Any] = {"client_id": "alice", "path": "/ws/", **moments}
    return Connection.objects.create(
        connection_id=connection_id, node_id=node_id, **(defaults | values)
    )
