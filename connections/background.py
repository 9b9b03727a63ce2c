"""Own the background tasks of one object: keep, log and cancel them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from connections.error_log import get_logger

logger = get_logger(__name__)

_CANCEL_AGAIN_SECONDS = 0.1


class BackgroundTasks:
    """
    The tasks that an object started and did not wait for.

    asyncio keeps only weak references to tasks: without an owner one may be
    collected while it runs, and nobody learns what it raises.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work on the running loop; what it raises is logged under its name."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def repeat(
        self, step: Callable[[], Awaitable[None]], name: str, retry_seconds: float
    ) -> None:
        """
        Run a step that waits by itself, again and again until cancelled.

        A step that raises is tried again after retry_seconds. The first of several
        failures in a row is logged.
        """
        self.start(_repeat(step, name, retry_seconds), name)

    def release(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task no longer; the caller keeps a reference to it."""
        self._tasks.discard(task)

    def cancel(self) -> None:
        """Cancel all tasks, without waiting for them."""
        for task in list(self._tasks):
            task.cancel()

    async def wait(self) -> None:
        """Wait until no task runs, those started meanwhile included."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def stop(self) -> None:
        """
        Cancel all tasks and wait until each has ended.

        A task that swallowed its cancellation, as redis-py 8.1 may, is cancelled
        again.
        """
        while self._tasks:
            self.cancel()
            await asyncio.wait(list(self._tasks), timeout=_CANCEL_AGAIN_SECONDS)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        exc = task.exception()
        if exc is not None:
            logger.error(
                "The background task %r failed: %s",
                task.get_name(),
                exc,
                exc_info=exc,
                extra={"event": "background_task_failed"},
            )


async def _repeat(
    step: Callable[[], Awaitable[None]], name: str, retry_seconds: float
) -> None:
    is_failing = False
    while True:
        try:
            await step()
        except Exception as exc:
            if not is_failing:
                logger.error(
                    "The background task %r failed and is tried again: %s",
                    name,
                    exc,
                    exc_info=exc,
                    extra={"event": "background_task_failed"},
                )
            is_failing = True
            await asyncio.sleep(retry_seconds)
        else:
            is_failing = False
