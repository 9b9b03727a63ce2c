"""Periodic steps: when one is overdue, and where that is shown."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.db import ProgrammingError, connection
from django.utils import timezone

from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import read_measurements
from connections.close_codes import CloseReason
from connections.config.alert_rules import DEFAULT_RULES
from connections.credentials.identity import Credential
from connections.metrics.steps import PeriodicSteps
from connections.models import Alert, Ban, CloseRequest, Node, Sweep
from connections.node.health import READINESS, describe_health
from connections.node.node import Node as LiveNode
from connections.node.periodic import run_periodically
from connections.pool.base import Slot
from connections.sweeper.background import run_sweeper
from connections.sweeper.results import SweepIncomplete
from connections.sweeper.sweeper import Sweeper
from connections.testing import FakeClock
from connections.testing.communicators import make_config, make_node
from sessions_history.fan_out import FanOut
from tests.connections.live_connections import SilentSender, make_connection
from tests.connections.rows import make_node_row
from tests.connections.switchable_database import SwitchableDatabase

in_database = pytest.mark.django_db(transaction=True)

RULES = {rule.name: rule for rule in DEFAULT_RULES}


def test_a_step_is_overdue_after_three_intervals_without_success() -> None:
    clock = FakeClock()
    steps = PeriodicSteps(clock)
    steps.declare("The beat", 5)
    steps.record_success("undeclared")
    clock.advance(15)
    assert steps.find_overdue() == []
    clock.advance(0.1)
    assert steps.find_overdue() == ["The beat"]
    steps.record_success("The beat")
    assert steps.find_overdue() == []
    assert steps.get_ages() == {"The beat": 0}


def test_a_step_of_a_short_interval_has_three_seconds() -> None:
    clock = FakeClock()
    steps = PeriodicSteps(clock)
    steps.declare("The meter", 0.25)
    clock.advance(3)
    assert steps.find_overdue() == []
    clock.advance(0.1)
    assert steps.find_overdue() == ["The meter"]


@pytest.mark.parametrize(("result", "successes"), [(True, 1), (None, 1), (False, 0)])
async def test_a_step_that_fails_in_part_has_not_succeeded(
    result: bool | None, successes: int
) -> None:
    found, done = list[str](), asyncio.Event()

    async def step() -> bool | None:
        if done.is_set():
            await asyncio.Event().wait()
        done.set()
        return result

    runner = run_periodically("The check", step, 0, on_success=found.append)
    task = asyncio.create_task(runner)
    await done.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(found) == successes


# Each kind of step fails in part where one connection raises


class BrokenSender(SilentSender):
    """A sender that cannot end its connection."""

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        raise ConnectionResetError("the socket is gone")


async def check_expiry(node: LiveNode) -> bool | None:
    class Moment(datetime):
        """A moment that cannot be compared."""

        __le__ = None  # type: ignore[assignment]

    expires_at = Moment(2020, 1, 1, tzinfo=UTC)
    credential = Credential(client_id="alice", expires_at=expires_at)
    node.hub.join(make_connection("broken", credential=credential))
    return await node.activity.check_expiry()


async def check_idle(node: LiveNode) -> bool | None:
    node.hub.join(make_connection("broken", now="now"))
    return await node.activity.check_idle()


async def check_bans(node: LiveNode) -> bool | None:
    await Ban.objects.acreate(target="client", value="alice", author="admin")
    node.hub.join(make_connection("broken", sender=BrokenSender()))
    return await node.gate.refresh()


async def apply_close_request(node: LiveNode) -> bool | None:
    await CloseRequest.objects.acreate(target="all", reason="kicked")
    node.hub.join(
        make_connection("broken", sender=BrokenSender(), now=node.clock() - 60)
    )
    return await node.beat()


async def write_records(node: LiveNode) -> bool | None:
    assert node.recorder is not None
    node.recorder.record_change(make_connection("broken", now=float("-inf")))
    return await node.recorder.flush()


async def reauthorise(node: LiveNode) -> bool | None:
    class BrokenSession:
        @property
        def session_key(self) -> str:
            raise KeyError("session_key")

    credential = Credential(client_id="alice", session=BrokenSession())
    connection = make_connection("broken", credential=credential)
    node.hub.join(connection)
    node.reauthoriser.ask(connection)
    return await node.reauthoriser.poll()


async def renew_leases(node: LiveNode) -> bool | None:
    connection = make_connection("broken", sender=BrokenSender())
    connection.slot = Slot(
        connection_id="broken", client_id="alice", node_id="n", opened_at=0, limit=1
    )
    node.hub.join(connection)
    return await node.renew_leases()


Failing = Callable[[LiveNode], Awaitable[bool | None]]


@pytest.fixture
async def node() -> AsyncIterator[LiveNode]:
    database = SwitchableDatabase()
    yield LiveNode(make_config(), database=database, clock=FakeClock())
    await database.close()


@in_database
@pytest.mark.parametrize(
    "fail",
    [
        check_expiry,
        check_idle,
        check_bans,
        apply_close_request,
        write_records,
        reauthorise,
        renew_leases,
    ],
)
async def test_a_pass_that_fails_for_one_connection_is_counted_and_not_whole(
    node: LiveNode, fail: Failing
) -> None:
    assert await fail(node) is False
    assert sum(node.counters.failures.values()) == 1


@in_database
async def test_every_step_of_a_node_is_watched(node: LiveNode) -> None:
    await node.start()
    assert node.steps.get_intervals() == {
        "The check for expired credentials": 1,
        "The check for idle connections": 1,
        "The beat": 1,
        "The heartbeat": 1,
        "The write of records": 1,
        "The comparison of records": 1,
        "The write of refused handshakes": 1,
        "The write of used tokens": 1,
        "The poll of close requests": 1,
        "The poll of bans": 1,
        "The poll of commands": 1,
        "The renewal of leases": 5,
        "The search for leaks": 5,
        "The count of the top": 5,
        "The cluster monitor": 10,
        "The watch of the database": 10,
        "The watch of the pool": 1,
        "The meter": 0.25,
        "The sample of live state": 1,
        "The re-authorisation": 1,
    }
    await node.stop()


@in_database
async def test_the_parts_of_a_beat_are_overdue_by_name(node: LiveNode) -> None:
    """The records fail for one connection; the other parts succeed."""
    node.steps.declare("The write of records", 1)
    node.steps.declare("The poll of bans", 1)
    assert node.recorder is not None
    for _ in range(5):
        node.recorder.record_change(make_connection("broken", now=float("-inf")))
        node.clock.advance(1)  # type: ignore[attr-defined]
        await node.beat()
    assert node.steps.find_overdue() == ["The write of records"]
    status, content = describe_health(node, READINESS, is_observer=True)
    assert (status, content["status"]) == (200, "degraded")
    (reason,) = content["reasons"]
    assert reason.endswith("3 of their intervals: The write of records")
    row = await Node.objects.aget()
    assert row.counters["overdue_steps"] == ["The write of records"]


async def test_a_node_without_overdue_steps_is_ok() -> None:
    _, content = describe_health(make_node(), READINESS, is_observer=True)
    assert content["status"] == "ok"


@in_database
async def test_a_session_that_raises_keeps_no_other_behind() -> None:
    database = SwitchableDatabase()
    fan_out = FanOut(
        database, node_id="n", redis_url=None, passes=make_node().hub.passes
    )
    broken, other = fan_out.find_or_make("broken"), fan_out.find_or_make("other")
    woken = list[str]()

    class Broken(dict[Any, Any]):
        def values(self) -> Any:
            raise RuntimeError("closed")

    broken.subscribers = Broken()
    other.subscribers = {1: lambda: woken.append("other")}
    broken.epoch = other.epoch = "an epoch that the database does not know"
    assert await fan_out.check() is False
    assert woken == ["other"]
    await fan_out.close()
    await database.close()


# The sweep


def fail_at(pattern: str) -> Callable[..., Any]:
    """Return a wrapper that lets the statements which match fail."""

    def wrap(execute: Any, sql: str, *args: Any) -> Any:
        if re.search(pattern, sql):
            raise ProgrammingError("planted")
        return execute(sql, *args)

    return wrap


PARTS = {
    "The close of idle connections": 'FROM "connections_connection".*last_activity_at',
    "The record of lost connections": r"connections_connection.*U0\W+state\W+IN",
    "The rollup of minutes": "WHERE .*unrolled",
    "The deletion of old connections": 'closed_at" <',
    "The deletion of old errors": "errorevent",
    "The deletion of old close requests": "closerequest.*created_at. < ",
    "The deletion of old nodes": 'connections_node.*stopped_at" <',
    "The deletion of old minutes": 'minuterollup.*WHERE "\\w+"."minute" <',
    "The deletion of old alerts": 'resolved_at" <',
    "The deletion of ended bans": "connections_ban",
    "The deletion of old node commands": "connections_order",
    "The evaluation of alerts": "SUM",
    "The sweep of streams_interrupted": 'FROM "\\w+entry".*INNER JOIN',
    "The sweep of chunks_folded": "sessions_history_entrychunk",
    "The sweep of append_keys_pruned": "sessions_history_appendkey",
    "The sweep of empty_sessions_pruned": 'last_offset" = ',
    "The sweep of deleted_sessions_pruned": "sessions_history_deletedsession",
    "The sweep of session_rows_pruned": 'history_session" WHERE "\\w+"."last_seen_at"',
}


@in_database
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_sweep_that_fails_stops_no_other(part: str) -> None:
    make_node_row()
    clock = FakeClock()
    sweeper = Sweeper(make_config(), clock=clock)
    sweeper.interval_seconds = 10
    sweeper.sweep()
    with connection.execute_wrapper(fail_at(PARTS[part])):
        for _ in range(4):
            clock.advance(10)
            Node.objects.live().beat()
            with pytest.raises(SweepIncomplete) as failure:
                sweeper.sweep()
            assert failure.value.parts == (part,)
    started_at = timezone.now() - timedelta(hours=1)
    Node.objects.update(started_at=started_at)
    measurements = read_measurements()
    assert measurements.overdue_steps == [part]
    Evaluator([RULES["step_overdue"]]).evaluate(measurements)
    alert = Alert.objects.get(rule="step_overdue")
    assert (alert.state, alert.value, alert.detail) == ("pending", 1, part)
    sweeper.sweep()
    sweeper.sweep()  # A row holds the alerts' success of the sweep before.
    assert read_measurements().overdue_steps == []


@in_database
def test_a_sweeper_that_stopped_is_overdue_as_a_whole() -> None:
    now = timezone.now()
    make_node_row(started_at=now - timedelta(hours=1))
    result = {"interval_seconds": 10, "ages": {"The deletion of ended bans": 0}}
    sweep = Sweep.objects.create(
        name="connections", finished_at=now - timedelta(seconds=29), result=result
    )
    assert read_measurements().overdue_steps == []
    sweep.finished_at = now - timedelta(seconds=31)
    sweep.save()
    assert read_measurements().overdue_steps == ["The sweep"]
    Node.objects.update(started_at=now)  # The cluster was off until now.
    assert read_measurements().overdue_steps == []


@in_database
def test_a_single_sweep_expects_no_other() -> None:
    make_node_row(started_at=timezone.now() - timedelta(hours=1))
    Sweeper(make_config()).sweep_once()
    Sweep.objects.update(finished_at=timezone.now() - timedelta(hours=1))
    assert read_measurements().overdue_steps == []


@in_database
async def test_a_node_names_the_overdue_parts_of_the_sweep(node: LiveNode) -> None:
    now = timezone.now()
    make = database_sync_to_async(make_node_row)
    await make(
        started_at=now - timedelta(hours=1), counters={"overdue_steps": ["The beat"]}
    )
    ages = {"The deletion of ended bans": 3600, "The rollup of minutes": 0}
    await Sweep.objects.acreate(
        name="connections",
        finished_at=now,
        result={"interval_seconds": 10, "ages": ages},
    )
    assert node.cluster_monitor is not None
    await node.cluster_monitor.refresh()
    _, content = describe_health(node, READINESS, is_observer=True)
    assert content["status"] == "degraded"
    assert content["reasons"][0].endswith("intervals: The deletion of ended bans")
    alert = await Alert.objects.aget(rule="step_overdue")
    assert (alert.value, alert.detail) == (2, "The beat; The deletion of ended bans")


@in_database
def test_a_repeated_sweep_reports_its_interval() -> None:
    make_node_row()

    class Once:
        is_over = False

        def is_set(self) -> bool:
            return self.is_over

        def wait(self, timeout: float | None = None) -> bool:
            self.is_over = True
            return True

    run_sweeper(Sweeper(make_config()), 7, Once())  # type: ignore[arg-type]
    assert Sweep.objects.get().result["interval_seconds"] == 7
