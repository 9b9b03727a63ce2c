"""Look at the events that a server has queued, before they are handled."""

import asyncio
from collections import deque

from connections.asgi import Message, Receive

_MOST_EVENTS = 100
"""A client that sends on and on must not keep its connection from being accepted."""

_STEPS = 2
"""The steps of the event loop in which a queue that is not empty returns."""


class LookAhead:
    """
    A receive() of which the next events can be seen; their order stays.

    ASGI has no other way to learn before the accept that the client has left.
    """

    __slots__ = ("_events", "_next", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._events: deque[Message] = deque()
        self._next: asyncio.Future[Message] | None = None

    async def __call__(self) -> Message:
        if self._events:
            return self._events.popleft()
        if self._next is None:
            return await self._receive()
        waiting, self._next = self._next, None
        return await waiting

    async def has_left(self) -> bool:
        """Return True if the disconnect of the client is among the queued events."""
        while len(self._events) < _MOST_EVENTS:
            if self._next is None:
                self._next = asyncio.ensure_future(self._ask())
            for _ in range(_STEPS):
                if not self._next.done():
                    await asyncio.sleep(0)
            if not self._next.done() or self._next.exception() is not None:
                # What receive() raised is raised where the event is awaited.
                return False
            self._events.append(self._next.result())
            self._next = None
            if self._events[-1]["type"] == "websocket.disconnect":
                return True
        return False

    def close(self) -> None:
        """Wait for no event any longer."""
        if self._next is not None:
            self._next.cancel()

    async def _ask(self) -> Message:
        # The awaitables of some servers are no coroutines.
        return await self._receive()
