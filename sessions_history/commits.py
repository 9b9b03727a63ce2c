"""
Commit requests of many sessions in one transaction, and repeat what failed.

This module runs in a database thread.
"""

import logging
import random
import time
from collections.abc import Sequence

from django.db import DatabaseError, OperationalError

from connections.models.alias import atomic, get_connection
from sessions_history.entries import Request, Rewrite, State
from sessions_history.exceptions import EntryRefused
from sessions_history.limits import LogLimits
from sessions_history.transaction import LogTransaction, Result

logger = logging.getLogger(__name__)

_RETRY_FOR_SECONDS = 6
_RETRY_SECONDS = 0.02
_TRANSIENT_STATES = ("40001", "40P01", "55P03")
"""PostgreSQL, appendix A: serialization failure, deadlock, lock not available."""


def commit(requests: Sequence[Request], limits: LogLimits) -> list[Result]:
    """
    Apply requests in one transaction; return the result of each.

    A batch that the database refuses is halved until only the faulty requests
    are left out. A transient failure is retried.

    Raises:
        OperationalError, InterfaceError: the database is away; whether the
            commit happened is unknown.
    """
    started = time.monotonic()
    while True:
        try:
            with atomic():
                return LogTransaction(limits).run(requests)
        except OperationalError as exc:
            is_late = time.monotonic() - started > _RETRY_FOR_SECONDS
            if is_late or not is_transient(exc):
                raise
            logger.info("A commit of the log is tried again: %s", exc)
            time.sleep(_RETRY_SECONDS * random.uniform(0.5, 1))
        except (DatabaseError, ValueError, OverflowError) as exc:
            if len(requests) == 1:
                logger.error(
                    "An entry was refused by the database: %s",
                    exc,
                    extra={"event": "entry_refused"},
                )
                return [EntryRefused()]
            half = len(requests) // 2
            return commit(requests[:half], limits) + commit(requests[half:], limits)


def interrupt(streams: Sequence[tuple[str, int]]) -> None:
    """End the streams at some offsets of sessions, in an open transaction."""
    requests = [
        Rewrite(
            session_id=session_id,
            offset=offset,
            state=State.INTERRUPTED,
            is_owner=False,
        )
        for session_id, offset in streams
    ]
    # Only appends are trimmed and limited.
    LogTransaction(LogLimits(node_id="", history_limit=0, max_open_streams=0)).run(
        requests
    )


def is_transient(exc: OperationalError) -> bool:
    """Return True if the same transaction may succeed when it is retried."""
    cause = exc.__cause__
    if get_connection().vendor == "sqlite":
        return "locked" in str(exc)
    return getattr(cause, "sqlstate", None) in _TRANSIENT_STATES
