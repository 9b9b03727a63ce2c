"""Several server processes that share a database and a Redis."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.processes import LiveServer, Servers
from tests.integration.redis_process import RedisProcess
from tests.integration.test_main_job import QUICK, assert_alive, closing, opened

LATE = {
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
}
"""Nodes so slow to beat that what happens in a test is no beat's doing."""


@pytest.fixture
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess().start()
    yield process
    process.remove()


def start_pair(
    servers: Servers, redis_process: RedisProcess, **config: object
) -> tuple[LiveServer, LiveServer]:
    """Start two nodes of one cluster."""
    environment = {"REDIS_URL": redis_process.url}
    first = servers.start(config=config, environment=environment)
    second = servers.start(
        config=config,
        environment=environment,
        arguments=("--no-sweeper",),
        folder=first.folder,
    )
    return first, second


async def test_a_kick_takes_effect_on_every_node_without_a_beat(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """Posted by a process that is no node."""
    pair = start_pair(servers, redis_process, **LATE)
    token, other = pair[0].create_token(), pair[0].create_token("bob")
    async with (
        opened(pair[0], token, 2) as here,
        opened(pair[1], token, 2) as there,
        opened(pair[1], other, 1) as (bystander,),
    ):
        kick = ("connections", "kick", "--client", "alice")
        await asyncio.to_thread(pair[0].manage, *kick)
        for connection in (*here, *there):
            assert await closing(connection, seconds=5) == (4009, "kicked")
        await assert_alive(bystander)


@pytest.mark.parametrize("command", ["serve", "daphne", "uvicorn"])
async def test_a_second_node_without_redis_is_refused(
    servers: Servers, command: str
) -> None:
    first = servers.start(config=QUICK)
    second = servers.start(
        command=command, folder=first.folder, config=QUICK, is_ready=False
    )
    assert await asyncio.to_thread(second.wait) != 0
    assert f":{first.pid} " in second.log()
    assert "allow_unshared_limits" in second.log()
    # One that was killed is no neighbour.
    first.kill()
    servers.start(command=command, folder=first.folder, config=QUICK)


async def test_a_second_node_without_redis_may_be_allowed(servers: Servers) -> None:
    config = {**QUICK, "allow_unshared_limits": "true"}
    first = servers.start(config=config)
    second = servers.start(config=config, folder=first.folder)
    assert first.is_running
    assert second.is_running
