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

    __slots__ = ("_error", "_events", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._events: deque[Message] = deque()
        self._error: BaseException | None = None

    async def __call__(self) -> Message:
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return await self._receive()

    async def has_left(self) -> bool:
        """Return True if the disconnect of the client is among the queued events."""
        while len(self._events) < _MOST_EVENTS and self._error is None:
            event = await self._take()
            if event is None:
                return False
            self._events.append(event)
            if event["type"] == "websocket.disconnect":
                return True
        return False

    async def _take(self) -> Message | None:
        """Return the next event if there is one; what receive() raises is kept."""
        asking = asyncio.ensure_future(self._ask())
        try:
            for _ in range(_STEPS):
                if not asking.done():
                    await asyncio.sleep(0)
        finally:
            # An event that this task awaited would come a step later than to others.
            asking.cancel()
        await asyncio.wait([asking])
        if asking.cancelled():
            return None
        self._error = asking.exception()
        return asking.result() if self._error is None else None

    async def _ask(self) -> Message:
        # The awaitables of some servers are no coroutines.
        return await self._receive()
