"""Whose turn it is: a lock that costs nothing while nobody else wants it."""

import asyncio
import contextlib
from collections import deque


class FifoLock:
    """
    Lets one handler of a connection run at a time, in the order they came.

    As asyncio.Lock, but taken without an await when it is free, which it is for
    nearly every message:

        if not turn.acquire_nowait():
            await turn.acquire()
        try: ...
        finally: turn.release()
    """

    __slots__ = ("_is_taken", "_waiters")

    def __init__(self) -> None:
        self._is_taken = False
        # None until somebody has had to wait.
        self._waiters: deque[asyncio.Future[None]] | None = None

    def acquire_nowait(self) -> bool:
        """Take the turn if it is free; return whether it was."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def acquire(self) -> None:
        """Wait for the turn behind those who wait already, and take it."""
        if self._waiters is None:
            self._waiters = deque()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # release() may have passed it over in the same step.
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            else:
                # It was handed over already: to the next one, then.
                self.release()
            raise

    def release(self) -> None:
        """Hand the turn to whoever has waited longest, or leave it free."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._is_taken = False
