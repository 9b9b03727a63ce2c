"""Test that handshakes which a limit refuses are recorded, and only those."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connections.close_codes import POOL_FULL
from connections.connection.scope import connection_from_scope
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import CLOSED_SENDER, LiveConnection
from connections.limits import Limits
from connections.models import RefusedHandshake
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config
from tests.connections.conversations import Echo
from tests.connections.switchable_database import SwitchableDatabase

SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Node]]:
    databases = []

    def make(**values: Any) -> Node:
        databases.append(database := SwitchableDatabase())
        return Node(make_config(**values), database=database, clock=FakeClock())

    yield make
    for database in databases:
        await database.close()


async def open_two(node: Node) -> list[Any]:
    opened = [connect_to(Echo, node, route="ws/echo/") for _ in range(2)]
    for communicator in opened:
        assert (await communicator.connect())[0]
    return opened


def read_rows() -> Any:
    return RefusedHandshake.objects.values_list("route", "reason", "count")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_total_connections": 1}, "pool_full"),
        (
            {"max_connections_per_client": 1, "on_client_limit": "refuse"},
            "client_full",
        ),
    ],
)
async def test_a_refused_handshake_is_recorded_at_the_next_beat(
    make: Any, values: dict[str, Any], reason: str
) -> None:
    node = make(**values)
    opened = await open_two(node)
    await node.beat()
    assert [row async for row in read_rows()] == [("ws/echo/", reason, 1)]
    for communicator in opened:
        await communicator.disconnect()


async def test_a_handshake_that_an_observed_limit_admits_is_not(make: Any) -> None:
    node = make(max_total_connections=1, enforce={"total": "observe"})
    opened = await open_two(node)
    await node.beat()
    assert not await RefusedHandshake.objects.aexists()
    for communicator in opened:
        await communicator.disconnect()


def make_handshake(node: Node, client_id: str) -> LiveConnection:
    limits = Limits.configured(node.config)
    return connection_from_scope({}, client_id, node, CLOSED_SENDER, limits)


async def test_a_second_of_a_client_is_one_row_that_an_outage_keeps(
    make: Any,
) -> None:
    node = make()
    handshake = make_handshake(node, "alice")
    node.refusals.record(handshake, POOL_FULL)
    node.database.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await node.refusals.flush()
    node.refusals.record(handshake, POOL_FULL)
    node.database.is_away = False
    await node.refusals.flush()
    await node.refusals.flush()
    row = await RefusedHandshake.objects.aget()
    assert (row.client_id, row.count) == ("alice", 2)


async def test_a_storm_is_counted_in_a_bounded_number_of_rows(make: Any) -> None:
    node = make()
    handshake = make_handshake(node, "")
    for number in range(6000):
        # A database that is away, for a part of an hour.
        seconds = max(0, number - 4999)
        handshake.opened_at = datetime(2026, 1, 1, tzinfo=UTC) + seconds * SECOND
        handshake.client_id = f"client-{number}"
        node.refusals.record(handshake, POOL_FULL)
    await node.refusals.flush()
    counts = [row.count async for row in RefusedHandshake.objects.all()]
    assert (sum(counts), len(counts)) == (6000, 5001)
    last = await RefusedHandshake.objects.aget(client_id="")
    assert last.count == 1000
    assert last.at == datetime(2026, 1, 1, tzinfo=UTC) + SECOND
