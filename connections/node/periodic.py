"""Run a step periodically, and report its failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from connections.exceptions import DatabaseUnavailable

logger = logging.getLogger(__name__)


async def run_periodically(
    name: str,
    step: Callable[[], Awaitable[None]],
    interval_seconds: float,
    on_failure: Callable[[str], None] = lambda name: None,
) -> None:
    """
    Run a step and wait, repeatedly, until cancelled.

    The interval lies between the end of one step and the start of the next, so
    steps never overlap. A step that fails is tried again. Every failure is passed
    to on_failure; the log gets one line at the first failure and one at recovery.
    """
    failures = 0
    while True:
        try:
            await step()
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
            if failures:
                logger.warning(
                    "%s works again after %s failed tries",
                    name,
                    failures,
                    extra={"event": "periodic_recovered"},
                )
            failures = 0
        await asyncio.sleep(interval_seconds)
