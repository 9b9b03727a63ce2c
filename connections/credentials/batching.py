"""Combine the look-ups of many handshakes into few queries."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from connections.background import BackgroundTasks
from connections.deadline import deadline

Found = TypeVar("Found")

_MOST_AT_ONCE = 500

_GATHERING_SECONDS = 0.02
"""The longest pause after a batch of several, so that the next batch is larger."""

_LULL_SECONDS = 0.001
"""Where no key arrives for so long, those that wait form a batch."""


class BatchLoader(Generic[Found]):
    """
    Combines single look-ups into batches.

    In a storm of handshakes one query each would be most of their cost, and the
    threads of the queries would take the interpreter from the event loop. Keys
    that arrive during a batch form the next one, so that no answer is older
    than its request. `find_all` answers in the order of its keys; a batch that
    takes longer than timeout_seconds fails.
    """

    def __init__(
        self,
        find_all: Callable[[list[str]], Awaitable[Sequence[Found]]],
        timeout_seconds: float,
    ) -> None:
        self._find_all = find_all
        self._timeout_seconds = timeout_seconds
        self._waiting: list[tuple[str, asyncio.Future[Found]]] = []
        self._tasks = BackgroundTasks()
        self._task: asyncio.Task[None] | None = None

    async def find(self, key: str) -> Found:
        """
        Return the result for a key, looked up after this call.

        Raises the exceptions of find_all, or TimeoutError.
        """
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._task is None or self._task.done():
            self._task = self._tasks.start(self._run(), "look up credentials")
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch = self._waiting[:_MOST_AT_ONCE]
            del self._waiting[:_MOST_AT_ONCE]
            await self._find_batch(batch)
            if len(batch) > 1:
                await self._gather()

    async def _gather(self) -> None:
        """Let more keys arrive: those of a storm come one after another."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _GATHERING_SECONDS
        while loop.time() < ends_at:
            count = len(self._waiting)
            await asyncio.sleep(_LULL_SECONDS)
            if 0 < count == len(self._waiting):
                return

    async def _find_batch(self, batch: list[tuple[str, asyncio.Future[Found]]]) -> None:
        work = self._find_in_time([key for key, _ in batch])
        (found,) = await asyncio.gather(work, return_exceptions=True)
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue  # The handshake has ended meanwhile.
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found[index])

    async def _find_in_time(self, keys: list[str]) -> Sequence[Found]:
        async with deadline(self._timeout_seconds):
            return await self._find_all(keys)
