"""Test that a Redis outage drops no connection, and that limits are restored."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from connections.testing import LiveServer, Proxy, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.faults.health import wait_for_status
from tests.integration.cluster import count_live, start_pair
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.redis_process import RedisProcess

LEASE_SECONDS = scale(3)
CONFIG = {**QUICK, "node__lease_seconds": LEASE_SECONDS}


@contextlib.asynccontextmanager
async def opened_by_many(
    servers: tuple[LiveServer, ...], count: int
) -> AsyncIterator[list[ClientConnection]]:
    """Open one connection for each of several clients, spread over the servers."""
    tokens = [servers[0].create_token(f"other-{number}") for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_echo(servers[number % len(servers)], token)
            )
            for number, token in enumerate(tokens)
        ]


async def restart(redis_process: RedisProcess) -> None:
    redis_process.kill()
    await asyncio.sleep(1)
    redis_process.start()


async def flush(redis_process: RedisProcess) -> None:
    redis_process.flush()


@pytest.mark.parametrize("break_it", [restart, flush])
async def test_nobody_is_dropped_and_the_limits_come_back(
    servers: Servers,
    redis_process: RedisProcess,
    break_it: Callable[[RedisProcess], Any],
) -> None:
    """A client at its limit keeps its connections; the next one evicts the oldest."""
    pair = start_pair(servers, redis_process, CONFIG)
    token = pair[0].create_token()
    async with (
        opened(pair[0], token, 3) as here,
        opened(pair[1], token, 2) as there,
        opened_by_many(pair, 4) as others,
    ):
        everyone = [*here, *there, *others]
        await break_it(redis_process)
        for connection in everyone:
            await assert_alive(connection)
        for server in pair:
            await wait_for_status(server, 200, "ok")
        with redis_process.connect() as client:
            await wait_until(lambda: count_live(client) == len(everyone))
        async with opened(pair[1], token, 1) as (newest,):
            assert await read_close(here[0]) == (4005, "evicted")
            for connection in (*everyone[1:], newest):
                await assert_alive(connection)
    with redis_process.connect() as client:
        await wait_until(lambda: count_live(client) == 0)


async def test_without_redis_each_node_limits_its_own(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """/readyz reports it; connections admitted meanwhile count once Redis is back."""
    pair = start_pair(servers, redis_process, CONFIG)
    token = pair[0].create_token()
    async with contextlib.AsyncExitStack() as stack:

        async def open_on(server: LiveServer, count: int) -> list[ClientConnection]:
            return await stack.enter_async_context(opened(server, token, count))

        here = await open_on(pair[0], 4)
        redis_process.kill()
        for server in pair:
            await wait_for_status(server, 200, "degraded")
        late_here = await open_on(pair[0], 2)
        late_there = await open_on(pair[1], 5)
        assert await read_close(here[0]) == (4005, "evicted")
        redis_process.start()
        for server in pair:
            await wait_for_status(server, 200, "ok")
        for connection in (*here[1:], *late_here):
            assert (await read_close(connection))[0] == 4005
        for connection in late_there:
            await assert_alive(connection)


async def test_a_node_that_refuses_all_is_not_ready(
    servers: Servers, redis_process: RedisProcess
) -> None:
    server = servers.start(
        config={**CONFIG, "on_pool_outage": "refuse"},
        environment={"REDIS_URL": redis_process.url},
    )
    token = server.create_token()
    async with opened(server, token, 1) as (inside,):
        redis_process.pause()
        await wait_for_status(server, 503, "unavailable")
        late = await open_echo(server, token)
        assert (await read_close(late))[0] == 4104
        await assert_alive(inside)
        redis_process.resume()
        await wait_for_status(server, 200, "ok")
        async with opened(server, token, 1) as (newest,):
            await assert_alive(newest)
        await assert_alive(inside)


def cut(proxy: Proxy) -> None:
    proxy.cut()


def lose_replies(proxy: Proxy) -> None:
    """Redis executes the node's commands, but the node gets no replies."""
    proxy.loses_replies = True


def lose_requests(proxy: Proxy) -> None:
    proxy.loses_requests = True


def mend(proxy: Proxy) -> None:
    proxy.loses_replies = proxy.loses_requests = False
    proxy.mend()


@pytest.mark.parametrize("part", [cut, lose_replies, lose_requests])
async def test_a_node_that_is_cut_off_from_redis_keeps_its_clients(
    servers: Servers, redis_process: RedisProcess, part: Callable[[Proxy], None]
) -> None:
    """Its leases expire, other connections take the slots, and it closes only those."""
    async with Proxy(redis_process.port) as proxy:
        first, second = start_pair(servers, redis_process, CONFIG, proxy)
        token, other = first.create_token(), first.create_token("bob")
        async with (
            opened(first, token, 2) as here,
            opened(first, other, 5) as bystanders,
        ):
            part(proxy)
            await wait_for_status(first, 200, "degraded")
            # Renewals keep leases alive although their replies are lost.
            if part is not lose_replies:
                with redis_process.connect() as client:
                    await wait_until(lambda: count_live(client) == 0)
            async with opened(second, token, 4) as there:
                for connection in here:
                    await assert_alive(connection)
                mend(proxy)
                await wait_for_status(first, 200, "ok")
                ended = await closing_of_some(here)
                assert len(ended) == 1
                assert ended[0].close_code in (4005, 4103)
                for connection in (*there, *bystanders):
                    await assert_alive(connection)


async def closing_of_some(
    connections: list[ClientConnection],
) -> list[ClientConnection]:
    """Return the connections that close within a while of the first."""

    def ended() -> list[ClientConnection]:
        return [one for one in connections if one.close_code is not None]

    await wait_until(ended)
    await asyncio.sleep(1)
    return ended()
