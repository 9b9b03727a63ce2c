"""Test what a node reports by itself: a full pool, and a database that is away."""

import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.core import mail
from django.db import OperationalError

from connections.alerts.database_down import DatabaseDownAlert
from connections.alerts.email import deliver
from connections.alerts.measurements import read_measurements
from connections.consumers import LimitedJsonConsumer
from connections.exceptions import DatabaseUnavailable
from connections.models import Alert
from connections.node.health import READINESS, describe_health
from connections.node.own_alerts import OwnAlerts
from connections.pool.local import LocalPool
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import (
    Communicator,
    VirtualNode,
    connect_to,
    make_config,
    make_node,
)
from tests.connections.conversations import receive_type
from tests.connections.mail_backends import BROKEN, LOCMEM, use_backend
from tests.connections.rows import make_node_row

CONFIG = make_config(alert_recipients=["duty@example.com"])


def read_messages(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.__dict__.get("event") == event
    ]


# The full pool


class Silent(LimitedJsonConsumer):
    """Accepts, and does nothing."""


@pytest.fixture
async def full() -> AsyncIterator[VirtualNode]:
    """A node whose three slots are taken: two by alice, one by bob."""
    node = make_node(max_total_connections=3)
    opened = [connect_to(Silent, node, name) for name in ("alice", "alice", "bob")]
    for one in opened:
        await one.connect()
    yield node
    for one in opened:
        await one.disconnect()


async def refuse(node: VirtualNode, times: int = 1) -> None:
    """Let new clients come that find no slot."""
    for _ in range(times):
        late = connect_to(Silent, node, "carol")
        await late.connect()
        assert (await receive_type(late, "bye"))["code"] == 4103
        await late.disconnect()


async def watch(node: VirtualNode, seconds: int = 1) -> None:
    """Let the node measure and watch once a second."""
    for _ in range(seconds):
        await node.advance(1)
        await node.meter.tick()
        await node.own_alerts.full_pool.poll()


def read_reasons(node: VirtualNode) -> list[str]:
    status, content = describe_health(node, READINESS, is_observer=True)
    assert status == 200
    assert (content["status"] == "degraded") is bool(content["reasons"])
    reasons: list[str] = content["reasons"]
    return reasons


async def test_a_full_pool_is_logged_at_once_and_then_every_minute(
    full: VirtualNode, caplog: pytest.LogCaptureFixture
) -> None:
    await watch(full)
    assert not read_messages(caplog, "pool_full")
    for _ in range(130):
        await refuse(full)
        await watch(full)
    first, second, third = read_messages(caplog, "pool_full")
    assert first == (
        "The pool is full: 1 refused in the last minute, 3 of 3 slots are taken,"
        " 1 client holds 2"
    )
    assert second.startswith("The pool is full: 60 refused in the last minute")
    assert third.startswith("The pool is full: 60 refused in the last minute")
    assert not read_messages(caplog, "pool_has_room")
    await watch(full, 62)
    assert len(read_messages(caplog, "pool_full")) == 4
    (room,) = read_messages(caplog, "pool_has_room")
    assert room.endswith("no handshake for a minute, after 129 s of refusals")


async def test_clients_that_hold_as_much_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node(max_total_connections=4)
    opened = [connect_to(Silent, node, name) for name in ("a", "b", "a", "b")]
    for one in opened:
        await one.connect()
    await refuse(node, 2)
    await watch(node)
    (line,) = read_messages(caplog, "pool_full")
    assert line.endswith(
        "2 refused in the last minute, 4 of 4 slots are taken, 2 clients hold 2 each"
    )
    for one in opened:
        await one.disconnect()


async def test_a_full_pool_is_a_reason_on_readyz(full: VirtualNode) -> None:
    await refuse(full, 2)
    await watch(full)
    assert read_reasons(full) == [
        "the pool is full: 2 refused in the last minute, 3 of 3 slots are taken,"
        " 1 client holds 2"
    ]


async def test_a_pool_with_room_is_no_reason() -> None:
    node = make_node(max_total_connections=3)
    client: Communicator = connect_to(Silent, node)
    await client.connect()
    await node.get_usage()
    await watch(node)
    assert read_reasons(node) == []
    await client.disconnect()


@pytest.mark.django_db
def test_the_alerts_name_the_nodes() -> None:
    text = "9 refused in the last minute, 3 of 3 slots are taken"
    counters = {"pool_full": text, "recent": {"pool_full": 9}}
    make_node_row("n1", counters=counters)
    make_node_row("n2", host="w", pid=7, degraded="Error 111")
    covered = {"pool_lost_with_database": True}
    make_node_row("n3", degraded="PostgreSQL does not answer", counters=covered)
    measurements = read_measurements()
    assert measurements.recent["pool_full"] == 9
    assert measurements.full_pools == [f"node h:1: {text}"]
    assert measurements.degraded_pools == ["node w:7: Error 111"]


# The database


def fail(message: str = "connection refused") -> None:
    raise OperationalError(message)


def write_row() -> None:
    make_node_row(os.urandom(16).hex())


class Outage:
    """A node's alert on its database, which the test takes away."""

    def __init__(self, config: Any = CONFIG) -> None:
        self.clock = FakeClock()
        self.database = Database()
        self.alert = DatabaseDownAlert(
            config, place="web1:42", database=self.database, clock=self.clock
        )

    async def pass_by(self, seconds: int, *, is_away: bool) -> None:
        """Let time pass; the node uses its database once a second."""
        for _ in range(seconds):
            self.clock.advance(1)
            if is_away:
                with pytest.raises(DatabaseUnavailable):
                    await self.database.write(fail)
            else:
                await self.database.write(write_row)
            await self.alert.poll()
            await self.alert.wait_mailed()


@pytest.fixture
async def outage(settings: Any, transactional_db: None) -> AsyncIterator[Outage]:
    use_backend(settings, LOCMEM)
    made = Outage()
    yield made
    await made.alert.stop()
    await made.database.close()


async def test_an_outage_is_logged_and_mailed_once_without_the_database(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await outage.pass_by(10, is_away=True)
    assert not mail.outbox
    await outage.pass_by(200, is_away=True)
    (line,) = read_messages(caplog, "alert_firing")
    assert line == (
        "Alert database_down firing: 1 node, threshold 1 node (critical):"
        " node web1:42: the database does not answer"
    )
    (sent,) = mail.outbox
    assert sent.subject == "FIRING: database_down"
    assert "Detail: node web1:42: the database does not answer" in sent.body


async def test_the_recovery_is_recorded_and_mailed(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await outage.pass_by(20, is_away=True)
    await outage.pass_by(20, is_away=False)
    assert len(read_messages(caplog, "alert_resolved")) == 1
    row = await Alert.objects.aget()
    assert (row.rule, row.state, row.mailed_state) == (
        "database_down",
        "resolved",
        "firing",
    )
    assert await database_sync_to_async(deliver)(CONFIG) == 1
    subjects = [one.subject for one in mail.outbox]
    assert subjects == ["FIRING: database_down", "RESOLVED: database_down"]


async def test_a_database_that_flaps_is_one_outage(outage: Outage) -> None:
    await outage.pass_by(11, is_away=True)
    for _ in range(20):
        await outage.pass_by(3, is_away=False)
        await outage.pass_by(3, is_away=True)
    await outage.pass_by(20, is_away=False)
    assert len(mail.outbox) == 1
    assert await Alert.objects.acount() == 1


async def test_a_short_failure_is_no_outage(outage: Outage) -> None:
    for _ in range(5):
        await outage.pass_by(8, is_away=True)
        await outage.pass_by(2, is_away=False)
    assert not mail.outbox
    assert not await Alert.objects.aexists()


async def test_a_mail_that_fails_is_tried_again_after_a_minute(
    outage: Outage, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    use_backend(settings, BROKEN)
    await outage.pass_by(20, is_away=True)
    assert len(read_messages(caplog, "alert_not_mailed")) == 1
    use_backend(settings, LOCMEM)
    await outage.pass_by(60, is_away=True)
    assert [one.subject for one in mail.outbox] == ["FIRING: database_down"]


async def test_a_disabled_rule_reports_no_outage(settings: Any) -> None:
    use_backend(settings, LOCMEM)
    rules = [{"name": "database_down", "enabled": False}]
    made = Outage(make_config(alert_recipients=["duty@example.com"], alerts=rules))
    await made.pass_by(30, is_away=True)
    assert not mail.outbox
    await made.database.close()


@pytest.mark.parametrize("is_in_database", [True, False])
async def test_the_alert_of_the_database_covers_its_pool_until_that_is_back(
    settings: Any, transactional_db: None, is_in_database: bool
) -> None:
    """The pool may return a moment later than the rest of the database."""
    node, pool, database = make_node(), LocalPool(max_total=3), Database()
    own = OwnAlerts(
        CONFIG,
        hub=node.hub,
        meter=node.meter,
        pool=pool,
        is_pool_in_database=is_in_database,
        get_usage=lambda: None,
        read_usage=pool.get_usage,
        database=database,
        clock=FakeClock(),
    )
    assert own.database_down is not None
    pool.degraded_reason = "PostgreSQL does not answer"
    assert not own.covers_pool()
    with pytest.raises(DatabaseUnavailable):
        await database.write(fail)
    await own.database_down.poll()
    assert own.covers_pool() is is_in_database
    await database.write(write_row)
    await own.database_down.poll()
    assert own.database_down.alert is None
    assert own.covers_pool() is is_in_database
    pool.degraded_reason = None
    assert not own.covers_pool()
    pool.degraded_reason = "the pool alone"
    assert not own.covers_pool()
    await database.close()
