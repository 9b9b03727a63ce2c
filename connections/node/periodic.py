"""Run a step periodically, and report its failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from connections.background import BackgroundTasks, end_as_failure
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.metrics.steps import PeriodicSteps
from connections.passes import Passes

logger = get_logger(__name__)

Step = Callable[[], Awaitable[bool | None]]
"""A step that returns False has failed for a part of what it concerns."""


async def run_periodically(
    name: str,
    step: Step,
    interval_seconds: float,
    on_failure: Callable[[str], None] = lambda name: None,
    on_success: Callable[[str], None] = lambda name: None,
) -> None:
    """
    Run a step and wait, repeatedly, until cancelled.

    The interval lies between the end of one step and the start of the next, so
    steps never overlap. A step that fails is tried again. Every failure is passed
    to on_failure; the log gets one line at the first failure and one at recovery.
    A step that fails in part has logged and counted that itself.
    """
    failures = 0
    while True:
        try:
            with end_as_failure():
                is_whole = await step()
        except Exception as exc:
            failures += 1
            on_failure(name)
            if failures == 1:
                # The traceback of a database that is away tells nothing.
                is_known = isinstance(exc, DatabaseUnavailable)
                is_short = is_known and not logger.isEnabledFor(logging.DEBUG)
                logger.error(
                    "%s failed and will be tried again: %s",
                    name,
                    exc,
                    exc_info=None if is_short else exc,
                    extra={"event": "periodic_failed"},
                )
        else:
            if is_whole is not False:
                on_success(name)
            if failures:
                logger.warning(
                    "%s works again after %s failed tries",
                    name,
                    failures,
                    extra={"event": "periodic_recovered"},
                )
            failures = 0
        await asyncio.sleep(interval_seconds)


class PeriodicWork:
    """The periodic steps that one node runs, each in a task of its own."""

    def __init__(self, steps: PeriodicSteps, on_failure: Callable[[str], None]) -> None:
        self._steps = steps
        self._on_failure = on_failure
        self._tasks = BackgroundTasks()

    def start(
        self,
        name: str,
        step: Step,
        interval_seconds: float = 0,
        *,
        expected_seconds: float | None = None,
    ) -> None:
        """
        Run a step at an interval; it is overdue after three without a success.

        expected_seconds is the interval of a step that waits by itself. A step
        without any interval waits for an event, and is never overdue.
        """
        if seconds := expected_seconds or interval_seconds:
            self._steps.declare(name, seconds)
        runner = run_periodically(
            name, step, interval_seconds, self._on_failure, self._steps.record_success
        )
        self._tasks.start(runner, name)

    async def stop(self) -> None:
        """Stop all steps."""
        await self._tasks.stop()


async def run_parts(
    parts: Iterable[tuple[str, Step]], passes: Passes, steps: PeriodicSteps
) -> bool:
    """
    Run the parts of a step, each even if one before it failed.

    Returns False if a part failed, which was logged and counted under its name.

    Raises:
        DatabaseUnavailable: the parts after it would wait in vain as well.
    """
    is_whole = True
    for name, part in parts:
        try:
            with end_as_failure():
                succeeded = await part() is not False
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            passes.report(name, exc)
            succeeded = False
        else:
            passes.finish(name, is_whole=succeeded)
        if succeeded:
            steps.record_success(name)
        is_whole &= succeeded
    return is_whole
