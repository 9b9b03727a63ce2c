"""A database that is away, slow, loses replies and goes back in time."""

import asyncio
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.backends.signals import connection_created

from connections.exceptions import DatabaseUnavailable
from connections.models.alias import get_connection
from connections.storage.database import Database
from tests.connections.virtual_loop import VirtualLoop

_DELAYS_SECONDS = (0, 0, 0.001, 0.02)
"""How long a request or a reply is on its way, at random."""


class SimulationLoop(VirtualLoop):
    """A loop on a virtual clock that stands still while a thread works."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run the function in a thread, and wait for it here."""
        future = self.create_future()
        try:
            done = (executor or self._thread).submit(func, *args)
            future.set_result(done.result())
        except Exception as exc:
            future.set_exception(exc)
        return future

    def close(self) -> None:
        self._thread.shutdown()
        super().close()


class SimulatedDatabase(Database):
    """The real database of one node, at a distance that a test controls."""

    def __init__(self, chance: random.Random, now: Callable[[], float]) -> None:
        super().__init__()
        self.is_away = False
        self.is_dead = False
        """True if the process of the node was killed: nothing returns."""
        self.lost_replies = 0
        """How many of the next writes are committed without a reply."""
        self.calls = 0
        """How often it was read or written."""
        self.disturbed_at = -math.inf
        """When the last fault happened or was felt."""
        self._chance = chance
        self._now = now
        self._turn = asyncio.Lock()

    def disturb(self) -> None:
        """Record that there is a fault now."""
        self.disturbed_at = self._now()

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._ask(work, *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        async with self._turn:
            result = await self._ask(work, *args, **kwargs)
        if self.lost_replies:
            self.lost_replies -= 1
            self.disturb()
            raise DatabaseUnavailable("the reply to COMMIT is lost")
        return result

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.write(work, *args, **kwargs)

    async def _ask(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        await self._travel()
        if self.is_away:
            self.disturb()
            raise DatabaseUnavailable("away")
        result = await super().read(work, *args, **kwargs)
        self.calls += 1
        await self._travel()
        return result

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.choice(_DELAYS_SECONDS))
        if self.is_dead:
            await asyncio.Event().wait()


class DatabaseClock:
    """The clock of SQLite, which follows a virtual one."""

    def __init__(self) -> None:
        self._began_at = datetime.now(UTC)
        self.now: Callable[[], float] = lambda: 0
        """Returns the seconds since the beginning."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Move the clock of every connection that is opened meanwhile."""
        connection_created.connect(self._prepare)
        try:
            yield
        finally:
            connection_created.disconnect(self._prepare)

    def _prepare(self, connection: Any, **kwargs: Any) -> None:
        connection.connection.create_function("strftime", -1, self._format)
        # A connection for each call would take most of the time.
        connection.close_at = None

    def _format(self, template: str, *moment: object) -> str:
        at = self._began_at + timedelta(seconds=self.now())
        milliseconds = f"{at.microsecond // 1000:03}"
        return at.strftime(template.replace("%f", f"%S.{milliseconds}"))


class Copy:
    """A copy of the whole database, which can be restored."""

    def __init__(self) -> None:
        self._copy = sqlite3.connect(":memory:")
        _get_raw().backup(self._copy)

    def restore(self) -> None:
        """Replace the database by this copy."""
        self._copy.backup(_get_raw())

    def close(self) -> None:
        """Free the copy."""
        self._copy.close()


def _get_raw() -> sqlite3.Connection:
    connection = get_connection()
    connection.ensure_connection()
    raw: sqlite3.Connection = connection.connection
    return raw
