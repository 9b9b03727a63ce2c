"""Waiting for what happens elsewhere: by polling, never for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def wait_until(
    condition: Callable[[], Awaitable[object]] | Callable[[], object],
    seconds: float = 30,
) -> Any:
    """
    Poll a condition until it holds and return what it gave.

    Raises:
        TimeoutError: it did not; the text shows its source and what it gave last.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"not within {seconds} s: {_describe(condition)}; last it was {found!r}"
            )
        await asyncio.sleep(0.05)


def _describe(condition: Callable[[], object]) -> str:
    """Return the source of a lambda, which has no name, else the name."""
    name: str = getattr(condition, "__qualname__", repr(condition))
    if not name.endswith("<lambda>"):
        return name
    try:
        lines = inspect.getsource(condition).splitlines()
    except (OSError, TypeError):
        return name
    return " ".join(line.strip() for line in lines)
