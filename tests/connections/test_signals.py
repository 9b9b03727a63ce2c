"""Test the signals about connections, bans and alerts, and their thread."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.dispatch import Signal
from django.utils import timezone

from connections.access.bans import impose
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import Measurements
from connections.config.alert_rules import DEFAULT_RULES
from connections.config.sections import RecorderConfig
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import new_connection_id
from connections.hub.hub import Hub
from connections.metrics.counters import Counters
from connections.models import Ban, Connection
from connections.node.recorder import Recorder
from connections.signals import (
    BatchSignal,
    SignalThread,
    alert_changed,
    client_banned,
    connections_closed,
    connections_opened,
)
from connections.sweeper.sweeper import Sweeper
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from connections.testing.waiting import scale
from tests.connections.live_connections import make_connection
from tests.connections.rows import make_connection_row, make_node_row
from tests.connections.switchable_database import SwitchableDatabase

Receive = Callable[[Signal], list[Any]]


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Return a function that connects a receiver and returns what it gets."""
    connected: list[tuple[Signal, Any]] = []

    def connect(signal: Signal) -> list[Any]:
        received: list[Any] = []

        def receiver(sender: Any, signal: Signal, **rows: Any) -> None:
            (batch,) = rows.values()
            received.append(batch)

        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))
        return received

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


def make_recorder() -> tuple[Recorder, SwitchableDatabase]:
    database = SwitchableDatabase()
    recorder = Recorder(
        node_id="n" * 32,
        config=RecorderConfig(),
        database=database,
        clock=FakeClock(),
    )
    return recorder, database


@pytest.mark.django_db(transaction=True)
async def test_the_recorder_sends_each_connection_once(receive: Receive) -> None:
    """A write that fails sends nothing; the write that succeeds sends the rows."""
    opened, closed = receive(connections_opened), receive(connections_closed)
    recorder, database = make_recorder()
    first, second = (make_connection(new_connection_id()) for _ in range(2))
    for one in (first, second):
        recorder.record_change(one)
    recorder.record_closed(second, 4300, "idle")
    database.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await recorder.flush()
    assert (opened, closed) == ([], [])
    database.is_away = False
    await recorder.flush()
    recorder.record_change(first)
    await recorder.flush()
    recorder.record_closed(first, 4009, "kicked")
    await recorder.flush()
    await database.close()
    ids = [[row.connection_id for row in batch] for batch in opened]
    assert ids == [[first.connection_id, second.connection_id]]
    ends = [(row.client_id, row.reason) for batch in closed for row in batch]
    assert ends == [("alice", "idle"), ("alice", "kicked")]


@pytest.mark.django_db(transaction=True)
async def test_a_reconciled_connection_is_sent_as_lost(receive: Receive) -> None:
    closed = receive(connections_closed)
    recorder, database = make_recorder()
    await database.write(make_connection_row, "gone", node_id="n" * 32)
    recorder.dropped.closed = 1
    await recorder.reconcile(Hub())
    await database.close()
    assert [(row.pk, row.reason) for (row,) in closed] == [("gone", "lost")]


@pytest.mark.django_db
def test_the_sweeper_sends_connections_of_dead_nodes(receive: Receive) -> None:
    closed = receive(connections_closed)
    make_node_row("gone", state="lost", stopped_at=timezone.now())
    make_connection_row("c1", node_id="gone")
    make_connection_row("c2", node_id="gone")
    assert Sweeper(make_config()).sweep().connections_lost == 2
    (batch,) = closed
    assert {(row.pk, row.reason) for row in batch} == {("c1", "lost"), ("c2", "lost")}


@pytest.mark.django_db(transaction=True)
def test_a_ban_is_sent_on_its_commit(receive: Receive) -> None:
    banned = receive(client_banned)
    call_command("ban", client="mallory", reason="spam")
    impose(Ban(target="address", value="192.0.2.7"))
    over = timezone.now() - timedelta(seconds=1)
    impose(Ban(target="client", value="alice", until=over))
    found = [(ban.target, ban.value) for (ban,) in banned]
    assert found == [("client", "mallory"), ("address", "192.0.2.7")]


@pytest.mark.django_db
def test_an_alert_is_sent_as_it_fires_and_resolves(receive: Receive) -> None:
    """An alert that is pending, or of a self-test, is not sent."""
    changed = receive(alert_changed)
    (lag,) = (rule for rule in DEFAULT_RULES if rule.name == "loop_lag")
    now = timezone.now()
    moments = [now, now + timedelta(seconds=lag.for_seconds), now]
    for is_test in (True, False):
        now_of = iter(moments).__next__
        evaluator = Evaluator([lag], is_test=is_test, now=now_of)
        for value in (9.0, 9.0):
            evaluator.evaluate(Measurements(loop_lag_seconds=value))
    states = [alert.state for (alert,) in changed]
    Evaluator([lag]).evaluate(Measurements(loop_lag_seconds=0))
    states += [alert.state for (alert,) in changed[1:]]
    assert states == ["firing", "resolved"]


def test_an_exception_of_a_receiver_is_counted_and_logged(
    receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    """The other receivers get the rows."""
    signal = BatchSignal(Connection, "connections")

    def fail(**kwargs: Any) -> None:
        raise KeyError("planted")

    signal.connect(fail)
    received = receive(signal)
    part = "A receiver of a signal"
    before = Counters().get_failures().get(part, 0)
    with caplog.at_level(logging.ERROR, "connections.signals"):
        signal.send_soon([Connection(connection_id="c1")])
    assert [len(batch) for batch in received] == [1]
    assert Counters().get_failures()[part] == before + 1
    events = [getattr(one, "event", None) for one in caplog.records]
    assert "signal_receiver_failed" in events


def test_the_thread_merges_what_waits_and_keeps_the_order(receive: Receive) -> None:
    """A receiver that takes long delays no caller; rows beyond the bound go."""
    first, second = (BatchSignal(Connection, "connections") for _ in range(2))
    is_called, may_go = threading.Event(), threading.Event()

    def wait(**kwargs: Any) -> None:
        is_called.set()
        may_go.wait(scale(10))

    first.connect(wait)
    got_first, got_second = receive(first), receive(second)
    thread = SignalThread(most_waiting=3)
    rows = [Connection(connection_id=str(number)) for number in range(9)]
    dropped_before = Counters().get_failures().get("The queue of signals", 0)
    thread.add(first, rows[:1])
    assert is_called.wait(scale(10))
    thread.add(first, rows[1:2])
    thread.add(first, rows[2:3])
    thread.add(second, rows[3:6])
    assert not thread.wait(0)
    may_go.set()
    assert thread.wait(scale(10))
    assert [[row.pk for row in batch] for batch in got_first] == [["0"], ["1", "2"]]
    assert [[row.pk for row in batch] for batch in got_second] == [["3"]]
    dropped = Counters().get_failures()["The queue of signals"] - dropped_before
    assert dropped == 1


def test_a_receiver_that_exits_its_thread_leaves_the_next_rows(
    receive: Receive,
) -> None:
    signal = BatchSignal(Connection, "connections")
    row = Connection(connection_id="c1")
    has_exited: list[bool] = []

    def leave(**kwargs: Any) -> None:
        if not has_exited:
            has_exited.append(True)
            raise SystemExit

    received = receive(signal)
    signal.connect(leave)
    thread = SignalThread()
    for _ in range(2):
        thread.add(signal, [row])
        assert thread.wait(scale(10))
    assert len(received) == 2


@pytest.mark.usefixtures("one_thread_fails")
def test_rows_that_found_no_thread_are_sent_with_the_next(receive: Receive) -> None:
    signal = BatchSignal(Connection, "connections")
    received = receive(signal)
    thread = SignalThread()
    for name in ("c1", "c2"):
        thread.add(signal, [Connection(connection_id=name)])
    assert thread.wait(scale(10))
    assert [[row.pk for row in batch] for batch in received] == [["c1", "c2"]]


def test_an_async_receiver_is_awaited_beside_one_that_fails(receive: Receive) -> None:
    signal = BatchSignal(Connection, "connections")
    awaited: list[str] = []

    async def forward(connections: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        awaited.extend(one.pk for one in connections)

    async def fail(**kwargs: Any) -> None:
        raise KeyError("planted")

    signal.connect(fail)
    signal.connect(forward)
    received = receive(signal)
    thread = SignalThread()
    thread.add(signal, [Connection(connection_id="c1")])
    assert thread.wait(scale(10))
    assert awaited == ["c1"]
    assert len(received) == 1


def test_a_process_that_ends_waits_for_its_receivers() -> None:
    """The interpreter calls the function at its exit, before daemon threads end."""
    script = (
        "import django; django.setup()\n"
        "from connections.models import Connection\n"
        "from connections.signals import connections_closed\n"
        "def forward(connections, **kwargs): print(len(connections), flush=True)\n"
        "connections_closed.connect(forward)\n"
        "connections_closed.send_soon([Connection(connection_id='c1')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "1\n"
