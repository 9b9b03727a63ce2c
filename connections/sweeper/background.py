"""Sweep at an interval, in a thread of `serve` or in a process of its own."""

import threading
from collections.abc import Callable

from django.db import Error as DatabaseError
from django.db import close_old_connections

from connections.config.loader import WebSocketConfig
from connections.error_log import get_logger
from connections.metrics.counters import record_failure
from connections.models.alias import get_connection
from connections.sweeper.results import SweepIncomplete, Swept
from connections.sweeper.sweeper import Sweeper

logger = get_logger(__name__)

INTERVAL_SECONDS = 10

_STALL_SECONDS = 3
"""A wait that takes so much longer means that the process or host was paused."""


class BackgroundSweeper:
    """A sweeper in a thread of its own, within `serve`."""

    def __init__(
        self, config: WebSocketConfig, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._sweeper = Sweeper(config)
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="connections-sweeper", daemon=True
        )

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Wait at most two seconds for the sweep under way, then stop."""
        self._stopping.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        run_sweeper(self._sweeper, self._interval_seconds, self._stopping)


def run_sweeper(
    sweeper: Sweeper,
    interval_seconds: float,
    stopping: threading.Event,
    report: Callable[[Swept], None] = lambda swept: None,
) -> None:
    """Sweep at an interval until stopping is set; a sweep that fails is repeated."""
    sweeper.interval_seconds = interval_seconds
    while not stopping.is_set():
        close_old_connections()
        try:
            report(sweeper.sweep())
        except SweepIncomplete as exc:
            report(exc.swept)  # Each part has logged its failure.
        except Exception as exc:
            sweeper.forget()
            logger.error(
                "A sweep failed and will be tried again: %s",
                exc,
                exc_info=exc,
                extra={"event": "sweep_failed"},
            )
            record_failure("The sweep")
        waiting_since = sweeper.clock()
        stopping.wait(interval_seconds)
        if sweeper.clock() - waiting_since > interval_seconds + _STALL_SECONDS:
            sweeper.forget()  # This host stood still, and the nodes on it as well.
    try:
        sweeper.give_up()
    except DatabaseError as exc:
        logger.warning(
            "The lead could not be given up; another sweeper waits for its end: %s",
            exc,
            extra={"event": "give_up_failed"},
        )
    finally:
        get_connection().close()
