"""Clean up before an event loop is closed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def call_before_close(
    loop: asyncio.AbstractEventLoop, cleanup: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """
    Run a coroutine on an event loop just before that is closed.

    asyncio has no hook for it: close() of this one loop is replaced.
    async_to_sync() makes a loop for each call and closes it (asgiref/sync.py).
    """
    close = loop.close

    def close_after_cleanup() -> None:
        loop.close = close  # type: ignore[method-assign]
        try:
            loop.run_until_complete(cleanup())
        finally:
            loop.close()

    loop.close = close_after_cleanup  # type: ignore[method-assign]
