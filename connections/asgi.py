"""Name the types of an ASGI application (ASGI 3.0 specification)."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
"""One event of an ASGI scope, or a scope itself."""

Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
