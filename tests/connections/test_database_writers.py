"""What a client waits for is written before what only records."""

import asyncio
import threading

import pytest
from django.db import connection

from connections.storage.database import Database

pytestmark = pytest.mark.django_db(transaction=True)


async def test_urgent_work_goes_first() -> None:
    """On SQLite in the one thread that writes; elsewhere it does not even wait."""
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


async def test_what_fails_is_told_and_the_thread_goes_on() -> None:
    database = Database()
    with pytest.raises(ZeroDivisionError):
        await database.write_urgently(lambda: 1 / 0)
    assert await database.write_urgently(lambda: "well") == "well"
    await database.close()


async def test_what_is_abandoned_does_not_hang() -> None:
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
