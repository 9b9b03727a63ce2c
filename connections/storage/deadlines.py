"""Cut connections to the database on which a statement gets no answer."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from connections.config.loader import get_config
from connections.units import Clock

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


def shut_down(number: int) -> None:
    """
    Shut a socket down by its number, so that whoever waits for it goes on.

    Raises:
        OSError: it is closed, or not connected.
    """
    with socket.socket(fileno=os.dup(number)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class _Call:
    """Work on one connection; each of its statements has the whole time."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        clock: Clock,
        seconds: float,
        on_overdue: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._seconds = seconds
        self._on_overdue = on_overdue
        self._began_at = clock()

    def execute(
        self,
        execute: Callable[..., Any],
        sql: Any,
        params: Any,
        many: Any,
        context: Any,
    ) -> Any:
        """Run a statement, as a wrapper of Django's execute()."""
        self._began_at = self._clock()
        return execute(sql, params, many, context)

    def cut_if_overdue(self) -> None:
        """Shut the socket down if the statement under way has had its time."""
        if self._clock() - self._began_at < self._seconds:
            return
        self._began_at = self._clock()
        self._on_overdue()
        try:
            shut_down(self._connection.connection.fileno())
        except Exception as exc:
            # It is being opened, which may take the kernel minutes, or closed just now.
            # Each driver has exceptions of its own for that.
            logger.debug("A connection to the database was not cut: %s", exc)
            return
        logger.warning(
            "The database gave no answer for %s s: the connection is cut",
            self._seconds,
            extra={"event": "database_cut"},
        )


class StatementDeadlines:
    """
    The statements under way in all threads of this process.

    The time limits of PostgreSQL itself do not help where its host or a pooler
    goes silent: the kernel confirms what is sent, and nothing ever comes back.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._calls: set[_Call] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(
        self,
        connection: BaseDatabaseWrapper,
        on_overdue: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """
        Limit each statement on a connection; the thread's own, within.

        on_overdue is called in another thread, also while a connection is opened.
        """
        if connection.vendor == "sqlite":
            yield
            return
        seconds = get_config().node.database_timeout_seconds
        call = _Call(connection, self._clock, seconds, on_overdue)
        with self._changed:
            self._start()  # Raises where the system has no more threads.
            self._calls.add(call)
            self._changed.notify()
        try:
            with connection.execute_wrapper(call.execute):
                yield
        finally:
            with self._changed:
                self._calls.discard(call)

    def cut_overdue(self) -> None:
        """Cut the connections whose statement has had its time."""
        # No work ends meanwhile, whose socket's number could be another's then.
        with self._changed:
            for call in self._calls:
                call.cut_if_overdue()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._watch, name="connections-deadlines", daemon=True
            )
            self._thread.start()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._calls:
                    self._changed.wait()
            time.sleep(_POLL_SECONDS)
            self.cut_overdue()


deadlines = StatementDeadlines()
"""The deadlines of this process; its thread starts with the first statement."""
