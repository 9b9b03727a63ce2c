"""Queue the messages of a client until its consumer takes them."""

import asyncio
import time
from typing import Protocol

from connections.asgi import Message


class Producer(Protocol):
    """The object that fills a queue."""

    def resume(self) -> None:
        """Put more events: the queue has room again."""


class ReceiveQueue:
    """
    The events that wait for one consumer, bounded in number and bytes.

    The producer keeps the bound by checking is_full before each put(). After the
    queue was full, it is resumed once half of the queue is taken.
    """

    __slots__ = (
        "_events",
        "_final",
        "_max_bytes",
        "_max_messages",
        "_producer",
        "_turn_ends_at",
        "_waiter",
        "_was_full",
        "held_bytes",
        "turn_seconds",
    )

    def __init__(self, max_messages: int, max_bytes: int, producer: Producer) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # Not its bound method, which each connection would hold.
        self._producer: Producer | None = producer
        # None until an event has to wait: most queues stay empty. A deque takes ten
        # times the memory of a list.
        self._events: list[tuple[Message, int]] | None = None
        self._final: Message | None = None
        self._waiter: asyncio.Future[Message] | None = None
        self._was_full = False
        self.held_bytes = 0
        self.turn_seconds = 0.0
        """How long get() returns queued events before it lets other tasks run."""

        self._turn_ends_at = 0.0

    def __len__(self) -> int:
        return len(self._events or ())

    @property
    def is_full(self) -> bool:
        """Return True if nothing more may be put until the producer is resumed."""
        if len(self) < self._max_messages and self.held_bytes < self._max_bytes:
            return False
        self._was_full = True
        return True

    def put(self, event: Message, size_bytes: int = 0) -> None:
        """Add an event; after finish() it is dropped."""
        if self._final is not None:
            return
        waiter = self._waiter
        if waiter is not None and not self._events and not waiter.done():
            # A waiting consumer gets the event at once; it is never counted.
            waiter.set_result(event)
            return
        if self._events is None:
            self._events = []
        self._events.append((event, size_bytes))
        self.held_bytes += size_bytes

    def finish(self, final: Message) -> None:
        """Make get() return this event after the queued ones, from then on."""
        if self._final is None:
            self._final = final
            # Nothing more is put: a finished queue needs no room.
            self._producer = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(final)

    def discard(self) -> None:
        """Drop the queued events, so that the final event comes next."""
        self._events = None
        self.held_bytes = 0

    async def get(self) -> Message:
        """
        Wait for the next event; only one consumer may wait.

        If an event is queued, other tasks run first, as receive_next() has it, or
        once in turn_seconds: a switch of tasks for each message of a session took a
        quarter of the time of its ack.
        """
        if self._events and time.monotonic() >= self._turn_ends_at:
            await asyncio.sleep(0)
            self._turn_ends_at = time.monotonic() + self.turn_seconds
        if not self._events:
            if self._final is not None:
                return self._final
            # No call of another coroutine: its frame would be held while it waits.
            waiter: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._waiter = waiter
            try:
                event = await waiter
                if self.turn_seconds:
                    self._turn_ends_at = time.monotonic() + self.turn_seconds
                return event
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    # The event was handed over already: keep it for the next get().
                    self._events = [(waiter.result(), 0), *(self._events or ())]
                raise
            finally:
                self._waiter = None
        event, size_bytes = self._events.pop(0)
        self.held_bytes -= size_bytes
        if (
            self._was_full
            and self._producer is not None
            and len(self._events) <= self._max_messages / 2
            and self.held_bytes <= self._max_bytes / 2
        ):
            self._was_full = False
            self._producer.resume()
        return event
