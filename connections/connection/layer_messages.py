"""Recognise messages of the channel layer that speak for the client or the server."""

import functools

from connections.asgi import Message
from connections.connection.compat import get_handler_name

_LIBRARIES = frozenset(("builtins", "channels", "connections", "sessions_history"))
"""The packages whose classes give a consumer methods of its own."""

_PROTOCOLS = ("http_", "lifespan", "websocket_")
"""The beginnings of types that only the server sends (ASGI 3.0)."""


def is_reserved(consumer_class: type, message: Message) -> bool:
    """
    Return True if a message of the layer must not reach a consumer.

    Whoever can send to the layer must not speak for the client or the server
    (`websocket.receive`), and must not call the methods that every consumer has
    (`close`, `send`, `handle.message` of a session).
    """
    try:
        name = get_handler_name(message)
    except (ValueError, AttributeError, TypeError):
        return False  # No method can have this name.
    return name.startswith(_PROTOCOLS) or name in _find_library_names(consumer_class)


@functools.lru_cache(256)
def _find_library_names(consumer_class: type) -> frozenset[str]:
    """Return the names that library classes define, also if a subclass overrides."""
    names: set[str] = set()
    for one in consumer_class.__mro__:
        if one.__module__.partition(".")[0] in _LIBRARIES:
            names |= vars(one).keys() | getattr(one, "__annotations__", {}).keys()
    return frozenset(names)
