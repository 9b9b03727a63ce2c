"""Begin the log of a server's process, and end the process in time."""

import logging
import os
import threading

from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)

logger = logging.getLogger(__name__)

_EXIT_SECONDS = 3
"""How long threads may take to end after the drain."""


def exit_in_time(exit_code: int) -> None:
    """
    Let the process end although a thread does not.

    Python waits for every thread of an executor. A thread that waits for a hanging
    database, or runs a consumer's code, may never end.
    """

    def leave() -> None:
        logger.error("A thread does not end; left behind", extra={"event": "stuck"})
        logging.shutdown()
        os._exit(exit_code)

    timer = threading.Timer(_EXIT_SECONDS, leave)
    timer.daemon = True
    timer.start()


def begin_logging(verbosity: int) -> None:
    """Pass Twisted's log on, which daphne throws away."""
    observer = STDLibLogObserver("twisted")
    if verbosity <= 1:
        level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
        observer = FilteringLogObserver(observer, [level])
    globalLogBeginner.beginLoggingTo(
        [observer], redirectStandardIO=False, discardBuffer=True
    )
