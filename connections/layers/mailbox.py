"""A bounded queue for one channel that marks where messages were lost."""

import asyncio
from collections import deque

from connections.asgi import Message

GAP = "channel.gap"
"""
The type of the message that stands where others were lost. Its `missed` says
how many, or is None where nobody can know. A consumer that defines
channel_gap() is told; others need not care.
"""

_UNKNOWN = -1


class Mailbox:
    """
    The messages of one channel, for one reader or several.

    Put from any thread; each reader waits on its own event loop.
    """

    __slots__ = ("_count", "_entries", "_waiters", "capacity", "expiry_seconds")

    def __init__(self, capacity: int, expiry_seconds: float) -> None:
        self.capacity = capacity
        self.expiry_seconds = expiry_seconds
        # (when it expires, message), or (how many are missing, None).
        self._entries: deque[tuple[float, Message | None]] = deque()
        # Messages among the entries: gaps need no room.
        self._count = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody is waiting for a message."""
        return bool(self._waiters)

    def is_forgotten(self, now: float) -> bool:
        """Tell whether nobody waits and everything in here has expired."""
        if self._waiters:
            return False
        if not self._entries:
            return True
        newest, message = self._entries[-1]
        return message is not None and newest <= now

    def put(
        self, message: Message, now: float, loop: asyncio.AbstractEventLoop
    ) -> bool:
        """Take a message; return False where there is no room for it."""
        if self._count >= self.capacity:
            self._expire(now)
            if self._count >= self.capacity:
                return False
        self._count += 1
        self._entries.append((now + self.expiry_seconds, message))
        if self._waiters:
            self._wake(loop)
        return True

    def put_gap(self, missed: int | None, loop: asyncio.AbstractEventLoop) -> None:
        """Note that messages are missing here; needs no room."""
        count = _UNKNOWN if missed is None else missed
        if self._entries and self._entries[-1][1] is None:
            before, _ = self._entries.pop()
            count = _UNKNOWN if _UNKNOWN in (before, count) else int(before) + count
        self._entries.append((count, None))
        if self._waiters:
            self._wake(loop)

    def take(self, now: float) -> Message | None:
        """Return the next message, a gap where some have expired, or None."""
        self._expire(now)
        if not self._entries:
            return None
        count, message = self._entries.popleft()
        if message is None:
            return {"type": GAP, "missed": None if count == _UNKNOWN else int(count)}
        self._count -= 1
        # Shared with the other members of a group: a copy of the outermost
        # level, so that one may add to it.
        return message.copy()

    def close(self) -> None:
        """Drop what is here, and send the readers to look for another mailbox."""
        self._entries.clear()
        self._count = 0
        for future in self._waiters:
            if not future.get_loop().is_closed():
                future.get_loop().call_soon_threadsafe(_resolve, future)
        self._waiters.clear()

    async def wait(self) -> None:
        """Wait until there may be a message."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._waiters:
                self._waiters.remove(future)
            elif self._entries:
                # It was this reader's turn: another one's, then.
                self._wake(asyncio.get_running_loop())
            raise

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if future.get_loop() is loop:
                if not future.done():
                    future.set_result(None)
                    return
            elif not future.get_loop().is_closed():
                future.get_loop().call_soon_threadsafe(_resolve, future)
                return

    def _expire(self, now: float) -> None:
        """Put a gap where messages have waited for too long."""
        expired = 0
        while self._entries:
            expires_at, message = self._entries[0]
            if message is None or expires_at > now:
                break
            self._entries.popleft()
            expired += 1
        if not expired:
            return
        self._count -= expired
        if self._entries and self._entries[0][1] is None:
            before, _ = self._entries.popleft()
            expired = _UNKNOWN if before == _UNKNOWN else int(before) + expired
        self._entries.appendleft((expired, None))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
