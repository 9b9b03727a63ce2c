"""A bounded queue for one channel that marks where messages were lost."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Protocol

from connections.asgi import Message
from connections.layers.prepared_message import PreparedMessage
from connections.units import Clock

SendPrepared = Callable[[PreparedMessage], bool]
Awaited = asyncio.Future[Message | None]


class Listener(Protocol):
    """What waits for a message without a future of its own."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that it belongs to."""

    def done(self) -> bool:
        """Return True if it waits no longer."""

    def set_result(self, message: Message | None) -> None:
        """Learn, on its event loop, that a message waits."""


Waiter = Awaited | Listener
HandOver = tuple[Waiter, Message]

GAP = "channel.gap"
"""
The type of the message in the place of lost messages. `missed` is their number, or
None if it is unknown. Of consumers, limited ones that define channel_gap() get it.
"""

_UNKNOWN = -1

_LOCK = threading.Lock()
"""Held for each change of a mailbox, because any thread may put; one for all, as it
is held for microseconds."""


class Mailbox:
    """
    The messages of one channel, for one reader or several.

    Any thread may put; each reader waits on its own event loop.
    """

    __slots__ = (
        "_count",
        "_entries",
        "_waiters",
        "capacity",
        "clock",
        "expiry_seconds",
        "is_closed",
        "send_prepared",
        "takes_over",
    )

    def __init__(
        self, capacity: int, expiry_seconds: float, clock: Clock = time.monotonic
    ) -> None:
        self.capacity = capacity
        self.expiry_seconds = expiry_seconds
        self.clock = clock
        """The clock of the moments that put() and take() get."""
        # (expiry time, message or number of missing messages). Most mailboxes stay
        # empty: None until there is an entry. An empty deque would take ten times the
        # memory of a list.
        self._entries: list[tuple[float, Message | int]] | None = None
        # The number of messages among the entries; gaps need no room.
        self._count = 0
        self._waiters: list[Waiter] = []
        self.is_closed = False
        """True once the readers have to look for another mailbox."""
        self.send_prepared: SendPrepared | None = None
        """Sends to the client of a connection, which is the only reader."""
        self.takes_over = False
        """True if the only reader takes messages that are handed over."""

    @property
    def is_awaited(self) -> bool:
        """True while a reader waits for a message."""
        return bool(self._waiters)

    def is_forgotten(self, now: float) -> bool:
        """Return True if no reader waits, and messages and gaps have expired."""
        if self._waiters or self.send_prepared is not None:
            return False
        return not self._entries or self._entries[-1][0] <= now

    def is_full(self, now: float) -> bool:
        """Return True if there is no room for a message."""
        with _LOCK:
            self._expire(now)
            return self._count >= self.capacity

    def put(
        self,
        message: Message,
        now: float,
        loop: asyncio.AbstractEventLoop,
        handed_over: list[HandOver] | None = None,
    ) -> bool:
        """
        Add a message; return False if there is no room.

        With `handed_over`, the message for the waiting reader of a connection is
        added to that list, and the caller wakes it.
        """
        with _LOCK:
            waiters = self._waiters
            if (
                handed_over is not None
                and self.takes_over
                and waiters
                and waiters[0].get_loop() is loop
            ):
                handed_over.append((waiters.pop(0), message))
                return True
            if self._count >= self.capacity:
                self._expire(now)
                if self._count >= self.capacity:
                    return False
            self._count += 1
            self._append(now, message)
            if waiters:
                self._wake(loop)
        return True

    def pass_on(
        self, message: PreparedMessage, loop: asyncio.AbstractEventLoop
    ) -> bool:
        """
        Send a message straight to the reader's client; False if it must be put.

        A reader that waits has handled all messages before.
        """
        waiters = self._waiters
        return (
            self.send_prepared is not None
            and bool(waiters)
            and waiters[0].get_loop() is loop
            and self.send_prepared(message)
        )

    def put_gap(self, missed: int | None, loop: asyncio.AbstractEventLoop) -> None:
        """Add a gap; it needs no room."""
        count = _UNKNOWN if missed is None else missed
        with _LOCK:
            newest = self._entries[-1][1] if self._entries else None
            if self._entries and isinstance(newest, int):
                self._entries.pop()
                count = _add(newest, count)
            self._append(self.clock(), count)
            if self._waiters:
                self._wake(loop)

    def take(self, now: float) -> Message | None:
        """Return the next message, a gap for expired ones, or None."""
        with _LOCK:
            self._expire(now)
            if not self._entries:
                return None
            _, entry = self._entries.pop(0)
            self._count -= not isinstance(entry, int)
        if isinstance(entry, int):
            return {"type": GAP, "missed": None if entry == _UNKNOWN else entry}
        # Members of a group share the message: a reader gets a shallow copy that
        # it may add to.
        return entry.copy()

    def close(self) -> None:
        """Drop all messages, and make the readers look for another mailbox."""
        with _LOCK:
            self.is_closed = True
            self._entries = None
            self._count = 0
            for future in self._waiters:
                if not future.get_loop().is_closed():
                    future.get_loop().call_soon_threadsafe(_resolve, future)
            self._waiters.clear()

    def expect(self) -> Awaited:
        """
        Return a future of the running loop that is done once a message waits.

        Its result is None, or a message that was handed over and is no longer here.
        """
        future: Awaited = asyncio.get_running_loop().create_future()
        self.listen(future)
        return future

    def listen(self, waiter: Waiter) -> None:
        """Wake a waiter of the running loop, once, when a message waits."""
        with _LOCK:
            if self.is_closed:
                # The reader looks for another mailbox.
                waiter.set_result(None)
                return
            self._waiters.append(waiter)
            if self._entries:
                self._wake(asyncio.get_running_loop())

    async def wait(self) -> None:
        """Wait until there may be a message."""
        future = self.expect()
        try:
            await future
        except asyncio.CancelledError:
            with _LOCK:
                if future in self._waiters:
                    self._waiters.remove(future)
                elif self._entries:
                    # This reader had been woken: wake another one.
                    self._wake(asyncio.get_running_loop())
            raise

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiters:
            future = self._waiters.pop(0)
            if future.get_loop() is loop:
                if not future.done():
                    future.set_result(None)
                    return
            elif not future.get_loop().is_closed():
                future.get_loop().call_soon_threadsafe(_resolve, future)
                return

    def _append(self, now: float, entry: Message | int) -> None:
        if self._entries is None:
            self._entries = []
        self._entries.append((now + self.expiry_seconds, entry))

    def _expire(self, now: float) -> None:
        """Replace messages that waited too long, and the gaps beside them, by a gap."""
        entries = self._entries or []
        replaced = missed = 0
        for expires_at, entry in entries:
            if isinstance(entry, int):
                missed = _add(missed, entry)
            elif expires_at <= now:
                missed = _add(missed, 1)
                self._count -= 1
            else:
                break
            replaced += 1
        if replaced:
            entries[:replaced] = [(entries[replaced - 1][0], missed)]


def _add(missed: int, more: int) -> int:
    return _UNKNOWN if _UNKNOWN in (missed, more) else missed + more


def _resolve(future: Waiter) -> None:
    if not future.done():
        future.set_result(None)
