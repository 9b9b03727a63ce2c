"""Run database work off the event loop: one thread writes, a few read."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
from connections.storage.changes import Changes
from connections.storage.deadlines import deadlines
from connections.storage.failures import AWAY, describe_failure
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

BRIEF_THREADS = 4
"""The number of threads for brief work, each with a connection of its own."""

FOREIGN_THREADS = 4
"""The number of threads for code of the project, each with a connection of its own."""


def require_tables() -> None:
    """
    Refuse to serve on a database that is not migrated.

    A database that does not answer is accepted, as it may be back in a moment.

    Raises:
        NotMigrated: the database answers, and tables are missing.
    """
    connection = get_connection()
    try:
        missing, has_some = find_missing_tables()
    except DatabaseError as exc:
        logger.warning(
            "Whether the database is migrated could not be checked: %s",
            exc,
            extra={"event": "tables_unknown"},
        )
        return
    finally:
        connection.close()
    if missing:
        raise NotMigrated(missing, has_some=has_some)


def find_missing_tables() -> tuple[set[str], bool]:
    """Return the tables that the database lacks, and whether it has any table."""
    models = apps.get_app_config("connections").get_models()
    needed = {one._meta.db_table for one in models if one._meta.managed}
    found = set(get_connection().introspection.table_names())
    return needed - found, bool(found)


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
        self._brief = ThreadPoolExecutor(BRIEF_THREADS, "connections-brief")
        self._foreign = ThreadPoolExecutor(FOREIGN_THREADS, "connections-foreign")
        self._opened: set[Any] = set()
        self._lock = threading.Lock()
        # Reads and writes are apart: reads succeed on a full disk, writes fail.
        self._failures: dict[str, str] = {}
        self._closing = BackgroundTasks()
        self._is_closed = False
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
        """
        describe_failure() until a read and a write of rows succeed; or None.

        Brief work has its own handling of failures, and code of the project may fail
        for a database of its own.
        """
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
        self._require_open()
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
        self._require_open()
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
        return await self._run_in(self._readers, call)

    async def read_foreign(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run code of the project that reads, and may wait for another service.

        It has threads of its own, so that the reads of the node do not wait for it.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        call = partial(self._run, "foreign", work, *args, **kwargs)
        return await self._run_in(self._foreign, call)

    async def run_briefly(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """
        Run one short statement that may write; a few calls run at once.

        The connections stay open and are not checked before, whatever CONN_MAX_AGE
        and CONN_HEALTH_CHECKS are: the work has to expect a broken one.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        call = partial(self._run, "brief", work, *args, **kwargs)
        return await self._run_in(self._brief, call)

    async def _run_in(
        self, threads: ThreadPoolExecutor, call: Callable[[], Result]
    ) -> Result:
        self._require_open()
        if self.is_in_test:
            return await run_in_test(call)
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    async def close(self) -> None:
        """Finish submitted work, then close the connection of every thread."""
        self._is_closed = True
        self._closing.cancel()
        # The threads of a loop that ends have ended already.
        with ThreadPoolExecutor(1) as closer:
            await asyncio.get_running_loop().run_in_executor(closer, self._close)

    def abandon(self) -> None:
        """Cancel work that has not begun, and do not wait for the rest."""
        self._is_closed = True
        for writer in {self._writer, self._urgent_writer}:
            writer.abandon()
        for threads in (self._readers, self._brief, self._foreign):
            threads.shutdown(wait=False, cancel_futures=True)

    def _require_open(self) -> None:
        """
        Refuse work of a connection that arrived while its node stopped.

        Raises:
            DatabaseUnavailable: the threads have ended, or end now.
        """
        if self._is_closed:
            raise DatabaseUnavailable("the node has stopped")

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
        for threads in (self._readers, self._brief, self._foreign):
            threads.shutdown()
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
        if kind != "brief":
            self._close_old_connections()
        try:
            with (
                self._watch_recovery(kind),
                deadlines.limit(get_connection(), partial(self._mark_away, kind)),
            ):
                result = work(*args, **kwargs)
        except (OperationalError, InterfaceError) as exc:
            self._failures[kind] = describe_failure(exc)
            self._close_old_connections()
            raise DatabaseUnavailable(str(exc)) from exc
        finally:
            if not self.is_in_test:
                self._track_connections()
        return result

    def _mark_away(self, kind: str) -> None:
        """Fail before the work does: without a connect_timeout it waits for minutes."""
        self._failures[kind] = AWAY

    @contextmanager
    def _watch_recovery(self, kind: str) -> Iterator[None]:
        """
        Forget the failure of this kind if the work succeeds.

        Only a write that changed rows shows that writes succeed again: on a full
        disk a transaction that changes nothing succeeds.
        """
        if kind not in self._failures:
            yield
            # It may have been marked as away meanwhile; the next write clears its own.
            if kind != "write":
                self._failures.pop(kind, None)
            return
        connection = get_connection()
        changes = Changes(connection)
        with connection.execute_wrapper(changes.execute):
            yield
        if kind != "write" or changes.found:
            self._failures.pop(kind, None)

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
