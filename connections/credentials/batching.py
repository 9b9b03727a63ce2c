"""Looking up what many handshakes ask for at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Found = TypeVar("Found")

_MOST_AT_ONCE = 500

_GATHERING_SECONDS = 0.005
"""After a look-up for several, so that more of the storm share the next one."""


class BatchLoader(Generic[Found]):
    """
    Turns many look-ups into few.

    In a storm of handshakes a query for each is most of what a handshake costs,
    and its threads take the interpreter from the event loop. Those that come
    while a look-up is under way go into the next one together, so that no answer
    is older than its question. `find_all` answers in the order it was asked;
    what takes longer than timeout_seconds has failed.
    """

    def __init__(
        self,
        find_all: Callable[[list[str]], Awaitable[Sequence[Found]]],
        timeout_seconds: float,
    ) -> None:
        self._find_all = find_all
        self._timeout_seconds = timeout_seconds
        self._waiting: list[tuple[str, asyncio.Future[Found]]] = []
        self._task: asyncio.Task[None] | None = None

    async def find(self, key: str) -> Found:
        """
        Return what is found for a key, looked up after this call.

        Raises whatever find_all raises, or TimeoutError.
        """
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            asked = self._waiting[:_MOST_AT_ONCE]
            del self._waiting[:_MOST_AT_ONCE]
            await self._answer(asked)
            if len(asked) > 1:
                await asyncio.sleep(_GATHERING_SECONDS)

    async def _answer(self, asked: list[tuple[str, asyncio.Future[Found]]]) -> None:
        work = asyncio.wait_for(
            self._find_all([key for key, _ in asked]), self._timeout_seconds
        )
        (found,) = await asyncio.gather(work, return_exceptions=True)
        for index, (_, future) in enumerate(asked):
            if future.done():
                continue  # Whoever asked has gone.
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found[index])
