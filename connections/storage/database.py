"""Database work off the event loop: one thread that writes, a few that read."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.apps import apps
from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    OperationalError,
    close_old_connections,
    connection,
)
from django.db import Error as DatabaseError
from django.db import connections as thread_connections

from connections.exceptions import DatabaseUnavailable, NotMigrated
from connections.storage.failures import describe_failure

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

READERS = 4
"""Threads that read, each with a connection of its own."""


def require_tables() -> None:
    """
    Refuse to serve on a database that is not migrated.

    One that does not answer now hinders nobody: it may be there in a moment.

    Raises:
        NotMigrated: it answers, and tables are missing.
    """
    models = apps.get_app_config("connections").get_models()
    needed = {one._meta.db_table for one in models if one._meta.managed}
    try:
        found = set(connection.introspection.table_names())
    except DatabaseError as exc:
        logger.warning(
            "Nobody knows whether the tables are there: %s",
            exc,
            extra={"event": "tables_unknown"},
        )
        return
    finally:
        connection.close()
    if not needed <= found:
        raise NotMigrated(needed - found, has_some=bool(found))


class _Writer:
    """A thread that does one piece of work after another, the urgent first."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._ordinary: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, work: Callable[[], Any], *, is_urgent: bool) -> Future[Any]:
        future: Future[Any] = Future()
        (self._urgent if is_urgent else self._ordinary).append((future, work))
        self._pool.submit(self._run_next)
        return future

    def shutdown(self) -> None:
        self._pool.shutdown()

    def abandon(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future, _ in (*self._urgent, *self._ordinary):
            future.cancel()

    def _run_next(self) -> None:
        future, work = (self._urgent or self._ordinary).popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)


class Database:
    """
    The threads in which this process talks to its database.

    Channels runs every synchronous call of a process on one shared thread, so
    one slow query of anybody's would hold up all. SQLite has one writer at a
    time anyway, so one thread writes and never waits for its own kind; what is
    urgent goes first. On other databases that has a thread of its own.
    """

    def __init__(self) -> None:
        self._writer = self._urgent_writer = _Writer("connections-writer")
        if connection.vendor != "sqlite":
            self._urgent_writer = _Writer("connections-urgent-writer")
        self._readers = ThreadPoolExecutor(READERS, "connections-reader")
        self._opened: set[Any] = set()
        self._lock = threading.Lock()
        # A full disk still reads: that says nothing of what is to be written.
        self._failures: dict[str, str] = {}

    @property
    def failure(self) -> str | None:
        """What the database did in the last call that failed, in describe_failure()'s
        words; None: the last that wrote and the last that read succeeded."""
        return self._failures.get("write") or self._failures.get("read")

    async def write(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run work that writes; calls run one after another, in their order.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        future = self._writer.submit(
            lambda: self._run("write", work, *args, **kwargs), is_urgent=False
        )
        result: Result = await asyncio.wrap_future(future)
        return result

    async def write_urgently(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run work that writes and that a client waits for, before all of write().

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        future = self._urgent_writer.submit(
            lambda: self._run("write", work, *args, **kwargs), is_urgent=True
        )
        result: Result = await asyncio.wrap_future(future)
        return result

    async def read(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run work that reads; a few calls run at once.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._readers, lambda: self._run("read", work, *args, **kwargs)
        )

    async def close(self) -> None:
        """Wait for what is under way, then close every thread's connection."""
        await asyncio.to_thread(self._close)

    def abandon(self) -> None:
        """Give up work that has not begun, and do not wait for the rest."""
        for writer in {self._writer, self._urgent_writer}:
            writer.abandon()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _close(self) -> None:
        for writer in {self._writer, self._urgent_writer}:
            writer.shutdown()
        self._readers.shutdown()
        for opened in self._opened:
            opened.close()
        self._opened.clear()

    def _run(
        self,
        kind: str,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        self._adopt()
        close_old_connections()
        try:
            result = work(*args, **kwargs)
        except (OperationalError, InterfaceError) as exc:
            self._failures[kind] = describe_failure(exc)
            close_old_connections()
            raise DatabaseUnavailable(str(exc)) from exc
        finally:
            # With DEBUG, Django would keep the last 9,000 statements.
            connection.queries_log.clear()
        self._failures.pop(kind, None)
        return result

    def _adopt(self) -> None:
        """Remember this thread's connection, so that close() can close it."""
        opened = thread_connections[DEFAULT_DB_ALIAS]
        if opened not in self._opened:
            with self._lock:
                # close() runs in another thread than the one that opened it.
                opened.inc_thread_sharing()
                self._opened.add(opened)
