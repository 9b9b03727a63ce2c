"""Test a real minute without the database, half of it without Redis."""

import asyncio
from typing import Any

import pytest

from connections.testing import Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.faults.databases import Store
from tests.faults.health import wait_for_status
from tests.integration.cluster import count_live
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.redis_process import RedisProcess

DATABASE_SECONDS, REDIS_SECONDS = 60, 30
CONFIG = {
    **QUICK,
    "node__node_timeout_seconds": scale(3),
    "reauthorise_seconds": 1,
    "max_connections_per_client": 3,
}


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_minute_without_the_database_and_half_of_it_without_redis(
    servers: Servers, postgres_store: Store, redis_process: RedisProcess
) -> None:
    """Nodes keep every connection, admit known clients, and are exact afterwards."""
    environment = {**postgres_store.environment, "REDIS_URL": redis_process.url}
    options: dict[str, Any] = {"config": CONFIG, "arguments": ("--no-sweeper",)}
    pair = [servers.start(environment=environment, **options)]
    folder = pair[0].folder
    pair.append(servers.start(environment=environment, folder=folder, **options))
    servers.start(
        folder=folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.5"),
        config=CONFIG,
        environment=environment,
        is_ready=False,
    )
    alice, bob = [
        await asyncio.to_thread(pair[0].create_token, name) for name in ("alice", "bob")
    ]
    passed = 0

    async def pass_by() -> None:
        """Connect with a known credential, send a message and close."""
        nonlocal passed
        for server in pair:
            async with open_echo(server, bob, open_timeout=scale(20)) as passing:
                await assert_alive(passing)
            passed += 1

    async with (
        opened(pair[0], alice, 2) as here,
        opened(pair[1], alice, 1) as there,
    ):
        everyone = [*here, *there]
        await pass_by()
        await wait_until(lambda: count_rows(postgres_store) == passed + len(everyone))
        assert postgres_store.postgres is not None
        postgres_store.postgres.pause()
        redis_process.pause()
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_back = False
        while loop.time() < began + DATABASE_SECONDS:
            if not is_back and loop.time() > began + REDIS_SECONDS:
                redis_process.resume()
                is_back = True
            # Credentials are remembered for a minute after the last lookup.
            if loop.time() < began + DATABASE_SECONDS / 2:
                await pass_by()
            for connection in everyone:
                await assert_alive(connection)
            await asyncio.sleep(1)
        postgres_store.postgres.resume()
        for server in pair:
            await wait_for_status(server, 200, "ok")
        with redis_process.connect() as client:
            await wait_until(lambda: count_live(client) == len(everyone))
        await pass_by()
        # Limits span both nodes again: a new connection on either evicts the oldest.
        async with opened(pair[1], alice, 1) as (newest,):
            assert await read_close(here[0]) == (4005, "evicted")
            for connection in (here[1], *there, newest):
                await assert_alive(connection)
    ends = {("alice", "evicted"): 1, ("alice", "closed"): 3, ("bob", "closed"): passed}
    await wait_until(lambda: count_ends(postgres_store) == ends)
    # No node was recorded as lost, neither during the outage nor after it.
    nodes = "select state, generation from connections_node"
    assert postgres_store.ask(nodes) == [("serving", 1)] * 2


def count_rows(store: Store) -> int:
    ((count,),) = store.ask("select count(*) from connections_connection")
    return int(count)


def count_ends(store: Store) -> dict[tuple[str, str], int]:
    rows = store.ask(
        "select client_id, reason, count(*) from connections_connection"
        " where closed_at is not null group by 1, 2"
    )
    return {(client, reason): count for client, reason, count in rows}
