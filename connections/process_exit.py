"""End a process when it is told to, although one of its threads does not end."""

import asyncio
import itertools
import logging
import os
import signal
import threading

logger = logging.getLogger(__name__)

_EXIT_SECONDS = 3
"""How long threads may take to end after all else has."""


def stop_on_signals(stopping: asyncio.Event, hurrying: asyncio.Event) -> None:
    """
    Set the first event at SIGTERM or SIGINT, the second at the next of these signals.

    The third ends the process at once, with exit code 1.
    """
    numbers = itertools.count(1)

    def hear() -> None:
        number = next(numbers)
        if number > 2:
            os._exit(1)
        (stopping if number == 1 else hurrying).set()

    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, hear)


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
