"""A FIFO lock whose uncontended acquire needs no await."""

import asyncio
import contextlib
from collections import deque


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

    def acquire_nowait(self) -> bool:
        """Acquire the lock if it is free; return True if it was."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def acquire(self) -> None:
        """Wait in line for the lock, and acquire it."""
        if self._waiters is None:
            self._waiters = deque()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # release() may have skipped it in the same iteration.
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            else:
                # The lock was already handed to this waiter: hand it on.
                self.release()
            raise

    def release(self) -> None:
        """Hand the lock to the first waiter, or free it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._is_taken = False
