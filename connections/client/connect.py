"""Open a socket, and describe a failed handshake as an end."""

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from connections.client.reconnect import Ended, read_end
from connections.close_codes import Reconnect

_MAX_SIZE = 16 * 2**20
_LOST = 1006
_REFUSING = (400, 401, 403, 404)
"""HTTP statuses that a retry does not change."""


def open_connection(
    url: str, token: str | None = None, subprotocol: str | None = None
) -> connect:
    """
    Return websockets' connect(), with the token as a bearer header.

    Await it for a connection, or use it with `async with`.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(
        url,
        additional_headers=headers,
        subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
        max_size=_MAX_SIZE,
    )


def read_failure(error: OSError | InvalidHandshake) -> Ended:
    """Return the end that a failed handshake stands for."""
    if not isinstance(error, InvalidStatus):
        return read_end(_LOST, "", None)
    status = error.response.status_code
    reason = f"http_{status}"
    if status in _REFUSING:
        return Ended(code=_LOST, reason=reason, reconnect=Reconnect.NEVER)
    return read_end(_LOST, reason, None)
