"""Keep the wish to stop a stream until the stream has ended."""

import asyncio
from collections.abc import Awaitable, Callable

from connections.client.tokens import Sleep

Send = Callable[[int], Awaitable[None]]


class Cancellations:
    """
    Offsets of streams that a client stopped and that have not ended yet.

    They are sent at once, after each reconnect, and when the server could not
    stop a stream for the moment.
    """

    def __init__(self, send: Send, *, sleep: Sleep) -> None:
        self._send = send
        self._sleep = sleep
        self._offsets: set[int] = set()
        self._is_due = asyncio.Event()
        self._pause_seconds = 0.0

    async def add(self, offset: int) -> None:
        """Stop a stream now, if a connection is open."""
        self._offsets.add(offset)
        await self._send(offset)

    def discard(self, offset: int) -> None:
        """Record that a stream has ended or is unknown to the server."""
        self._offsets.discard(offset)

    def clear(self) -> None:
        """Forget all streams, which are void."""
        self._offsets.clear()

    def retry(self, seconds: float) -> None:
        """Send all again after a pause."""
        self._pause_seconds = seconds
        self._is_due.set()

    async def run(self) -> None:
        """Send all on an open connection, and again when it is due."""
        while True:
            for offset in sorted(self._offsets):
                await self._send(offset)
            self._is_due.clear()
            await self._is_due.wait()
            await self._sleep(self._pause_seconds)
