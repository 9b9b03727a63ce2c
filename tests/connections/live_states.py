"""Rows and live states of connections, as the dashboard reads them."""

from typing import Any

from django.utils import timezone

from connections.hub.connection import new_connection_id
from connections.models import Connection, Node, NodePicture
from connections.node.live_state import ConnectionState, encode
from tests.connections.rows import make_connection_row


def make_row(node: Node, **values: Any) -> Connection:
    """Create the row of an open connection of a node."""
    given = {"connection_id": new_connection_id(), "route": "ws/"}
    return make_connection_row(node_id=node.node_id, **(given | values))


def make_state(client_id: str = "alice", **values: Any) -> ConnectionState:
    """Return the live state of an open connection."""
    given = {
        "connection_id": new_connection_id(),
        "client_id": client_id,
        "user_id": "",
        "token_id": "",
        "route": "ws/",
        "address": "192.0.2.1",
        "opened_at": timezone.now().timestamp(),
        "state": "quiet",
        "idle_seconds": 20.0,
    }
    return ConnectionState(**{**given, **values})


def store_states(node: Node, *states: ConnectionState) -> None:
    """Store the live states of a node's connections, as the node does."""
    NodePicture.objects.update_or_create(
        node=node, defaults={"wanted_at": timezone.now()}
    )
    NodePicture.objects.filter(node=node).put(encode(list(states)))
