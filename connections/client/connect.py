"""Open a socket, and describe a failed handshake as an end."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from connections.client.reconnect import Ended, read_end
from connections.close_codes import Reconnect

_MAX_SIZE = 16 * 2**20
_LOST = 1006
REFUSING = (400, 401, 403, 404)
"""HTTP statuses that a retry does not change."""
BUSY = (429, 503, 504)
"""HTTP statuses whose Retry-After counts (RFC 9110, section 10.2.3)."""
_LONGEST_SECONDS = 3600.0
"""The longest Retry-After that a client obeys."""


class Transport(Protocol):
    """What a socket runs on."""

    def abort(self) -> None:
        """End the socket without a close frame."""


class Socket(Protocol):
    """The part of websockets' ClientConnection that a client uses."""

    @property
    def transport(self) -> Transport:
        """What the socket runs on."""

    @property
    def close_code(self) -> int | None:
        """The code of the close frame; None without one."""

    @property
    def close_reason(self) -> str | None:
        """The reason of the close frame."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the messages of the server."""

    async def recv(self) -> Any:
        """Return the next message of the server."""

    async def send(self, message: str) -> None:
        """Send a message."""

    async def close(self) -> None:
        """Close the socket."""


OpenSocket = Callable[[str, str | None, Sequence[str]], Awaitable[Socket]]
"""Opens a socket to a URL with a token, which may be None, and subprotocols."""


def open_connection(
    url: str,
    token: str | None = None,
    subprotocol: str | Sequence[str] | None = None,
) -> connect:
    """
    Return websockets' connect(), with the token as a bearer header.

    Of several subprotocols the server selects one. Await it for a connection, or use
    it with `async with`.
    """
    offered = [subprotocol] if isinstance(subprotocol, str) else subprotocol or []
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(
        url,
        additional_headers=headers,
        subprotocols=[Subprotocol(one) for one in offered] or None,
        max_size=_MAX_SIZE,
    )


def read_failure(error: OSError | WebSocketException) -> Ended:
    """Return the end that a failed handshake stands for."""
    if not isinstance(error, InvalidStatus):
        return read_end(_LOST, "", None)
    status = error.response.status_code
    reason = f"http_{status}"
    if status in REFUSING:
        return Ended(code=_LOST, reason=reason, reconnect=Reconnect.NEVER)
    ended = read_end(_LOST, reason, None)
    if status not in BUSY:
        return ended
    values = error.response.headers.get_all("Retry-After")
    return replace(ended, after_seconds=read_retry_after(values))


def read_retry_after(values: Sequence[str]) -> float | None:
    """Return the seconds that the last Retry-After header asks for, None if invalid."""
    text = values[-1].strip() if values else ""
    if text.isascii() and text.isdecimal():
        return min(float(text), _LONGEST_SECONDS)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_SECONDS)
