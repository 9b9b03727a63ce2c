"""Test the presence of a thousand clients whose node is killed, on real sockets."""

import asyncio
import json
import time
from typing import Any

import pytest

from connections.testing import TEXT, RawClient, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

MEMBERS = 1000
RETURNING = 150
OPENED_AT_ONCE = 25
LEASE_SECONDS = scale(3)
LINGER_SECONDS = scale(4)
CONFIG = {
    "anonymous": "true",
    # These clients answer no pings.
    "ping_timeout_seconds": 3600,
    "max_total_connections": 3 * MEMBERS,
    "node__beat_seconds": 0.5,
    "presence__lease_seconds": LEASE_SECONDS,
    "presence__linger_seconds": LINGER_SECONDS,
    "handshake__per_address_per_second": 100_000,
    "handshake__per_address_burst": 100_000,
}


class Watcher:
    """A client in the room, and what it was told."""

    def __init__(self, client: RawClient) -> None:
        self.names: dict[str, str] = {}
        self.joined: list[str] = []
        self.left: list[str] = []
        self._client = client
        self.reading = asyncio.create_task(self._read())

    def knows_left(self, count: int) -> bool:
        """Return whether so many have left; raise what broke the reading."""
        if self.reading.done():
            self.reading.result()
        return len(self.left) >= count

    async def _read(self) -> None:
        while True:
            frame = await self._client.read_frame(seconds=3600)
            if frame.opcode != TEXT:
                continue
            event: dict[str, Any] = json.loads(frame.payload)
            assert event["type"] != "presence.gap", event
            assert len(event.get("members", ())) <= 200
            for one in event.get("members", ()):
                if event["type"] == "presence.joined":
                    self.names[one["member"]] = one["data"]["name"]
                    self.joined.append(one["data"]["name"])
                else:
                    self.left.append(self.names[one["member"]])


async def open_members(port: int, url: str, names: list[str]) -> None:
    """Open a connection for each name, some at once."""
    turn = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_one(name: str) -> None:
        async with turn:
            await RawClient.open(port, f"/presence/?{name}", f"Origin: {url}")

    await asyncio.gather(*map(open_one, names))


PRESENT = """
from asgiref.sync import async_to_sync
from connections.presence import get_present
present = async_to_sync(get_present)("lobby")
print(*sorted(one.data["name"] for one in present))
"""


@pytest.fixture(params=["redis", "postgresql"])
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of nodes that share presence there."""
    if request.param == "redis":
        redis: RedisProcess = request.getfixturevalue("redis_process")
        return {"REDIS_URL": redis.url}
    postgres: PostgresProcess = request.getfixturevalue("migrated_postgres")
    url = postgres.create_database("presence_nodes", template="migrated")
    return {"DATABASE_URL": url}


async def test_a_killed_nodes_room_empties_and_nobody_who_came_back_has_left(
    servers: Servers, shared: dict[str, str]
) -> None:
    first, killed = servers.start_pair(
        config=CONFIG,
        environment={
            "DJANGO_SETTINGS_MODULE": "tests.integration.consumers_settings",
            **shared,
        },
        arguments=("--no-sweeper",),
    )
    path = "/presence/?watcher"
    watcher = Watcher(await RawClient.open(first.port, path, f"Origin: {first.url}"))
    await wait_until(lambda: watcher.joined == ["watcher"])
    members = [f"m{number}" for number in range(MEMBERS)]
    await open_members(killed.port, killed.url, members)
    await wait_until(lambda: len(watcher.joined) == MEMBERS + 1)
    assert sorted(watcher.joined) == sorted([*members, "watcher"])
    killed.kill()
    killed_at = time.monotonic()
    returning, gone = members[:RETURNING], members[RETURNING:]
    await open_members(first.port, first.url, returning)
    assert watcher.left == []
    await wait_until(lambda: watcher.knows_left(len(gone)), 60)
    seconds = time.monotonic() - killed_at
    assert seconds < LEASE_SECONDS + LINGER_SECONDS + scale(3)
    assert sorted(watcher.left) == sorted(gone)
    assert len(watcher.joined) == MEMBERS + 1
    present = await asyncio.to_thread(first.manage, "shell", "-v0", "-c", PRESENT)
    assert present.split() == sorted([*returning, "watcher"])
    watcher.reading.cancel()


COUNT = """
from asgiref.sync import async_to_sync
from connections.presence import count
assert async_to_sync(count)("lobby") == 11
"""


async def test_workers_on_postgresql_share_presence(
    servers: Servers, migrated_postgres: PostgresProcess
) -> None:
    """Events reach the clients of all workers, and a command knows all clients."""
    database = "presence_workers"
    migrated_postgres.create_database(database, template="migrated")
    server = servers.start(
        config=CONFIG,
        environment={
            "DATABASE_URL": migrated_postgres.url(database),
            "DJANGO_SETTINGS_MODULE": "tests.integration.consumers_settings",
        },
        arguments=("--workers", "2", "--no-sweeper"),
    )
    path = "/presence/?watcher"
    watcher = Watcher(await RawClient.open(server.port, path, f"Origin: {server.url}"))
    await wait_until(lambda: watcher.joined == ["watcher"])
    members = [f"m{number}" for number in range(10)]
    await open_members(server.port, server.url, members)
    await wait_until(lambda: sorted(watcher.joined) == sorted([*members, "watcher"]))
    assert "without_" not in server.log()
    await asyncio.to_thread(server.manage, "shell", "-c", COUNT)
    watcher.reading.cancel()
