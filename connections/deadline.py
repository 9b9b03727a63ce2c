"""Give up on an answer after a time in which the event loop was able to read it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_STEPS = 4
_EXTRA_STEPS = 4
"""Steps that may be repeated, so that a loop that is always late gives up as well."""

_LATE_SECONDS = 0.02


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """
    Raise TimeoutError in a body that takes longer than some seconds.

    asyncio.timeout() fires in the same pass of the loop that reads the sockets: a
    loop that stood still for the whole time gives up on an answer that has arrived.
    Here the time passes in quarters, each timed from the moment the loop begins it,
    and a quarter whose end the loop noticed late is repeated, up to four times. So
    a loop that stands still postpones the end, by the time of its stall and by at
    most `seconds` more.

    Raises:
        TimeoutError: the body took too long; it was cancelled.
    """
    loop = asyncio.get_running_loop()
    step_seconds = seconds / _STEPS
    steps, extra_steps = _STEPS, _EXTRA_STEPS
    timer: asyncio.TimerHandle

    def pass_step(due: float) -> None:
        nonlocal timer, steps, extra_steps
        now = loop.time()
        if now - due > _LATE_SECONDS and extra_steps:
            extra_steps -= 1
        else:
            steps -= 1
        if steps:
            due = now + step_seconds
            timer = loop.call_at(due, pass_step, due)
        else:
            timeout.reschedule(now)

    first_due = loop.time() + step_seconds
    timer = loop.call_at(first_due, pass_step, first_due)
    try:
        async with asyncio.timeout(None) as timeout:
            yield
    finally:
        timer.cancel()
