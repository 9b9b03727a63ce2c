"""Log the ends of connections: one line each, or one line a second for many."""

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from connections.error_log import call_later
from connections.units import count_of

if TYPE_CHECKING:
    from connections.hub.connection import LiveConnection

MOST_PER_SECOND = 20
"""The most ends of one reason with a line each; a drain has none."""

FOLDED = frozenset({"draining"})

logger = logging.getLogger("connections.ends")


class EndLog:
    """
    Logs each end, and the ends of a drain or of many within a second as counts.

    At DEBUG each end has a line of its own as well. Thread-safe.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], bool] = call_later,
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._lock = threading.Lock()
        self._second = 0
        self._logged: Counter[str] = Counter()
        self._folded: Counter[str] = Counter()
        self._is_scheduled = False

    def record(
        self,
        connection: "LiveConnection",
        code: int | None,
        reason: str,
        duration_seconds: float,
    ) -> None:
        """Log the end of a connection, now or within the next count."""
        if not logger.isEnabledFor(logging.INFO):
            return
        is_folded = self._fold(reason)
        level = logging.DEBUG if is_folded else logging.INFO
        if not logger.isEnabledFor(level):
            return
        logger.log(
            level,
            "Connection %s of %.100s ended after %.1f s: %s (%s); messages %s in, %s"
            " out; errors %s",
            connection.connection_id,
            connection.client_id,
            duration_seconds,
            reason,
            code,
            connection.messages_in,
            connection.messages_out,
            connection.errors,
            extra={
                "event": "connection_ended",
                "connection_id": connection.connection_id,
                "client_id": connection.client_id,
                "route": connection.route,
                "reason": reason,
                "code": code,
                "duration_seconds": round(duration_seconds, 3),
                "messages_in": connection.messages_in,
                "messages_out": connection.messages_out,
                "bytes_in": connection.bytes_in,
                "bytes_out": connection.bytes_out,
                "errors": connection.errors,
            },
        )

    def forget(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._logged.clear()
            self._folded.clear()

    def report(self) -> None:
        """Log the counts of the ends that had no line."""
        with self._lock:
            folded, self._folded = self._folded, Counter()
            self._is_scheduled = False
        if not folded:
            return
        total = folded.total()
        logger.info(
            "%s ended within a second: %s",
            count_of(total, "connection"),
            ", ".join(f"{count} {reason}" for reason, count in folded.most_common()),
            extra={
                "event": "connections_ended",
                "count": total,
                "reasons": dict(folded),
                **dict.fromkeys(("connection_id", "client_id"), "-"),
            },
        )

    def _fold(self, reason: str) -> bool:
        """Count an end; return True if it has no line of its own."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second = second
                self._logged.clear()
            self._logged[reason] += 1
            if reason not in FOLDED and self._logged[reason] <= MOST_PER_SECOND:
                return False
            self._folded[reason] += 1
            is_due, self._is_scheduled = not self._is_scheduled, True
        if is_due and not self._call_later(1, self.report):
            with self._lock:
                self._is_scheduled = False
        return True


end_log = EndLog()
"""The log of this process."""

atexit.register(end_log.report)
