"""Urgent writes, which clients wait for, run ahead of records."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.db import OperationalError, connection

from connections.exceptions import DatabaseUnavailable
from connections.models import Ban
from connections.models.alias import atomic, get_alias
from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.databases import use_in_thread
from connections.testing.waiting import scale, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


async def test_urgent_work_goes_first() -> None:
    """On SQLite ahead in the one writing thread; elsewhere in a thread of its own."""
    database = Database()
    may_go = threading.Event()
    order: list[str] = []
    holding = asyncio.create_task(database.write(may_go.wait, scale(10)))
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
    has_begun, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        has_begun.set()
        may_go.wait(scale(30))

    holding = asyncio.create_task(database.write_urgently(hold))
    await wait_until(has_begun.is_set)
    waiting = asyncio.create_task(database.write_urgently(lambda: "too late"))
    await asyncio.sleep(0)
    database.abandon()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_go.set()
    await holding


METHODS = ("read", "read_foreign", "write", "write_urgently", "run_briefly")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_abandoned", [True, False])
async def test_work_for_a_node_that_has_stopped_is_refused(
    method: str, is_abandoned: bool
) -> None:
    """A connection that arrives meanwhile ends as unavailable, not as a failure."""
    database = Database()
    if is_abandoned:
        database.abandon()
    else:
        await database.close()
    with pytest.raises(DatabaseUnavailable, match="the node has stopped"):
        await getattr(database, method)(lambda: "too late")


def refuse() -> None:
    raise OperationalError("database or disk is full")


def change_nothing() -> None:
    Ban.objects.filter(value="nobody").update(reason="never")


def change_nothing_in_transaction() -> None:
    with atomic():
        change_nothing()
        Ban.objects.filter(value="nobody").delete()
        Ban.objects.count()


def insert() -> None:
    Ban.objects.create(target=Ban.Target.CLIENT, value="alice")


def insert_many() -> None:
    Ban.objects.bulk_create(
        [Ban(target=Ban.Target.CLIENT, value=value) for value in ("alice", "bob")]
    )


def update() -> None:
    Ban.objects.filter(value="carol").update(reason="spam")


def delete() -> None:
    Ban.objects.filter(value="carol").delete()


@pytest.fixture
async def full_database() -> AsyncIterator[Database]:
    """A database whose last write failed, with the ban of carol."""
    database = Database()
    await database.write(
        Ban.objects.create, target=Ban.Target.CLIENT, value="carol", reason=""
    )
    with pytest.raises(DatabaseUnavailable):
        await database.write(refuse)
    assert database.failure is not None
    yield database
    await database.close()


@pytest.mark.parametrize("work", [change_nothing, change_nothing_in_transaction, list])
async def test_a_write_that_changes_nothing_leaves_the_failure(
    full_database: Database, work: Callable[[], object]
) -> None:
    """On a full disk a transaction that changes nothing succeeds."""
    await full_database.write(work)
    await full_database.write_urgently(work)
    await full_database.read(Ban.objects.count)
    assert full_database.failure is not None


@pytest.mark.parametrize("work", [insert, insert_many, update, delete])
async def test_a_write_of_rows_ends_the_failure(
    full_database: Database, work: Callable[[], object]
) -> None:
    await full_database.write(work)
    assert full_database.failure is None


async def test_a_write_that_fails_after_its_rows_leaves_the_failure(
    full_database: Database,
) -> None:
    """A full disk may refuse the commit alone."""

    def fail_at_commit() -> None:
        insert()
        refuse()

    with pytest.raises(DatabaseUnavailable):
        await full_database.write(fail_at_commit)
    assert full_database.failure is not None


async def test_another_database_of_the_project_is_no_failure_of_this_one() -> None:
    database = Database()
    with pytest.raises(DatabaseUnavailable):
        await database.read_foreign(refuse)
    assert database.failure is None
    await database.close()


@pytest.mark.parametrize(
    ("kind", "left"), [("read", None), ("write", "does not answer")]
)
async def test_work_that_waits_for_a_connection_is_a_failure_until_it_succeeds(
    settings: Any, kind: str, left: str | None
) -> None:
    """
    A host that vanished lets the kernel wait for minutes.

    A write that changed no rows ends no failure.
    """
    settings.WEBSOCKET = make_config(node={"database_timeout_seconds": 0.5})
    database = Database()
    run = getattr(database, kind)
    postgres = {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}
    await run(use_in_thread, {get_alias(): postgres})
    may_go = threading.Event()
    waiting = asyncio.create_task(run(may_go.wait, scale(30)))
    await wait_until(lambda: database.failure == "does not answer")
    may_go.set()
    await waiting
    assert database.failure == left
    await database.close()


async def test_a_read_ends_the_failure_of_reads() -> None:
    database = Database()
    with pytest.raises(DatabaseUnavailable):
        await database.read(refuse)
    assert database.failure is not None
    await database.read(Ban.objects.count)
    assert database.failure is None
    await database.close()
