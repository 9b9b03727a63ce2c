"""Test the table of other servers in docs/topics/below_asgi.md on those servers."""

import asyncio
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from connections.models import Connection, Node
from connections.testing import LiveServer, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.project import ProjectServers

MISSING = [
    name
    for name in ("hypercorn", "granian", "gunicorn", "uvicorn_worker")
    if find_spec(name) is None
]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"NOT RUN: no {', '.join(MISSING)}; requirements/tests.txt has them",
)

UNPROTECTED = "tests.integration.unprotected:application"
PROTECTED = "tests.integration.unprotected:protected"
CHAT = "/ws/chat/lobby/"
CONFIG = {
    "anonymous": "true",
    "max_connections_per_client": 2,
    "idle_timeout_seconds": scale(2),
    "drain__grace_seconds": 2,
    "drain__delay_seconds": 0,
    "node__beat_seconds": 0.2,
    "trusted_proxies": '["127.0.0.1"]',
}
HOMES = [
    (command, application)
    for command in ("hypercorn", "granian", "gunicorn")
    for application in (UNPROTECTED, PROTECTED)
]
on_each = pytest.mark.parametrize("home", HOMES, ids="-".join)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[ProjectServers]:
    servers = ProjectServers(tmp_path_factory.mktemp("other"), migrated_database)
    yield servers
    servers.stop_all()


@pytest.fixture(scope="module")
def homes(running: ProjectServers) -> dict[tuple[str, str], LiveServer]:
    """One server for each of HOMES, started together."""
    return {home: start(running, *home) for home in HOMES}


@pytest.fixture
def server(
    homes: dict[tuple[str, str], LiveServer], home: tuple[str, str]
) -> Iterator[LiveServer]:
    """The server of a home, which a test may stop."""
    homes[home].wait_ready()
    yield homes[home]
    if not homes[home].is_running:
        homes[home].start(is_ready=False)


SAID = {
    "hypercorn": "It sends no pings; it compresses when a client offers it",
    "granian": "It sends no pings; it compresses never",
    "gunicorn": "It sends pings every 20 s with a time-out of 20 s; it compresses when",
}
"""What the log says about the settings in force."""


def start(
    running: ProjectServers, command: str, application: str, **options: Any
) -> LiveServer:
    options = {"config": CONFIG, **options}
    return running.start(
        command=command, application=application, is_ready=False, **options
    )


def open_chat(server: LiveServer, address: str) -> Any:
    """Connect as a proxy does for a client at an address."""
    headers = {"X-Forwarded-For": address}
    return server.connect(CHAT, headers=headers, origin=server.url)


async def chat(connection: ClientConnection) -> None:
    await connection.send('{"message": "hi"}')
    async with asyncio.timeout(scale(10)):
        assert json.loads(await connection.recv()) == {"message": "hi"}


def find_reasons(server: LiveServer, address: str) -> list[str]:
    found = Connection.objects.filter(client_id=f"address:{address}")
    return server.run(lambda: sorted(found.values_list("reason", flat=True)))


@on_each
async def test_the_oldest_is_evicted_and_recorded(
    server: LiveServer, home: tuple[str, str]
) -> None:
    address = "198.51.100.1"
    clients = [await open_chat(server, address) for _ in range(3)]
    closing = await read_close(clients[0])
    assert (closing.code, closing.reason) == (4005, "evicted")
    await chat(clients[1])
    await asyncio.gather(*(one.close() for one in clients))
    await wait_until(lambda: find_reasons(server, address).count("evicted") == 1)
    name = home[0].replace("gunicorn", "uvicorn")
    assert f"Under {name} these are not enforced" in server.log()
    assert SAID[home[0]] in server.log()


async def test_idle_connections_end(
    homes: dict[tuple[str, str], LiveServer],
) -> None:
    for server in homes.values():
        server.wait_ready()
    opened = [await open_chat(one, "198.51.100.2") for one in homes.values()]
    closings = await asyncio.gather(*map(read_close, opened))
    assert {closing.code for closing in closings} == {4300}


@on_each
async def test_compression_is_what_the_server_answers(
    server: LiveServer, home: tuple[str, str]
) -> None:
    async with open_chat(server, "198.51.100.3") as client:
        is_compressed = "sec-websocket-extensions" in client.response.headers
        assert is_compressed == (home[0] != "granian")


STOPS = {
    ("hypercorn", UNPROTECTED): (1011, {"closed"}),
    ("hypercorn", PROTECTED): (1011, {"closed"}),
    # It ends the process at once: the record is written by then, or by a sweeper.
    ("granian", UNPROTECTED): (1006, {"", "closed"}),
    ("granian", PROTECTED): (1006, {"closed"}),
    ("gunicorn", UNPROTECTED): (4200, {"draining"}),
    ("gunicorn", PROTECTED): (4200, {"draining"}),
}
"""The close code that a client gets at SIGTERM, and the possible reasons recorded."""


@on_each
async def test_a_stop_is_what_the_table_says(
    server: LiveServer, home: tuple[str, str]
) -> None:
    address = "198.51.100.4"
    client = await open_chat(server, address)
    await chat(client)
    await wait_until(lambda: find_reasons(server, address) == [""])
    await asyncio.to_thread(server.terminate)
    closing = await read_close(client)
    code, reasons = STOPS[home]
    assert closing.code == code
    (reason,) = find_reasons(server, address)
    assert reason in reasons


@pytest.mark.parametrize("command", ["hypercorn", "granian", "gunicorn"])
async def test_a_server_that_is_stopped_leaves_no_worker(
    running: ProjectServers, command: str
) -> None:
    server = start(running, command, PROTECTED, config=CONFIG)
    await asyncio.to_thread(server.wait_ready)
    await asyncio.to_thread(server.stop)

    def is_gone() -> bool:
        try:
            os.killpg(server.pid, 0)
        except ProcessLookupError:
            return True
        return False

    await wait_until(is_gone)


async def test_two_workers_of_gunicorn_without_a_shared_pool_are_refused(
    running: ProjectServers,
) -> None:
    server = start(running, "gunicorn", PROTECTED, arguments=("--workers", "2"))
    assert await asyncio.to_thread(server.wait) != 0
    assert "another node serves on this database" in server.log()


@pytest.mark.parametrize("application", [UNPROTECTED, PROTECTED])
async def test_two_workers_of_gunicorn_share_limits_in_redis(
    running: ProjectServers, redis_process: RedisProcess, application: str
) -> None:
    server = start(
        running,
        "gunicorn",
        application,
        arguments=("--workers", "2"),
        environment={"REDIS_URL": redis_process.url},
        config=CONFIG | {"pool": "redis", "idle_timeout_seconds": 600},
    )
    await asyncio.to_thread(server.wait_ready)
    clients: list[ClientConnection] = []
    while server.run(Node.objects.live().filter(open_connections__gt=0).count) < 2:
        clients.append(await open_chat(server, f"198.51.100.{len(clients)}"))
        await chat(clients[-1])
        assert len(clients) < 200
    shared = [await open_chat(server, "192.0.2.1") for _ in range(6)]
    for evicted in shared[:4]:
        assert (await read_close(evicted)).code == 4005
    await asyncio.gather(*map(chat, shared[4:]))
    await asyncio.gather(*(one.close() for one in clients + shared))
