"""Wait for what happens elsewhere: by polling, with deadlines that scale."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, overload

PATIENCE = "TEST_PATIENCE"
"""The environment variable that multiplies every deadline of these tools."""


@overload
def scale(seconds: float) -> float: ...
@overload
def scale(seconds: None) -> None: ...
def scale(seconds: float | None) -> float | None:
    """
    Return a deadline for this machine: seconds times TEST_PATIENCE, by default 1.

    A test that waits for a condition passes as soon as the condition holds; the
    factor only decides when it gives up. Set it on slow or shared machines. None,
    no deadline, stays None.
    """
    if seconds is None:
        return None
    return seconds * float(os.environ.get(PATIENCE) or 1)


async def wait_until(
    condition: Callable[[], Awaitable[object]] | Callable[[], object],
    seconds: float = 30,
) -> Any:
    """
    Poll a condition until it holds and return what it gave.

    `seconds` is multiplied by TEST_PATIENCE.

    Raises:
        TimeoutError: it did not; the text shows its source and what it gave last.
    """
    seconds = scale(seconds)
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
