"""Test groups across nodes on real sockets."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connections.testing import LiveServer, RawClient, Servers, wait_until
from tests.integration.group_socket import GroupSocket
from tests.integration.redis_process import RedisProcess

MEMBERS = 1000
OPENED_AT_ONCE = 50
CONFIG = {
    "anonymous": "true",
    "max_connections_per_client": MEMBERS,
    "max_total_connections": 2 * MEMBERS,
    "handshake__per_address_per_second": 100_000,
    "handshake__per_address_burst": 100_000,
}


@pytest.fixture
def pair(
    servers: Servers, redis_process: RedisProcess, tmp_path: Path
) -> Iterator[tuple[LiveServer, LiveServer]]:
    options: dict[str, Any] = {
        "command": "daphne",
        "application": "tests.integration.consumers:application",
        "config": CONFIG,
        "environment": {
            "REDIS_URL": redis_process.url,
            "SEEN": str(tmp_path / "seen"),
        },
    }
    yield servers.start_pair(**options)


async def open_members(
    servers: tuple[LiveServer, ...], count: int
) -> list[GroupSocket]:
    turn = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_one(server: LiveServer) -> GroupSocket:
        async with turn:
            origin = f"Origin: {server.url}"
            return GroupSocket(await RawClient.open(server.port, "/group/", origin))

    chosen = [servers[number % len(servers)] for number in range(count)]
    return list(await asyncio.gather(*map(open_one, chosen)))


async def test_a_thousand_sockets_on_two_nodes_and_a_restart_of_redis(
    pair: tuple[LiveServer, LiveServer], redis_process: RedisProcess
) -> None:
    """Every member gets the messages before and after, and a gap between."""
    members = await open_members(pair, MEMBERS)
    first, second = members[:2]

    async def send_until_received(speaker: GroupSocket, word: str) -> None:
        """Send a message until every member received it; some may still be joining."""

        async def is_heard() -> bool:
            await speaker.say(word)
            await asyncio.sleep(1)
            return all(word in one.texts for one in members)

        await wait_until(is_heard, 30)

    await send_until_received(first, "before")
    await send_until_received(second, "before as well")
    redis_process.kill()
    await asyncio.sleep(1)
    redis_process.start()
    await send_until_received(first, "after")
    await send_until_received(second, "after as well")
    assert all(one.is_there for one in members)
    assert all("gap" in one.texts for one in members)
