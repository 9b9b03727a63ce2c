"""Test consumers without protect() under stock daphne and uvicorn."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from connections.models import Connection, Node
from connections.testing import LiveServer, read_close, wait_until
from connections.testing.waiting import scale
from tests.project import ProjectServers

APPLICATION = "tests.integration.unprotected:application"
CHAT = "/ws/chat/lobby/"


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("unprotected")
    running = ProjectServers(folder, migrated_database)
    yield running.start(
        command=request.param,
        application=APPLICATION,
        config={
            "max_connections_per_client": 2,
            "idle_timeout_seconds": scale(4),
            "drain__grace_seconds": 3,
            "drain__delay_seconds": 0,
            "node__beat_seconds": 0.2,
            "trusted_proxies": '["127.0.0.1"]',
            "metrics__allowed_addresses": '["127.0.0.1"]',
        },
    )
    running.stop_all()


@pytest.fixture
def restarted(server: LiveServer) -> Iterator[LiveServer]:
    """The server, which a test may stop."""
    yield server
    if not server.is_running:
        server.start()


def open_chat(server: LiveServer, address: str) -> Any:
    """Connect as a proxy does for a client at an address."""
    return server.connect(CHAT, headers={"X-Forwarded-For": address})


async def chat(connection: ClientConnection) -> None:
    await connection.send('{"message": "hi"}')
    async with asyncio.timeout(scale(10)):
        assert json.loads(await connection.recv()) == {"message": "hi"}


async def run_command(server: LiveServer, *arguments: str) -> str:
    return await asyncio.to_thread(server.call, *arguments)


def read_last(server: LiveServer) -> Any:
    return server.run(Connection.objects.order_by("-opened_at").first)


async def test_the_oldest_connection_is_evicted_and_recorded(
    server: LiveServer,
) -> None:
    clients = [await open_chat(server, "198.51.100.1") for _ in range(3)]
    # daphne sends no reason, so that assert_evicted() would miss it.
    assert (await read_close(clients[0])).code == 4005
    await chat(clients[1])
    await asyncio.gather(*(one.close() for one in clients))
    evicted = Connection.objects.filter(reason="evicted")
    await wait_until(lambda: server.run(evicted.count) == 1)
    record = server.run(evicted.get)
    assert (record.client_id, record.path) == ("address:198.51.100.1", CHAT)
    said = re.findall(r"\[node (\w+)\]: .* served without protect\(\)", server.log())
    assert said
    assert len(said) == len(set(said))


async def test_an_idle_connection_ends(server: LiveServer) -> None:
    client = await open_chat(server, "198.51.100.2")
    assert (await read_close(client)).code == 4300


async def test_a_kick_ends_a_connection(server: LiveServer) -> None:
    client = await open_chat(server, "198.51.100.3")
    await chat(client)
    mine = Connection.objects.filter(client_id="address:198.51.100.3")
    await wait_until(lambda: server.run(mine.count) == 1)
    await run_command(server, "connections", "kick", "--client", "address:198.51.100.3")
    assert (await read_close(client)).code == 4009


async def test_metrics_and_the_dashboard_count_it(server: LiveServer) -> None:
    async with (
        open_chat(server, "198.51.100.4") as client,
        httpx.AsyncClient() as browser,
    ):
        await chat(client)
        answer = await browser.get(f"{server.url}/metrics", timeout=scale(20))
        assert re.search(r"^active_websocket_connections\S* [1-9]", answer.text, re.M)
        live = Node.objects.filter(open_connections__gt=0)
        await wait_until(lambda: server.run(live.count) == 1)


async def test_a_ban_ends_a_connection_and_refuses_the_next(
    server: LiveServer,
) -> None:
    client = await open_chat(server, "198.51.100.5")
    await run_command(server, "ban", "--address", "198.51.100.5")
    assert (await read_close(client)).code == 4003
    assert (await read_close(await open_chat(server, "198.51.100.5"))).code == 4003
    await run_command(server, "unban", "--address", "198.51.100.5")


async def test_a_stop_drains(restarted: LiveServer) -> None:
    server = restarted
    client = await open_chat(server, "198.51.100.6")
    await chat(client)
    await asyncio.to_thread(server.terminate)
    assert (await read_close(client)).code == 4200
    record = read_last(server)
    assert (record.reason, record.close_code) == ("draining", 4200)
    assert server.run(Node.objects.latest, "started_at").state == Node.State.STOPPED
