"""Deliver a client's events to each of its iterators."""

import asyncio
import weakref
from collections.abc import AsyncIterator

from connections.client.events import Event
from connections.client.outbox import RequestFailed

_EVENTS_KEPT = 10_000

_Queue = asyncio.Queue[Event | None]


class Listeners:
    """
    The iterators over a client's events; each has a bounded queue.

    An iterator that is not read any more is collected with its queue.
    """

    def __init__(self) -> None:
        self._queues: weakref.WeakSet[_Queue] = weakref.WeakSet()

    def listen(self) -> AsyncIterator[Event]:
        """Return an iterator over the events from this call on."""
        queue: _Queue = asyncio.Queue(_EVENTS_KEPT)
        self._queues.add(queue)
        return self._read(queue)

    def emit(self, event: Event | None) -> None:
        """Deliver an event, or None as the end of all events."""
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._queues.discard(queue)

    async def _read(self, queue: _Queue) -> AsyncIterator[Event]:
        while queue in self._queues or not queue.empty():
            event = await queue.get()
            if event is None:
                self._queues.discard(queue)
                return
            yield event
        raise RequestFailed("events_missed", "events were not read")
