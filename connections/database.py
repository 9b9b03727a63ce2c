"""Database work off the event loop: one thread that writes, a few that read."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    OperationalError,
    close_old_connections,
)
from django.db import connections as thread_connections

from connections.exceptions import DatabaseUnavailable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_READERS = 4


class Database:
    """
    The threads in which this process talks to its database.

    Channels runs every synchronous call of a process on one shared thread, so
    one slow query of anybody's would hold up all. SQLite has one writer at a
    time anyway, so one thread writes and never waits for its own kind.
    """

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, "connections-writer")
        self._readers = ThreadPoolExecutor(_READERS, "connections-reader")
        self._opened: set[Any] = set()
        self._lock = threading.Lock()
        self.failure: str | None = None
        """Why the last call failed for want of the database; None: it answered."""

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
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._writer, lambda: self._run(work, *args, **kwargs)
        )

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
            self._readers, lambda: self._run(work, *args, **kwargs)
        )

    async def close(self) -> None:
        """Wait for what is under way, then close every thread's connection."""
        await asyncio.to_thread(self._close)

    def abandon(self) -> None:
        """Give up work that has not begun, and do not wait for the rest."""
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        for opened in self._opened:
            opened.close()
        self._opened.clear()

    def _run(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        self._adopt()
        close_old_connections()
        try:
            result = work(*args, **kwargs)
        except (OperationalError, InterfaceError) as exc:
            self.failure = str(exc) or type(exc).__name__
            close_old_connections()
            raise DatabaseUnavailable(str(exc)) from exc
        self.failure = None
        return result

    def _adopt(self) -> None:
        """Remember this thread's connection, so that close() can close it."""
        opened = thread_connections[DEFAULT_DB_ALIAS]
        if opened not in self._opened:
            with self._lock:
                # close() runs in another thread than the one that opened it.
                opened.inc_thread_sharing()
                self._opened.add(opened)
