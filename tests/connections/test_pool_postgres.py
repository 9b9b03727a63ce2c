"""The pool in PostgreSQL, where it differs from other stores."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from django.db import DataError

from connections.pool.outage import OutagePool
from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.connections.pool_database import ForeignDatabase, PoolDatabase
from tests.connections.pool_nodes import PostgresNodePool

Result = TypeVar("Result")


class SlowDatabase(ForeignDatabase):
    """A database one of whose threads comes to its work late."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(port, name)
        self.is_next_late = False
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        self.completed = 0
        """How many calls have ended in their threads."""

    async def run_briefly(
        self, work: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        return await super().run_briefly(self._run_late, work, *args, **kwargs)

    def _run_late(
        self, work: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        if self.is_next_late:
            self.is_next_late = False
            self.has_begun.set()
            self.may_go_on.wait(scale(20))
        try:
            return work(*args, **kwargs)
        finally:
            self.completed += 1


async def test_a_call_without_a_caller_takes_no_slot_after_its_release(
    pool_database: PoolDatabase,
) -> None:
    """Its thread had taken the call, and came to the statement after the release."""
    database = SlowDatabase(pool_database.port, pool_database.name)
    url = pool_database.server.url(pool_database.name)
    pool = PostgresNodePool(database, url, "a", lease_seconds=60)
    await pool.take("1")
    database.is_next_late = True
    late = asyncio.create_task(pool.acquire(pool.slot("2", 2)))
    await wait_until(database.has_begun.is_set)
    completed = database.completed
    late.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await late
    await wait_until(lambda: database.completed == completed + 1)
    database.may_go_on.set()
    await wait_until(lambda: database.completed == completed + 2)
    assert pool_database.leased() == {"1"}
    assert (await pool.get_usage()).slots == 1
    await pool.close()


async def test_a_text_that_postgresql_cannot_read_is_no_outage(
    pool_database: PoolDatabase,
) -> None:
    """The call fails alone: others keep the limits of all nodes."""
    shared = pool_database.make_pool()
    pool = OutagePool(shared, policy="refuse", max_total=10)
    with pytest.raises(DataError):
        await pool.acquire(shared.slot("1", 1), replaces="\0")
    assert not pool.is_degraded
    assert await pool.acquire(shared.slot("2", 2)) == ()
    await pool.close()
