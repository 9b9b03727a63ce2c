"""Assert how connections end; a failure says what happened instead."""

import asyncio
from collections import deque
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from connections import close_codes
from connections.testing.processes import find_server
from connections.testing.raw_client import PING, PONG, RawClient, build_frame
from connections.testing.waiting import scale

LOST = 1006
"""RFC 6455, section 7.1.5: the code for a close without a close frame."""

_LOG_LINES = 10
_LONG_SECONDS = 86_400
_SHOWN_CHARACTERS = 200
_SHOWN_MESSAGES = 5
_PING = b"assert_open"
_CLOSE = "websocket.close"
_NORMAL = 1000


@runtime_checkable
class Communicator(Protocol):
    """The part of Channels' WebsocketCommunicator that is used here."""

    async def receive_output(self, timeout: float) -> Any:
        """Return the next event."""


Peer = RawClient | ClientConnection | Communicator
"""A connection of this package, of the `websockets` library or of Channels."""


class Closing(NamedTuple):
    """Code and reason of a close; LOST without a close frame."""

    code: int
    reason: str

    def __str__(self) -> str:
        return f"{self.code} {self.reason or '(no reason)'}"


async def read_close(peer: Peer, seconds: float = 30) -> Closing:
    """
    Wait for a close, skipping messages; return code and reason.

    Raises:
        AssertionError: the connection is still open.
    """
    messages: deque[object] = deque(maxlen=_SHOWN_MESSAGES)
    try:
        async with asyncio.timeout(scale(seconds)):
            return await _read_close(peer, messages)
    except TimeoutError:
        got = "".join(f"\n  {str(one)[:_SHOWN_CHARACTERS]}" for one in messages)
        last = f"the last that it got:{got}" if got else "it got nothing"
        _fail(peer, f"open after {seconds:g} s; {last}")


async def assert_closed(
    peer: Peer, code: int, reason: str | None = None, *, seconds: float = 30
) -> None:
    """
    Wait until the server closes a connection, with this code and this reason.

    A failure shows what happened instead, and the end of the LiveServer's log.
    """
    expected = f"{code} {reason}" if reason is not None else str(code)
    try:
        closing = await read_close(peer, seconds)
    except AssertionError as exc:
        raise AssertionError(f"not closed with {expected}, but {exc}") from None
    if closing.code != code or reason not in (None, closing.reason):
        _fail(peer, f"not closed with {expected}, but with {closing}")


async def assert_evicted(peer: Peer, *, seconds: float = 30) -> None:
    """Wait until a connection is evicted for a newer one of its client."""
    close_reason = close_codes.EVICTED
    await assert_closed(peer, close_reason.code, close_reason.reason, seconds=seconds)


async def assert_open(
    peer: RawClient | ClientConnection, *, seconds: float = 30
) -> None:
    """
    Ping a server and wait for its pong.

    A RawClient skips frames before the pong.

    Raises:
        TypeError: a WebsocketCommunicator of Channels has no pings.
    """
    if isinstance(peer, Communicator):
        raise TypeError(
            "assert_open() pings: it takes a RawClient or a connection of the"
            f" websockets library, not a {type(peer).__name__}"
        )
    try:
        async with asyncio.timeout(scale(seconds)):
            if isinstance(peer, RawClient):
                await peer.send(build_frame(PING, _PING))
                while await peer.read_frame(None) != (PONG, _PING):
                    pass
            else:
                await (await peer.ping())
    except TimeoutError:
        _fail(peer, f"no pong in {seconds:g} s")
    except (ConnectionClosed, OSError):
        _fail(peer, f"closed with {await read_close(peer)}")


async def _read_close(peer: Peer, messages: deque[object]) -> Closing:
    if isinstance(peer, RawClient):
        try:
            while peer.close_frame is None:
                messages.append(await peer.read_frame(None))
        except OSError:
            return Closing(LOST, "")
        return Closing(peer.close_frame.close_code, peer.close_frame.close_reason)
    if isinstance(peer, ClientConnection):
        try:
            while True:
                messages.append(await peer.recv())
        except ConnectionClosed:
            return Closing(peer.close_code or LOST, peer.close_reason or "")
    while (event := await peer.receive_output(_LONG_SECONDS))["type"] != _CLOSE:
        messages.append(event)
    return Closing(event.get("code") or _NORMAL, event.get("reason") or "")


def _fail(peer: Peer, what: str) -> NoReturn:
    """Raise AssertionError with what happened and the server's log."""
    port = 0
    if isinstance(peer, RawClient):
        port = peer.port
    elif isinstance(peer, ClientConnection):
        port = peer.remote_address[1]
    server = find_server(port)
    if server is not None:
        what += f"\nThe log of {server} ends with:\n{server.log_tail(_LOG_LINES)}"
    raise AssertionError(what)
