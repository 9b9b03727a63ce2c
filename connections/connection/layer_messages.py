"""Recognise messages of the channel layer that speak for the client or the server."""

from weakref import WeakKeyDictionary

from connections.asgi import Message
from connections.connection.compat import get_handler_name

_LIBRARIES = frozenset(("builtins", "channels", "connections", "sessions_history"))
"""The packages whose classes give a consumer methods of its own."""

_PROTOCOLS = ("http_", "lifespan", "websocket_")
"""The beginnings of types that only the server sends (ASGI 3.0)."""

_FREE = ("connection", "end")
"""Names that a consumer may define for a purpose of its own."""

# A cache must not keep the classes of consumers: libraries connect signals that end
# with the class.
_library_names: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()


def is_reserved(message: Message) -> bool:
    """
    Return True for the type of an event that only the server may send.

    Whoever can send to the layer must not speak for the client or the server
    (`websocket.receive`).
    """
    try:
        name = get_handler_name(message)
    except (ValueError, AttributeError, TypeError):
        return False  # No method can have this name.
    return name.startswith(_PROTOCOLS)


def is_callable_by_type(consumer_class: type, name: str) -> bool:
    """
    Return True if the type of an event may name a method.

    Types of the server may, and those of the layer unless every consumer has the
    method (`close`, `send`, `handle.message` of a session).
    """
    if name.startswith(_PROTOCOLS):
        return True
    names = _library_names.get(consumer_class)
    if names is None:
        names = _library_names[consumer_class] = _find_library_names(consumer_class)
    return name not in names


def _find_library_names(consumer_class: type) -> frozenset[str]:
    """Return the names that library classes define, also if a subclass overrides."""
    names: set[str] = set()
    own: set[str] = set()
    for one in consumer_class.__mro__:
        if one.__module__.partition(".")[0] in _LIBRARIES:
            names |= vars(one).keys() | getattr(one, "__annotations__", {}).keys()
        else:
            own |= vars(one).keys()
    return frozenset(names.difference(own.intersection(_FREE)))
