"""Let other tasks run between two events, and share the context of a task."""

import asyncio
import sys
import types
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from functools import partial
from typing import Any

from connections.asgi import Message


def make_fair(
    receive: Callable[[], Awaitable[Message]], turn_seconds: float = 0
) -> Callable[[], Awaitable[Message]]:
    """
    Return receive_next() of a receive(), or itself if its queue is ours.

    Our queue lets other tasks run by itself: after each event, or once in a turn.
    """
    queue: Any = getattr(receive, "__self__", None)
    if not hasattr(queue, "turn_seconds"):
        return partial(receive_next, receive)
    queue.turn_seconds = turn_seconds
    return receive


@types.coroutine
def receive_next(
    receive: Callable[[], Awaitable[Message]],
) -> Generator[Any, Any, Message]:
    """
    Receive an event; let other tasks run first if it was already queued.

    Channels lets the event loop run between two events, so a task that one handler
    creates has begun before the next handler. A queue that is not empty returns at
    once and gives no task a chance. An event that had to be waited for costs nothing
    more: the event loop has run.
    """
    steps: Any = receive().__await__()
    try:
        waits_for = next(steps)
    except StopIteration as finished:
        yield
        message: Message = finished.value
        return message
    while True:
        try:
            try:
                result = yield waits_for
            except BaseException as exc:
                # The steps of a coroutine have throw() and send(); those of another
                # awaitable, as granian's, need not (PEP 380).
                if not hasattr(steps, "throw"):
                    raise
                waits_for = steps.throw(exc)
            else:
                waits_for = next(steps) if result is None else steps.send(result)
        except StopIteration as finished:
            message = finished.value
            return message


if sys.version_info >= (3, 12):

    async def get_own_context() -> Context:
        """Return the context that the current task runs in, not a copy."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task has a context of its own")
        return task.get_context()

else:

    class _Revealing(asyncio.Future[None]):
        """A future that keeps the context of the task that waits for it."""

        context: Context

        def add_done_callback(
            self, callback: Callable[[Any], object], *, context: Context | None = None
        ) -> None:
            if context is not None:
                self.context = context
            super().add_done_callback(callback, context=context)

    async def get_own_context() -> Context:
        """Return the context that the current task runs in, not a copy."""
        loop = asyncio.get_running_loop()
        future = _Revealing(loop=loop)
        loop.call_soon(future.set_result, None)
        await future
        return future.context
