"""
Send Django signals about connections, bans and alerts, in batches.

    @receiver(connections_closed)
    def forward(connections, **kwargs):
        queue.put([(one.client_id, one.reason) for one in connections])

One thread of the process calls all receivers, so that none delays a connection or
the writes of a node.
"""

import atexit
import contextlib
import threading
from collections import deque
from collections.abc import Sequence

from django.db import connections as thread_connections
from django.db.models import Model
from django.dispatch import Signal

from connections.error_log import get_logger
from connections.metrics.counters import record_failure
from connections.models import Alert, Ban, Connection
from connections.storage.in_test import is_testing

logger = get_logger(__name__)

MOST_WAITING = 10_000
"""How many rows may wait for receivers; further ones are dropped and counted."""

_MOST_AT_ONCE = 500
_EXIT_SECONDS = 2
"""How long a process that ends waits for its receivers."""


class BatchSignal(Signal):
    """
    A signal that names several rows at once, by one argument.

    Its sender is the model of the rows. Tests of Django call the receivers at once,
    in the thread that sends.
    """

    def __init__(self, sender: type[Model], argument: str) -> None:
        super().__init__()
        self.sender = sender
        self.argument = argument

    @property
    def is_received(self) -> bool:
        """True if the signal has a receiver."""
        return self.has_listeners(self.sender)

    def send_soon(self, rows: Sequence[Model]) -> None:
        """Let the thread of the receivers send rows; never waits and never raises."""
        if not rows or not self.is_received:
            return
        if is_testing():
            self.call_receivers(rows)
        else:
            _thread.add(self, rows)

    def call_receivers(self, rows: Sequence[Model]) -> None:
        """Call the receivers now; an exception of one is logged and counted."""
        answers = self.send_robust(self.sender, **{self.argument: tuple(rows)})
        for receiver, answer in answers:
            if isinstance(answer, Exception):
                record_failure("A receiver of a signal")
                logger.error(
                    "The receiver %r of %s failed: %s",
                    getattr(receiver, "__qualname__", receiver),
                    self.argument,
                    answer,
                    exc_info=answer,
                    extra={"event": "signal_receiver_failed"},
                )


class SignalThread:
    """
    Calls receivers on one daemon thread, in the order in which rows were added.

    Rows of one signal that wait beside each other are sent together.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[BatchSignal, Model]] = deque()
        self._changed = threading.Condition()
        self._is_running = False

    def add(self, signal: BatchSignal, rows: Sequence[Model]) -> None:
        """Queue rows, and drop those for which there is no room."""
        with self._changed:
            room = max(0, self._most_waiting - len(self._waiting))
            self._waiting.extend((signal, row) for row in rows[:room])
            if self._waiting and not self._is_running:
                thread = threading.Thread(
                    target=self._run, name="connections-signals", daemon=True
                )
                # The system may have no more threads: then the next rows start one.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._is_running = True
        if len(rows) > room:
            record_failure("The queue of signals")
            logger.error(
                "Receivers are too slow: %s rows of %s were dropped",
                len(rows) - room,
                signal.argument,
                extra={"event": "signals_dropped"},
            )

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until no row waits and no receiver runs; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._is_running, timeout=timeout_seconds
            )

    def _run(self) -> None:
        """Send what waits, then end: an idle process has no such thread."""
        try:
            while batch := self._take():
                signal = batch[0][0]
                signal.call_receivers([row for _, row in batch])
                thread_connections.close_all()
        except BaseException as exc:
            # A receiver may exit its thread; the next rows start another one.
            with self._changed:
                self._is_running = False
                self._changed.notify_all()
            if not isinstance(exc, SystemExit):
                raise

    def _take(self) -> list[tuple[BatchSignal, Model]]:
        """Take the first rows of one signal; none ends the thread."""
        batch: list[tuple[BatchSignal, Model]] = []
        with self._changed:
            while (
                self._waiting
                and len(batch) < _MOST_AT_ONCE
                and (not batch or self._waiting[0][0] is batch[0][0])
            ):
                batch.append(self._waiting.popleft())
            if not batch:
                self._is_running = False
                self._changed.notify_all()
        return batch


_thread = SignalThread()
atexit.register(_thread.wait, _EXIT_SECONDS)

connections_opened = BatchSignal(Connection, "connections")
"""`connections`: rows of connections that opened, as they were written."""

connections_closed = BatchSignal(Connection, "connections")
"""`connections`: rows that have ended, with `close_code` and `reason`."""

client_banned = BatchSignal(Ban, "bans")
"""`bans`: bans that staff, a command or the API imposed, or changed."""

alert_changed = BatchSignal(Alert, "alerts")
"""`alerts`: alerts that fire or have resolved, by their `state`."""
