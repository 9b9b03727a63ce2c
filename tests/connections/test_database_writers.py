"""Urgent writes, which clients wait for, run ahead of records."""

import asyncio
import threading

import pytest
from django.db import connection

from connections.storage.database import Database

pytestmark = pytest.mark.django_db(transaction=True)


async def test_urgent_work_goes_first() -> None:
    """On SQLite ahead in the one writing thread; elsewhere in a thread of its own."""
    database = Database()
    may_go = threading.Event()
    order: list[str] = []
    holding = asyncio.create_task(database.write(may_go.wait, 10))
    await asyncio.sleep(0)
    waiting = [
        asyncio.create_task(database.write(order.append, "record")),
        asyncio.create_task(database.write_urgently(order.append, "entry")),
    ]
    await asyncio.sleep(0)
    if connection.vendor != "sqlite":
        await waiting[1]
    may_go.set()
    await asyncio.gather(holding, *waiting)
    assert order == ["entry", "record"]
    await database.close()


async def test_a_failure_is_raised_and_the_thread_continues() -> None:
    database = Database()
    with pytest.raises(ZeroDivisionError):
        await database.write_urgently(lambda: 1 / 0)
    assert await database.write_urgently(lambda: "done") == "done"
    await database.close()


async def test_abandoned_work_is_cancelled() -> None:
    database = Database()
    may_go = threading.Event()
    holding = asyncio.create_task(database.write_urgently(may_go.wait, 10))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(database.write_urgently(lambda: "too late"))
    await asyncio.sleep(0)
    database.abandon()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_go.set()
    await holding
