"""Make a connection from the scope of its handshake."""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

from django.contrib.auth import get_user_model

from connections.asgi import ARRIVED, CARRIER, TRANSPORT, Message, get_extension
from connections.credentials.identity import Credential
from connections.hub.connection import (
    WEBSOCKET,
    LiveConnection,
    Sender,
    new_connection_id,
)
from connections.hub.flight_recorder import FlightRecord
from connections.interning import share
from connections.limits import Limits
from connections.node.node import Node
from connections.storage.text import clean

_TEXT = 255

_CONNECTION_ID = re.compile("[0-9a-f]{32}")
"""What new_connection_id() returns."""


def connection_from_scope(
    scope: Message,
    client_id: str | None,
    node: Node,
    sender: Sender,
    limits: Limits,
    credential: Credential | None = None,
) -> LiveConnection:
    """Return a new connection for the scope of a handshake."""
    connection_id = new_connection_id()
    headers = dict(reversed(scope.get("headers") or ()))
    user = scope.get("user")
    client = scope.get("client")
    route = clean(scope.get("route", ""), _TEXT)
    counted = node.counters.get_route(route)
    connection = LiveConnection(
        connection_id=connection_id,
        client_id=bound_client_id(client_id or f"connection:{connection_id}"),
        now=get_extension(scope, ARRIVED, node.clock()),
        sender=sender,
        user_id=find_user_id(user),
        credential=credential or scope.get("credential"),
        limits=limits,
        path=clean(scope.get("path", ""), _TEXT),
        route=route,
        address=clean(str(client[0]), 64) if client else "",
        origin=clean(headers.get(b"origin", b"").decode("latin-1"), _TEXT),
        # All clients of one program share one string.
        user_agent=share(
            clean(headers.get(b"user-agent", b"").decode("latin-1"), _TEXT)
        ),
        transport=get_extension(scope, TRANSPORT),
        carrier=get_extension(scope, CARRIER, WEBSOCKET),
        flight=FlightRecord(node.clock),
        sizes=(counted.sizes_in, counted.sizes_out),
    )
    _observe(connection, scope, node)
    return connection


def find_user_id(user: Any) -> Any:
    """
    Return the key of a user of the user model, or None.

    The key of another kind of user would name somebody else.
    """
    return user.pk if isinstance(user, get_user_model()) else None


def _observe(connection: LiveConnection, scope: Message, node: Node) -> None:
    """Set the limits of a connection that are observed on its route."""
    enforce, buffers = node.config.enforce, node.config.buffers
    connection.observed = enforce.find_observed(connection.route)
    connection.observer = node.observer
    if scope.get("has_foreign_origin"):
        node.observer.record_end(connection, "origin", "refused")
    if "size" in connection.observed and connection.transport is not None:
        connection.transport.allow_message_size(buffers.max_receive_bytes)


def read_replaces(scope: Message) -> str | None:
    """
    Return the id of the connection that a reconnecting client replaces.

    A text that is no id of ours is None: a store may refuse to read it.
    """
    query_string: bytes = scope.get("query_string", b"")
    if b"replaces" not in query_string:
        return None
    replaced, *_ = parse_qs(query_string.decode("latin-1")).get("replaces", [""])
    return replaced if _CONNECTION_ID.fullmatch(replaced) else None


def bound_client_id(client_id: str) -> str:
    """
    Return a client id that fits its column and stays unique.

    The cleaned text alone is not unique: two ids may differ in a NUL.
    """
    stored = clean(client_id, len(client_id))
    if stored == client_id and len(client_id) <= _TEXT:
        return client_id
    digest = hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stored[:128]}:{digest}"
