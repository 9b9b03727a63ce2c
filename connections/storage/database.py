"""Run database work off the event loop: one thread writes, a few read."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
)
from django.db import connections as thread_connections

from connections.background import BackgroundTasks
from connections.exceptions import DatabaseUnavailable, NotMigrated
from connections.models.alias import get_connection
from connections.storage.deadlines import deadlines
from connections.storage.failures import describe_failure
from connections.storage.in_test import (
    belongs_in_test_thread,
    is_testing,
    run_in_test,
)

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

READERS = 4
"""The number of reading threads, each with a connection of its own."""


def require_tables() -> None:
    """
    Refuse to serve on a database that is not migrated.

    A database that does not answer is accepted, as it may be back in a moment.

    Raises:
        NotMigrated: the database answers, and tables are missing.
    """
    models = apps.get_app_config("connections").get_models()
    needed = {one._meta.db_table for one in models if one._meta.managed}
    connection = get_connection()
    try:
        found = set(connection.introspection.table_names())
    except DatabaseError as exc:
        logger.warning(
            "Whether the database is migrated could not be checked: %s",
            exc,
            extra={"event": "tables_unknown"},
        )
        return
    finally:
        connection.close()
    if not needed <= found:
        raise NotMigrated(needed - found, has_some=bool(found))


class _Writer:
    """A thread that does one piece of work after another, urgent ones first."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._ordinary: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    async def run(self, work: Callable[[], Result], *, is_urgent: bool) -> Result:
        future: Future[Result] = Future()
        (self._urgent if is_urgent else self._ordinary).append((future, work))
        self._pool.submit(self._run_next)
        return await asyncio.wrap_future(future)

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
    The threads in which this process uses its database.

    Channels runs every synchronous call of a process on one shared thread, where
    one slow query would delay all others. SQLite allows one writer at a time, so
    one thread writes, urgent work first. On other databases urgent work has a
    thread of its own.
    """

    def __init__(self) -> None:
        self._writer = self._urgent_writer = _Writer("connections-writer")
        if get_connection().vendor != "sqlite":
            self._urgent_writer = _Writer("connections-urgent-writer")
        self._readers = ThreadPoolExecutor(READERS, "connections-reader")
        self._opened: set[Any] = set()
        self._lock = threading.Lock()
        # Reads and writes are apart: reads succeed on a full disk, writes fail.
        self._failures: dict[str, str] = {}
        self._closing = BackgroundTasks()
        self.is_in_test = False
        """True if the work runs in the thread of a test."""

    async def join_test(self) -> None:
        """
        Run all work in the thread of a test, if its rows are seen there alone.

        Raises:
            UnsharedTransaction: no other thread can run work in it.
        """
        self.is_in_test = await belongs_in_test_thread()
        if is_testing():
            self._closing.start(self._close_with_loop(), "The end of a test")

    @property
    def failure(self) -> str | None:
        """describe_failure() of the last write or read; None if both succeeded."""
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
        call = partial(self._run, "write", work, *args, **kwargs)
        if self.is_in_test:
            return await run_in_test(call)
        return await self._writer.run(call, is_urgent=False)

    async def write_urgently(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run work that writes and that a client waits for, ahead of write().

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        call = partial(self._run, "write", work, *args, **kwargs)
        if self.is_in_test:
            return await run_in_test(call)
        return await self._urgent_writer.run(call, is_urgent=True)

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
        call = partial(self._run, "read", work, *args, **kwargs)
        if self.is_in_test:
            return await run_in_test(call)
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def close(self) -> None:
        """Finish submitted work, then close the connection of every thread."""
        self._closing.cancel()
        await asyncio.to_thread(self._close)

    def abandon(self) -> None:
        """Cancel work that has not begun, and do not wait for the rest."""
        for writer in {self._writer, self._urgent_writer}:
            writer.abandon()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _close_with_loop(self) -> None:
        """Close the connections when the loop of a test cancels its tasks."""
        try:
            await asyncio.Event().wait()
        finally:
            # An open connection would keep the test database from being dropped. A
            # loop that ends runs no other thread to its end, so this one waits.
            with ThreadPoolExecutor(1) as closer:
                closer.submit(self._close).result()

    def _close(self) -> None:
        for writer in {self._writer, self._urgent_writer}:
            writer.shutdown()
        self._readers.shutdown()
        # A thread may still be keeping the connections of its last call.
        with self._lock:
            opened, self._opened = self._opened, set()
        for one in opened:
            one.close()

    def _run(
        self,
        kind: str,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        self._close_old_connections()
        try:
            with deadlines.limit(get_connection()):
                result = work(*args, **kwargs)
        except (OperationalError, InterfaceError) as exc:
            self._failures[kind] = describe_failure(exc)
            self._close_old_connections()
            raise DatabaseUnavailable(str(exc)) from exc
        finally:
            if not self.is_in_test:
                self._track_connections()
        self._failures.pop(kind, None)
        return result

    def _close_old_connections(self) -> None:
        if not self.is_in_test:
            close_old_connections()

    def _track_connections(self) -> None:
        """Keep this thread's connections, so that close() can close them."""
        for opened in thread_connections.all(initialized_only=True):
            # With DEBUG, Django keeps the last 9,000 statements.
            opened.queries_log.clear()
            if opened not in self._opened:
                with self._lock:
                    # close() runs in another thread than the one that opened this.
                    opened.inc_thread_sharing()
                    self._opened.add(opened)
