"""Nodes carry out the commands of staff: drain, serve, notice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.hub.hub import Hub
from connections.models import NodeCommand
from connections.node.commands import AppliedCommands
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import wait_until
from connections.testing.communicators import connect_to, make_config
from connections.testing.waiting import scale
from tests.connections.conversations import Echo, JsonEcho, receive_type
from tests.connections.live_connections import SilentSender, make_connection

pytestmark = pytest.mark.django_db(transaction=True)


class Case:
    """A hub, and the commands that its node has carried out."""

    def __init__(self, database: Database) -> None:
        self.hub = Hub()
        self.database = database
        self.done: list[str] = []
        self.may_end = asyncio.Event()
        self.commands = AppliedCommands(
            hub=self.hub,
            database=database,
            node_id="n1",
            drain=self._drain,
            serve=lambda: self.done.append("serve"),
        )

    async def _drain(self) -> None:
        self.done.append("drain")
        await self.may_end.wait()
        self.done.append("drained")

    async def post(self, **values: Any) -> NodeCommand:
        command = NodeCommand(author="admin", **values)
        await self.database.write(command.save)
        await self.commands.poll()
        await asyncio.sleep(0)
        await self.database.read(command.refresh_from_db)
        return command


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    database = Database()
    yield Case(database)
    await database.close()


async def test_a_notice_is_sent_once_and_counted(case: Case) -> None:
    alice, bob = SilentSender(), SilentSender()
    case.hub.join(make_connection("a", sender=alice))
    case.hub.join(make_connection("b", client_id="bob", sender=bob))
    command = await case.post(
        kind="notice", target="client", value="alice", text="Back at <noon>."
    )
    await case.commands.poll()
    (notice,) = alice.sent
    assert (notice["type"], notice["text"]) == ("notice", "Back at <noon>.")
    assert bob.sent == []
    assert (command.nodes, command.reached, command.unreached) == (1, 1, 0)


async def test_a_drain_is_carried_out_by_its_node_alone(case: Case) -> None:
    await case.post(kind="drain", target="node", value="n2")
    assert case.done == []
    command = await case.post(kind="drain", target="node", value="n1")
    assert case.done == ["drain"]
    assert command.nodes == 1


async def test_a_node_returns_to_service_during_a_drain(case: Case) -> None:
    await case.post(kind="drain", target="node", value="n1")
    await case.post(kind="serve", target="node", value="n1")
    case.may_end.set()
    await asyncio.sleep(0)
    assert case.done == ["drain", "serve"]


async def test_a_stop_does_not_wait_for_a_drain(case: Case) -> None:
    await case.post(kind="drain", target="node", value="n1")
    async with asyncio.timeout(scale(15)):
        await case.commands.stop()
    case.may_end.set()
    await asyncio.sleep(0)
    assert case.done == ["drain"]


async def test_an_old_command_is_not_carried_out(case: Case) -> None:
    old = timezone.now() - timedelta(minutes=5)
    command = await case.post(kind="drain", target="node", value="n1", created_at=old)
    assert case.done == [] and command.nodes == 0


async def test_a_notice_reaches_clients_that_speak_json() -> None:
    """Consumers that speak no JSON are counted as unreached."""
    database = Database()
    node = Node(make_config(), database=database)
    try:
        await node.start()
        spoken, plain = connect_to(JsonEcho, node), connect_to(Echo, node)
        await spoken.connect()
        await plain.connect()
        command = NodeCommand(kind="notice", target="all", text="hello", author="admin")
        await database.write(command.save)
        await node.beat()
        assert (await receive_type(spoken, "notice"))["text"] == "hello"
        assert await plain.receive_nothing()

        async def is_recorded() -> bool:
            await database.read(command.refresh_from_db)
            return command.nodes == 1

        # The node's own beat may have taken it, and records it a moment later.
        await wait_until(is_recorded)
        assert (command.reached, command.unreached) == (1, 1)
    finally:
        await node.stop()
