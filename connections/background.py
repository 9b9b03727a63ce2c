"""Own the background tasks of one object: keep, log and cancel them."""

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from connections.error_log import get_logger

logger = get_logger(__name__)

_CANCEL_AGAIN_SECONDS = 0.1


def is_cancelled() -> bool:
    """
    Return True if the running task is being cancelled.

    A CancelledError that reaches another task comes from what that task awaited: it
    is a failure like any other.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@contextmanager
def end_as_failure() -> Iterator[None]:
    """
    Let the end of the running task pass, and no other end.

    Raises:
        RuntimeError: what the task awaited was cancelled, which would end the task,
            and nobody would learn it; or it called sys.exit(), which would end the
            node.
    """
    try:
        yield
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise RuntimeError("what was awaited has been cancelled") from exc
    except SystemExit as exc:
        raise RuntimeError("what was awaited has called sys.exit()") from exc


def find_sentry() -> Any:
    """Return the Sentry SDK that the project has imported; None for an older one."""
    sentry: Any = sys.modules.get("sentry_sdk")
    # The newest name that is needed: 1.x and the first of 2.x lack it.
    return sentry if hasattr(sentry, "set_tags") else None


def make_task_context() -> contextvars.Context | None:
    """
    Return the context of a task that outlives the event in which it starts.

    It has no current span, and a scope of Sentry of its own: else the spans and errors
    of the task would belong to that event for as long as it runs. None stands for a
    copy of the current context.
    """
    tracing: Any = sys.modules.get("opentelemetry.context")
    sentry = find_sentry()
    if tracing is None and sentry is None:
        return None
    context = contextvars.copy_context()
    if tracing is not None:
        context.run(tracing.attach, tracing.Context())
    if sentry is not None:
        scope = sentry.Scope(ty=sentry.scope.ScopeType.ISOLATION)
        context.run(sentry.Scope.set_isolation_scope, scope)
    return context


Step = Callable[[], Awaitable[bool | None]]
"""A step that returns True is the last one."""


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

    @property
    def running(self) -> set[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return {*self._tasks}

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work on the running loop; what it raises is logged under its name."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, name=name, context=make_task_context())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def repeat(self, step: Step, name: str, retry_seconds: float) -> asyncio.Task[None]:
        """
        Run a step that waits by itself, again and again until it returns True.

        A step that raises is tried again after retry_seconds. The first of several
        failures in a row is logged.
        """
        return self.start(_repeat(step, name, retry_seconds), name)

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


async def _repeat(step: Step, name: str, retry_seconds: float) -> None:
    is_failing = False
    is_done: bool | None = False
    while not is_done:
        try:
            with end_as_failure():
                is_done = await step()
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
