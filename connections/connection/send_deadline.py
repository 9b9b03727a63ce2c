"""End the connection of a client that reads nothing, under another server."""

import asyncio
from collections.abc import Callable

from connections.asgi import Message, Send
from connections.connection.events import measure

_LEAST_BYTES_PER_SECOND = 10_000
"""The bytes of a sent message get this much time to leave the server's buffer."""


class SendDeadline:
    """
    Pass messages to a server, and report a client that takes none.

    Orchestra's own server bounds its buffers itself. Under any other one send() waits
    for as long as the client reads nothing, and while the consumer waits the client's
    messages wait too: a flood of them would never be counted.
    """

    __slots__ = ("_on_stall", "_send", "_since", "_stall_seconds", "_timer", "_waiting")

    def __init__(
        self, send: Send, stall_seconds: float, on_stall: Callable[[], None]
    ) -> None:
        self._send = send
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._waiting = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, message: Message) -> None:
        """Send a message; on_stall is called if the server does not take it."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._since = max(self._since, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._stall_seconds, self._check)
        self._waiting += 1
        try:
            await self._send(message)
            if message["type"] == "websocket.send":
                self._since = loop.time() + measure(message) / _LEAST_BYTES_PER_SECOND
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """Report nothing any longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # The owner refers to this object as well.
        self._on_stall = _ignore

    def _check(self) -> None:
        """Report a stall, or look again when one could be over."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        due_at = self._since + self._stall_seconds
        if loop.time() >= due_at:
            self._on_stall()
        else:
            self._timer = loop.call_at(due_at, self._check)


def _ignore() -> None:
    """Do nothing."""
