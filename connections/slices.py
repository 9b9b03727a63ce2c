"""Divide long work of the event loop into slices, between which other tasks run."""

import asyncio
import time


class Slices:
    """The slices of one piece of work, timed by the wall clock."""

    __slots__ = ("_began_at", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began_at = time.perf_counter()

    async def check(self) -> None:
        """Let other tasks run if the present slice has taken its time."""
        if time.perf_counter() - self._began_at > self._seconds:
            await asyncio.sleep(0)
            self._began_at = time.perf_counter()
