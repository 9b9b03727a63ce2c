"""The beat of a node, the close requests it applies, and how it drains."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.utils import timezone

from connections import models
from connections.models import CloseRequest, Connection
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config, make_node
from tests.connections.conversations import (
    Echo,
    JsonEcho,
    open_connection,
    receive_close,
    receive_type,
)

pytestmark = pytest.mark.django_db(transaction=True)


async def post(**values: Any) -> None:
    request = CloseRequest(**values)
    await database_sync_to_async(CloseRequest.objects.post)([request])


async def test_a_beat_moves_the_counter_of_the_nodes_row(recording: Node) -> None:
    await recording.beat()
    first = await models.Node.objects.aget(node_id=recording.node_id)
    await recording.beat()
    second = await models.Node.objects.aget(node_id=recording.node_id)
    assert (first.state, first.generation) == ("serving", 1)
    assert second.beat == first.beat + 1


async def test_a_node_taken_for_dead_comes_back_with_its_connections(
    recording: Node,
) -> None:
    communicator = await open_connection(Echo, recording)
    await recording.beat()
    node = await models.Node.objects.aget()
    await database_sync_to_async(models.Node.objects.mark_lost)(node)
    assert len(await database_sync_to_async(Connection.objects.mark_lost)(500)) == 1
    assert (await Connection.objects.aget()).reason == "lost"
    await recording.beat()
    row = await Connection.objects.aget()
    assert (row.closed_at, row.close_code, row.reason) == (None, None, "")
    node = await models.Node.objects.aget()
    assert (node.state, node.generation, node.stopped_at) == ("serving", 2, None)
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("client", "alice"),
        ("address", "192.0.2.0/24"),
        ("all", ""),
    ],
)
async def test_a_close_request_ends_the_connections_it_selects(
    recording: Node, target: str, value: str
) -> None:
    communicator = await open_connection(
        JsonEcho, recording, client=["192.0.2.7", 1234]
    )
    await post(target=target, value=value, reason="kicked", author="test")
    await recording.beat()
    assert (await receive_type(communicator, "bye"))["reason"] == "kicked"
    assert (await receive_close(communicator))["code"] == 4009
    await communicator.disconnect()


async def test_a_close_request_leaves_others_alone(recording: Node) -> None:
    communicator = await open_connection(Echo, recording)
    await post(target="client", value="bob", reason="kicked")
    await post(target="address", value="not an address", reason="kicked")
    await post(target="node", value="another", reason="kicked")
    await recording.beat()
    await recording.beat()
    await communicator.send_to(text_data="here")
    assert await communicator.receive_from() == "here"
    await communicator.disconnect()


async def test_a_connection_after_a_close_request_stays(recording: Node) -> None:
    await post(target="client", value="alice", reason="asked_to_reconnect")
    await recording.beat()
    assert isinstance(recording.clock, FakeClock)
    recording.clock.advance(1)
    communicator = await open_connection(Echo, recording)
    await recording.beat()
    await communicator.send_to(text_data="here")
    assert await communicator.receive_from() == "here"
    await communicator.disconnect()


async def test_an_old_close_request_is_not_applied(recording: Node) -> None:
    communicator = await open_connection(Echo, recording)
    old = timezone.now() - timedelta(seconds=61)
    await post(target="all", reason="kicked", created_at=old)
    await recording.beat()
    assert next(iter(recording.hub)).close_reason is None
    await communicator.disconnect()


async def test_a_node_does_not_end_an_active_connection_as_idle(
    recording: Node,
) -> None:
    communicator = await open_connection(Echo, recording)
    await recording.beat()
    assert isinstance(recording.clock, FakeClock)
    recording.clock.advance(20)
    await communicator.send_to(text_data="x")
    await communicator.receive_from()
    live = next(iter(recording.hub))
    await post(
        target="connection", value=live.connection_id, reason="idle", idle_seconds=10
    )
    before = (await Connection.objects.aget()).last_activity_at
    await recording.beat()
    await recording.beat()
    assert live.close_reason is None
    assert (await Connection.objects.aget()).last_activity_at > before
    recording.clock.advance(10)
    await post(
        target="connection", value=live.connection_id, reason="idle", idle_seconds=10
    )
    await recording.beat()
    assert (await receive_close(communicator))["code"] == 4300
    await communicator.disconnect()


async def test_a_second_stop_waits_for_the_first() -> None:
    """A drain that ends and a lifespan may both stop a node, then the process ends."""
    node = Node(make_config(), database=Database())
    await node.start()
    communicator = await open_connection(Echo, node)
    await communicator.disconnect()
    first = asyncio.ensure_future(node.stop())
    await asyncio.sleep(0)
    await node.stop()
    row = await models.Node.objects.aget()
    assert row.state == row.State.STOPPED
    await first


async def test_a_stopped_node_is_recorded_as_stopped() -> None:
    node = Node(make_config(), database=Database())
    await node.start()
    communicator = await open_connection(Echo, node)
    await communicator.disconnect()
    await node.stop()
    row = await models.Node.objects.aget()
    assert (row.state, row.open_connections) == ("stopped", 0)
    assert (await Connection.objects.aget()).reason == "closed"


async def test_a_drain_announces_at_once_and_closes_in_turn() -> None:
    node = make_node(drain={"grace_seconds": 60})
    communicators = [
        await open_connection(JsonEcho, node, client_id=str(n)) for n in range(4)
    ]
    draining = asyncio.create_task(node.drain())
    byes = [await receive_type(one, "bye") for one in communicators]
    assert (await node.get_usage()).slots == 0
    assert len({bye["after_ms"] for bye in byes}) == 4
    assert all(bye["reason"] == "draining" and bye["resume"] for bye in byes)
    for communicator in communicators:
        closed = await receive_close(communicator)
        assert (closed["code"], closed["reason"]) == (4200, "draining")
        await communicator.disconnect()
    await draining
    assert len(node.hub) == 0


async def test_a_draining_node_refuses_new_connections() -> None:
    node = make_node()
    node.begin_drain()
    late = connect_to(JsonEcho, node)
    await late.connect()
    assert (await receive_type(late, "bye"))["code"] == 4200
    await late.disconnect()


async def test_a_drain_aborts_connections_that_do_not_leave() -> None:
    node = make_node(drain={"grace_seconds": 0.1}, evict_grace_seconds=30)
    communicator = await open_connection(Echo, node)
    await node.drain()
    # A drain itself waits for an aborted connection no longer than a second.
    await node.hub.emptied.wait()
    await communicator.wait()
