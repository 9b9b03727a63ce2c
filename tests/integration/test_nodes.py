"""Test several nodes that share a database and a Redis."""

import asyncio
import signal

import pytest

from connections.testing import Proxy, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.cluster import count_live, start_pair
from tests.integration.echo import QUICK, assert_alive, freeze, opened, read_rows
from tests.integration.redis_process import RedisProcess

LATE = {
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
}
"""Beats too slow to cause anything within a test."""


ROWS = (
    "select reason, close_code, count(*) from connections_connection"
    " group by reason, close_code"
)
OPEN_ROWS = "select count(*) from connections_connection where closed_at is null"


async def test_a_kick_takes_effect_on_every_node_without_a_beat(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """The request comes from a process that is not a node."""
    pair = start_pair(servers, redis_process, LATE)
    token, other = pair[0].create_token(), pair[0].create_token("bob")
    async with (
        opened(pair[0], token, 2) as here,
        opened(pair[1], token, 2) as there,
        opened(pair[1], other, 1) as (bystander,),
    ):
        kick = ("connections", "kick", "--client", "alice")
        # Nothing is recorded before the first beat, so the command finds nobody.
        await asyncio.to_thread(pair[0].manage, *kick, is_checked=False)
        for connection in (*here, *there):
            assert await read_close(connection, seconds=5) == (4009, "kicked")
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
    # A killed node does not block its successor.
    first.kill()
    servers.start(command=command, folder=first.folder, config=QUICK)


@pytest.mark.parametrize("command", ["serve", "uvicorn"])
async def test_of_two_nodes_that_begin_at_once_one_stays(
    servers: Servers, command: str
) -> None:
    """Neither sees the other at its start."""
    first = servers.make(config=QUICK, command=command)
    second = servers.make(config=QUICK, command=command, folder=first.folder)
    pair = (first, second)
    for one in pair:
        one.start(is_ready=False)
    await wait_until(lambda: sum(one.is_running for one in pair) == 1, 30)
    (gone,) = [one for one in pair if not one.is_running]
    assert gone.wait() != 0
    assert "allow_unshared_limits" in gone.log()


async def test_a_second_node_without_redis_may_be_allowed(servers: Servers) -> None:
    config = {**QUICK, "allow_unshared_limits": "true"}
    first, second = servers.start_pair(config=config)
    assert first.is_running
    assert second.is_running


async def test_the_sixth_connection_evicts_the_first_on_the_other_node(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """The eviction is immediate: leases of minutes cannot have caused it."""
    pair = start_pair(servers, redis_process, LATE)
    token = pair[0].create_token()
    async with (
        opened(pair[0], token, 3) as here,
        opened(pair[1], token, 2) as there,
        opened(pair[1], token, 1),
    ):
        assert await read_close(here[0], seconds=5) == (4005, "evicted")
        for connection in (*here[1:], *there):
            await assert_alive(connection)


async def test_an_eviction_whose_message_is_lost_takes_effect_by_the_lease(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """The proxy that drops the message also prevents a new subscription."""
    async with Proxy(redis_process.port) as proxy:
        first, second = start_pair(servers, redis_process, QUICK, proxy)
        token = first.create_token()
        async with opened(first, token, 5) as here:
            proxy.loses_messages = True
            async with opened(second, token, 1):
                assert await read_close(here[0]) == (4005, "evicted")
                for connection in here[1:]:
                    await assert_alive(connection)


async def test_a_node_that_was_frozen_for_longer_than_its_lease(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """It closes connections whose slots others took; all records are correct."""
    # The node that is not frozen may stand still for a while on a slow machine.
    config = {**QUICK, "node__node_timeout_seconds": scale(1)}
    first, second = start_pair(servers, redis_process, config)
    sweeper = servers.start(
        folder=first.folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.3"),
        config=config,
        is_ready=False,
    )
    alice, bob = first.create_token(), first.create_token("bob")
    async with (
        opened(first, alice, 5) as early,
        opened(first, bob, 1) as (bystander,),
    ):
        await wait_until(lambda: read_rows(first, ROWS) == [("", None, 6)])
        await freeze(first, first)
        await wait_until(lambda: read_rows(first, ROWS) == [("lost", 1006, 6)])
        with redis_process.connect() as client:
            await wait_until(lambda: count_live(client) == 0)
        async with opened(second, alice, 5) as late:
            first.signal(signal.SIGCONT)
            for connection in early:
                assert (await read_close(connection))[0] in (4005, 4103)
            for connection in (bystander, *late):
                await assert_alive(connection)
            await wait_until(lambda: read_rows(first, OPEN_ROWS) == [(6,)])
            generation = "select state, generation from connections_node where pid = "
            query = f"{generation} {first.pid}"
            await wait_until(lambda: read_rows(first, query) == [("serving", 2)])
    await wait_until(lambda: read_rows(first, OPEN_ROWS) == [(0,)])
    assert sweeper.is_running
