"""Test that an answer of the database counts that came while the loop stood still."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db.backends.signals import connection_created

from connections.credentials.tokens import create_access_token, verify_access_token
from connections.hub.connection import new_connection_id
from connections.models import Connection
from connections.node.current import get_started_node
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.live_connections import make_connection
from tests.connections.login import log_in

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

in_database = database_sync_to_async

STALL_SECONDS = 2.2
"""A little more than a node waits for its database."""


class StallingDatabase(Database):
    """Answers while the event loop stands still, once for each time it is told to."""

    is_to_stall = False

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().read(self._stall_in(work), *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().write(self._stall_in(work), *args, **kwargs)

    def _stall_in(self, work: Callable[..., Any]) -> Callable[..., Any]:
        if not self.is_to_stall:
            return work
        self.is_to_stall = False
        loop = asyncio.get_running_loop()

        def run(*args: Any, **kwargs: Any) -> Any:
            loop.call_soon_threadsafe(time.sleep, STALL_SECONDS)
            return work(*args, **kwargs)

        return run


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    database = StallingDatabase()
    yield Node(make_config(), database=database, clock=FakeClock())
    await database.close()


def stall(node: Node) -> None:
    assert isinstance(node.database, StallingDatabase)
    node.database.is_to_stall = True


async def open_gate(node: Node) -> None:
    stall(node)
    await node.gate.open()


async def verify_token(node: Node) -> None:
    token, _ = await in_database(create_access_token)("phone")
    stall(node)
    assert (await node.verifier.verify_token(token)).client_id == "phone"


async def verify_session(node: Node) -> None:
    user = await User.objects.acreate(username="alice")
    key = await in_database(log_in)(user)
    stall(node)
    assert (await node.verifier.verify_session(key)).user == user


async def redeem_ticket(node: Node) -> None:
    token, _ = await in_database(create_access_token)("phone")
    credential = await node.verifier.verify_token(token)
    stall(node)
    ticket = await node.verifier.issue_ticket(credential, "")
    assert ticket is not None
    found = await node.verifier.verify_ticket(ticket, "")
    assert found.client_id == "phone"


async def reauthorise(node: Node) -> None:
    token, _ = await in_database(create_access_token)("phone")
    credential = await in_database(verify_access_token)(token)
    live = make_connection("c1", credential=credential)
    node.hub.join(live)
    node.reauthoriser.ask(live)
    stall(node)
    assert await node.reauthoriser.poll()
    assert live.close_reason is None


@pytest.mark.parametrize(
    "ask", [open_gate, verify_token, verify_session, redeem_ticket, reauthorise]
)
async def test_a_node_takes_the_answer(
    node: Node, ask: Callable[[Node], Awaitable[None]]
) -> None:
    await ask(node)


async def test_a_node_that_stops_has_written_its_records(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    assert node.recorder is not None
    node.recorder.record_change(make_connection(new_connection_id()))
    stall(node)
    await node.stop()
    assert await Connection.objects.acount() == 1
    assert "could not be written" not in caplog.text


async def test_the_first_connection_starts_the_node() -> None:
    loop = asyncio.get_running_loop()
    has_stalled = threading.Event()

    def stall_at_first(**kwargs: Any) -> None:
        is_reader = threading.current_thread().name.startswith("connections-reader")
        if is_reader and not has_stalled.is_set():
            has_stalled.set()
            loop.call_soon_threadsafe(time.sleep, STALL_SECONDS)

    connection_created.connect(stall_at_first)
    try:
        node = await get_started_node()
    finally:
        connection_created.disconnect(stall_at_first)
    assert has_stalled.is_set()
    assert node.is_running
    await node.stop()
