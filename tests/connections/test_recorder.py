"""The recorder writes records in batches, whatever the database does."""

import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections import close_codes
from connections.config.loader import get_config
from connections.config.sections import RecorderConfig
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import LiveConnection, new_connection_id
from connections.hub.hub import Hub
from connections.limits import Limits
from connections.models import Connection, ErrorEvent, Node
from connections.node.recorder import Recorder, describe_error
from connections.node.records import Row, write_rows
from connections.storage.text import clean
from connections.testing import FakeClock
from tests.connections.live_connections import make_connection as make_live
from tests.connections.switchable_database import SwitchableDatabase


def make_connection(clock: FakeClock, **values: Any) -> LiveConnection:
    return make_live(new_connection_id(), now=clock(), **values)


def make_error(connection: LiveConnection) -> ErrorEvent:
    try:
        raise KeyError("planted")
    except KeyError as exc:
        return describe_error(exc, connection, {})


class Bench:
    """A recorder with its clock and database."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.database = SwitchableDatabase()
        self.recorder = Recorder(
            node_id="n" * 32,
            config=RecorderConfig(**config),
            database=self.database,
            clock=self.clock,
        )


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**config: Any) -> Bench:
        made.append(Bench(**config))
        return made[-1]

    yield make
    for bench in made:
        await bench.database.close()


@pytest.fixture
async def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_opened_and_closed_is_one_row(bench: Bench) -> None:
    connection = make_connection(bench.clock, address="192.0.2.1")
    bench.recorder.record_change(connection)
    connection.messages_in = 3
    bench.recorder.record_closed(connection, 4300, "idle")
    assert bench.recorder.pending == 1
    await bench.recorder.flush()
    row = await Connection.objects.aget()
    assert (row.close_code, row.reason, row.messages_in) == (4300, "idle", 3)
    assert row.closed_at is not None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("reason", ["spam\x00", "spam\ud800", "x" * 123])
async def test_any_reason_of_a_consumer_is_recorded(bench: Bench, reason: str) -> None:
    bench.recorder.record_closed(make_connection(bench.clock), 4000, reason)
    await bench.recorder.flush()
    row = await Connection.objects.aget()
    assert row.reason[:4] == reason[:4]
    assert len(row.reason) <= 32
    assert bench.recorder.dropped.invalid == 0


@pytest.mark.django_db(transaction=True)
async def test_a_row_follows_its_connection(bench: Bench) -> None:
    connection = make_connection(bench.clock)
    bench.recorder.record_change(connection)
    await bench.recorder.flush()
    bench.clock.advance(50)
    connection.last_activity = bench.clock()
    bench.recorder.record_change(connection)
    before = timezone.now()
    await bench.recorder.flush()
    row = await Connection.objects.aget()
    assert (row.closed_at, row.reason) == (None, "")
    assert before <= row.last_activity_at <= timezone.now()


@pytest.mark.django_db(transaction=True)
async def test_a_row_names_the_idle_timeout_that_is_its_own(bench: Bench) -> None:
    configured = Limits.configured(get_config())
    own = replace(configured, idle_timeout_seconds=600)
    for limits in (configured, own):
        bench.recorder.record_change(make_connection(bench.clock, limits=limits))
    await bench.recorder.flush()
    timeouts = [row.idle_timeout_seconds async for row in Connection.objects.all()]
    assert set(timeouts) == {None, 600}


@pytest.mark.django_db(transaction=True)
async def test_an_error_is_found_by_its_id(bench: Bench) -> None:
    connection = make_connection(bench.clock, route="/ws/x/")
    error = make_error(connection)
    bench.recorder.record_error(error)
    await bench.recorder.flush()
    row = await ErrorEvent.objects.aget(error_id=error.error_id)
    assert row.exception_class == "builtins.KeyError"
    assert "test_recorder.py/make_error" in row.where
    assert "planted" in row.traceback


@pytest.mark.django_db(transaction=True)
async def test_an_outage_loses_nothing_that_fits(bench: Bench) -> None:
    bench.database.is_away = True
    connections = [make_connection(bench.clock) for _ in range(1200)]
    for connection in connections:
        bench.recorder.record_change(connection)
    for connection in connections[:700]:
        bench.recorder.record_closed(connection, 1000, "closed")
    with pytest.raises(DatabaseUnavailable):
        await bench.recorder.flush()
    bench.clock.advance(60)
    assert (bench.recorder.pending, bench.recorder.lag_seconds) == (1200, 60)
    bench.database.is_away = False
    await bench.recorder.flush()
    assert (bench.recorder.pending, bench.recorder.lag_seconds) == (0, 0)
    assert await Connection.objects.acount() == 1200
    assert await Connection.objects.open().acount() == 500
    assert bench.database.writes == 3


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_a_long_outage_keeps_to_its_bounds(
    make_bench: Callable[..., Bench],
) -> None:
    """Ten minutes of churn, a hundred connections a second, in a small backlog."""
    bench = make_bench(max_pending=1000)
    bench.database.is_away = True
    open_ones = [make_connection(bench.clock) for _ in range(100)]
    for connection in open_ones:
        bench.recorder.record_change(connection)
    last = None
    tracemalloc.start()
    for second in range(600):
        for _ in range(100):
            last = make_connection(bench.clock)
            bench.recorder.record_change(last)
            bench.recorder.record_closed(last, 1000, "closed")
        bench.clock.advance(1)
        if second == 30:
            gc.collect()
            early_bytes, _ = tracemalloc.get_traced_memory()
    gc.collect()
    late_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert late_bytes - early_bytes < 200_000
    assert bench.recorder.pending == 1000
    assert bench.recorder.dropped.closed == 60_100 - 1000
    bench.database.is_away = False
    await bench.recorder.flush()
    assert last is not None
    assert await Connection.objects.filter(pk=last.connection_id).aexists()
    assert await Connection.objects.open().acount() == 100


@pytest.mark.django_db(transaction=True)
async def test_rows_whose_ends_were_dropped_are_closed_after_the_outage(
    make_bench: Callable[..., Bench],
) -> None:
    bench, hub = make_bench(max_pending=100), Hub()
    connections = [make_connection(bench.clock) for _ in range(150)]
    for connection in connections:
        hub.join(connection)
        bench.recorder.record_change(connection)
        await bench.recorder.flush()
    bench.database.is_away = True
    for connection in connections[:140]:
        hub.leave(connection)
        bench.recorder.record_closed(connection, 1000, "closed")
    await bench.recorder.reconcile(hub)
    bench.database.is_away = False
    await bench.recorder.flush()
    await bench.recorder.reconcile(hub)
    assert await Connection.objects.open().acount() == 10
    assert (
        await Connection.objects.filter(reason="lost", close_code=1006).acount() == 40
    )
    assert await Connection.objects.filter(reason="closed").acount() == 100


@pytest.mark.django_db(transaction=True)
async def test_rows_and_hub_are_compared_every_five_minutes(
    make_bench: Callable[..., Bench],
) -> None:
    """A fail-over of the database may lose what it had confirmed."""
    bench, hub = make_bench(), Hub()
    kept, gone = make_connection(bench.clock), make_connection(bench.clock)
    other = Connection(
        connection_id="other", node_id="m" * 32, opened_at=timezone.now()
    )
    other.last_activity_at = other.opened_at
    await other.asave()
    for connection in (kept, gone):
        bench.recorder.record_change(connection)
    hub.join(kept)
    await bench.recorder.flush()
    await bench.recorder.reconcile(hub)
    assert await Connection.objects.open().acount() == 3
    bench.clock.advance(301)
    await Connection.objects.filter(pk=kept.connection_id).adelete()
    await bench.recorder.reconcile(hub)
    await bench.recorder.flush()
    rows = Connection.objects.open().order_by("node_id")
    assert [row.pk async for row in rows] == ["other", kept.connection_id]


@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_ends_during_the_comparison_keeps_its_end(
    make_bench: Callable[..., Bench],
) -> None:
    bench, hub = make_bench(), Hub()
    connection = make_connection(bench.clock)
    hub.join(connection)
    bench.recorder.record_change(connection)
    await bench.recorder.flush()
    bench.clock.advance(301)

    async def leave() -> None:
        hub.leave(connection)
        bench.recorder.record_closed(connection, 4009, "kicked")

    bench.database.after_read = leave
    await bench.recorder.reconcile(hub)
    await bench.recorder.flush()
    row = await Connection.objects.aget(pk=connection.connection_id)
    assert (row.close_code, row.reason) == (4009, "kicked")


async def test_tracebacks_are_dropped_first(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_bytes=100_000)
    bench.database.is_away = True
    connection = make_connection(bench.clock)
    bench.recorder.record_closed(connection, 1000, "closed")
    for _ in range(90):
        error = make_error(connection)
        error.traceback = "x" * 8000
        bench.recorder.record_error(error)
    dropped = bench.recorder.dropped
    assert dropped.tracebacks > 70
    assert (dropped.closed, dropped.errors) == (0, 0)


@pytest.mark.django_db(transaction=True)
async def test_activity_is_dropped_before_closed_rows(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(max_pending=100)
    open_ones = [make_connection(bench.clock) for _ in range(60)]
    for connection in open_ones:
        bench.recorder.record_change(connection)
    await bench.recorder.flush()
    bench.database.is_away = True
    for connection in open_ones:
        bench.recorder.record_change(connection)
    for _ in range(41):
        bench.recorder.record_closed(make_connection(bench.clock), 1000, "closed")
    assert bench.recorder.dropped.activities == 60
    assert bench.recorder.dropped.closed == 0
    assert bench.recorder.pending == 41


@pytest.mark.django_db(transaction=True)
async def test_one_row_that_the_database_refuses_does_not_fail_the_others(
    bench: Bench,
) -> None:
    good = [make_connection(bench.clock) for _ in range(5)]
    bad = make_connection(bench.clock)
    for connection in [*good[:3], bad, *good[3:]]:
        code = -1 if connection is bad else 1000
        bench.recorder.record_closed(connection, code, "closed")
    await bench.recorder.flush()
    assert await Connection.objects.acount() == 5
    assert bench.recorder.dropped.invalid == 1


@pytest.mark.django_db
def test_hundreds_of_rows_are_one_statement() -> None:
    """On SQLite, Django would write each 41 of them alone."""
    moment = timezone.now()
    rows: list[Row] = [
        Connection(
            connection_id=f"{number:032x}",
            client_id="alice",
            node_id="n" * 32,
            transport="websocket",
            opened_at=moment,
            last_activity_at=moment,
            flight=[{"kind": "é"}] if number else None,
        )
        for number in range(500)
    ]
    for messages in (0, 1):
        for one in rows:
            one.messages_in = messages  # type: ignore[union-attr]
        with CaptureQueriesContext(database) as queries:
            assert write_rows(rows, []) == 0
        assert sum("INSERT" in one["sql"] for one in queries) == 1
        assert Connection.objects.filter(messages_in=messages).count() == 500
    assert Connection.objects.get(flight__isnull=True).opened_at == moment


def test_every_database_stores_a_cleaned_text() -> None:
    assert clean("a\x00b\ud800c", 10) == "a\ufffdb?c"
    assert clean("abcdef", 3) == "abc"


def test_reasons_fit_their_column() -> None:
    longest = max(map(len, close_codes.CLOSE_REASONS))
    assert longest <= (Connection._meta.get_field("reason").max_length or 0)
    assert Node.State.LOST.value == "lost"
