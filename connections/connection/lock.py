"""A FIFO lock whose uncontended acquire needs no await."""

import asyncio
import contextlib
from collections import deque

_TIE_ITERATIONS = 2
"""The iterations of the event loop within which two requests count as a tie."""


class FifoLock:
    """
    Lets one handler of a connection run at a time, in the order of arrival.

    Unlike asyncio.Lock it needs no await while it is free, which is the case for
    nearly every message:

        if not lock.acquire_nowait():
            await lock.acquire()
        try: ...
        finally: lock.release()
    """

    __slots__ = ("_is_taken", "_waiters")

    def __init__(self) -> None:
        self._is_taken = False
        # None until the first task has to wait.
        self._waiters: deque[asyncio.Future[None]] | None = None

    @property
    def is_awaited(self) -> bool:
        """Return True if a task waits in line."""
        return bool(self._waiters)

    def acquire_nowait(self) -> bool:
        """Acquire the lock if it is free; return True if it was."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def acquire(self) -> None:
        """Wait in line for the lock, and acquire it."""
        waiter = self._join_line()
        try:
            await waiter
        except asyncio.CancelledError:
            self._leave_line(waiter)
            raise

    async def acquire_second(self) -> None:
        """
        Wait in line for the lock, and let one other task pass in a tie.

        A task that finds the lock free within two iterations of the event loop
        goes first; the lock is handed to this one next.
        """
        waiter = self._join_line()
        try:
            for _ in range(_TIE_ITERATIONS):
                if self._is_taken:
                    break
                await asyncio.sleep(0)
            if not self._is_taken:
                self._is_taken = True
                self.release()
            await waiter
        except asyncio.CancelledError:
            self._leave_line(waiter)
            raise

    def _join_line(self) -> asyncio.Future[None]:
        if self._waiters is None:
            self._waiters = deque()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _leave_line(self, waiter: asyncio.Future[None]) -> None:
        """Give up a waiter's place in line, or the lock if it has that already."""
        if waiter.done() and not waiter.cancelled():
            self.release()
            return
        # release() may have skipped it in the same iteration.
        with contextlib.suppress(ValueError):
            if self._waiters is not None:
                self._waiters.remove(waiter)

    def release(self) -> None:
        """Hand the lock to the first waiter, or free it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._is_taken = False
