"""Sessions, appends to them, and the limits of their log."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from django.db import connection, connections

from connections.testing.waiting import scale
from sessions_history.beginnings import Beginning
from sessions_history.entries import Append, NewEntry
from sessions_history.limits import LogLimits
from sessions_history.models import Session
from sessions_history.session_ids import make_session_id

LIMITS = LogLimits(node_id="n" * 32, history_limit=5, max_open_streams=2)


def make_session(client_id: str = "alice") -> str:
    """Create a session; return its id."""
    session = Session.objects.create(
        session_id=os.urandom(16).hex(), client_id=client_id, epoch="e"
    )
    return session.session_id


def make_beginning(client_id: str = "alice", user_id: int | None = None) -> Beginning:
    """Return a provisional session, which has no row yet."""
    session_id = make_session_id(client_id)
    return Beginning(
        session_id=session_id, client_id=client_id, user_id=user_id, epoch="e"
    )


def make_append(
    session_id: str,
    key: str = "",
    data: str = "1",
    *,
    state: str = "done",
    count: int = 1,
    beginning: Beginning | None = None,
) -> Append:
    """Return a request to append `count` equal entries."""
    new = NewEntry(sender="client", data=data, state=state)
    return Append(
        session_id=session_id,
        entries=(new,) * count,
        key=key,
        digest=data,
        beginning=beginning,
    )


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run synchronous code in a thread without an event loop, as a worker does."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


def wait_for_rival() -> None:
    """
    Wait, within a transaction of PostgreSQL, until another one waits for its locks.

    Raises:
        TimeoutError: none does.
    """
    deadline = time.monotonic() + scale(10)
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.02)
    raise TimeoutError("no transaction waits for a lock")
