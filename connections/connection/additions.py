"""Find what a project has added to a consumer and to its scope."""

import gc
from collections.abc import Iterator
from typing import Any

from connections.asgi import Message
from connections.node.gc import is_shared

_ATTRIBUTES = frozenset(
    (
        *("_orchestra_connection", "_orchestra_runner", "base_send", "channel_layer"),
        *("channel_name", "connection", "groups", "scope"),
    )
)
_KEYS = frozenset(
    (
        *("app", "asgi", "client", "cookies", "credential", "extensions"),
        *("headers", "http_version", "method", "node", "path", "path_remaining"),
        *("query_string", "raw_path", "root_path", "route", "scheme", "server"),
        *("session", "state", "subprotocols", "type", "url_route", "user"),
    )
)


def find_added(consumer: object, scope: Message) -> Iterator[Any]:
    """Yield the values that may be part of a reference cycle."""
    for known, values in ((_ATTRIBUTES, vars(consumer)), (_KEYS, scope)):
        for name, value in values.items():
            if gc.is_tracked(value) and name not in known and not is_shared(value):
                yield value
