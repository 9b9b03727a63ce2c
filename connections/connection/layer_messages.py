"""Recognise messages of the channel layer that speak for the client or the server."""

from connections.asgi import Message

_LIBRARIES = frozenset(("builtins", "channels", "connections", "sessions_history"))
"""The packages whose classes give a consumer methods of its own."""

_PROTOCOLS = ("http_", "lifespan", "websocket_")
"""The beginnings of types that only the server sends (ASGI 3.0)."""

_PRESENCE = ("presence_gap", "presence_joined", "presence_left")
"""The methods of a consumer that the node calls for events of presence."""

_FREE = ("broadcast", "connection", "end")
"""Names that a consumer may define for a purpose of its own."""

_CACHE = "_orchestra_library_names"
"""The attribute of a class that holds its library names: the cache ends with it."""


def is_reserved(message: Message) -> bool:
    """
    Return True for the type of an event that only the server may send.

    Whoever can send to the layer must not speak for the client or the server
    (`websocket.receive`).
    """
    kind = message.get("type")
    # A name that no method can have is not reserved.
    return isinstance(kind, str) and kind.replace(".", "_").startswith(_PROTOCOLS)


def is_presence(message: Message) -> bool:
    """Return True for the type of an event that only the node's presence may send."""
    kind = message.get("type")
    return isinstance(kind, str) and kind.replace(".", "_") in _PRESENCE


def is_callable_by_type(consumer_class: type, name: str) -> bool:
    """
    Return True if the type of an event may name a method.

    Types of the server may, and those of the layer unless every consumer has the
    method (`close`, `send`, `handle.message` of a session).
    """
    if name.startswith(_PROTOCOLS):
        return True
    names: frozenset[str] | None = vars(consumer_class).get(_CACHE)
    if names is None:
        names = _find_library_names(consumer_class)
        setattr(consumer_class, _CACHE, names)
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
