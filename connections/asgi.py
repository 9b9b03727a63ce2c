"""Name the types of an ASGI application (ASGI 3.0 specification)."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
"""One event of an ASGI scope, or a scope itself."""

Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

ARRIVED = "orchestra.arrived"
"""The extension with the moment of the handshake, on the clock of the node."""

TRANSPORT = "orchestra.transport"
"""The extension with Orchestra's server below ASGI (connections.hub.connection)."""

CARRIER = "orchestra.carrier"
"""The extension that names the transport of a connection that is no WebSocket."""


def get_extension(scope: Message, name: str, default: Any = None) -> Any:
    """Return an extension of a scope."""
    return (scope.get("extensions") or {}).get(name, default)


def with_extension(scope: Message, name: str, value: Any) -> Message:
    """
    Return a scope with an extension.

    The scope of a connection lasts as long as it does, and with more than 21 keys of
    its own a dict takes twice the memory.
    """
    extensions = {**(scope.get("extensions") or {}), name: value}
    return {**scope, "extensions": extensions}
