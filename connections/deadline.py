"""Give up on an answer after a time in which the event loop was able to read it."""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType

_STEPS = 4
_EXTRA_STEPS = 4
"""Steps that may be repeated, so that a loop that is always late gives up as well."""

_LATE_SECONDS = 0.02


def deadline(seconds: float) -> AbstractAsyncContextManager[None]:
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
    return _Deadline(seconds)


class _Deadline(AbstractAsyncContextManager[None]):
    """A deadline(); a generator for each of a handshake's would cost twice as much."""

    __slots__ = (
        "_extra_steps",
        "_loop",
        "_step_seconds",
        "_steps",
        "_timeout",
        "_timer",
    )

    def __init__(self, seconds: float) -> None:
        self._step_seconds = seconds / _STEPS
        self._steps, self._extra_steps = _STEPS, _EXTRA_STEPS

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self._begin_step(self._loop.time())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, exc, traceback)

    def _begin_step(self, now: float) -> None:
        due = now + self._step_seconds
        self._timer = self._loop.call_at(due, self._pass_step, due)

    def _pass_step(self, due: float) -> None:
        now = self._loop.time()
        if now - due > _LATE_SECONDS and self._extra_steps:
            self._extra_steps -= 1
        else:
            self._steps -= 1
        if self._steps:
            self._begin_step(now)
        else:
            self._timeout.reschedule(now)
