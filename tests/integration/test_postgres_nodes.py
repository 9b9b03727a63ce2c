"""Test several nodes that share PostgreSQL alone."""

import asyncio
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connections.testing import LiveServer, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.echo import QUICK, assert_alive, opened
from tests.integration.pgbouncer import PgBouncer
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG, SessionClient

LATE = {
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
    "presence__lease_seconds": 180,
}
"""Beats too slow to cause anything within a test."""

StartPair = Callable[..., tuple[LiveServer, LiveServer]]


@pytest.fixture
def database(migrated_postgres: PostgresProcess) -> Iterator[str]:
    name = f"nodes_{uuid.uuid4().hex}"
    migrated_postgres.create_database(name, template="migrated")
    yield name
    migrated_postgres.resume()


@pytest.fixture
def start_nodes(
    servers: Servers, migrated_postgres: PostgresProcess, database: str
) -> StartPair:
    def start(config: dict[str, Any], **environment: str) -> Any:
        return servers.start_pair(
            config=config,
            environment={
                "DATABASE_URL": migrated_postgres.url(database),
                **environment,
            },
            arguments=("--no-sweeper",),
        )

    return start


def count_slots(postgres: PostgresProcess, database: str) -> int:
    with postgres.connect(database) as connection:
        query = "select count(*) from connections_pool_slot where taken_for = ''"
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


async def test_two_nodes_on_postgresql_alone_keep_the_limits(
    start_nodes: StartPair, migrated_postgres: PostgresProcess, database: str
) -> None:
    """Raced connects, evictions and a kick, with beats too slow to help."""
    pair = start_nodes(LATE)
    assert "started; pool: postgres" in pair[0].log()
    token = pair[0].create_token()
    other = pair[0].create_token("bob")
    async with opened(pair[0], other, 1) as (bystander,):
        raced = await asyncio.gather(
            *(pair[number % 2].connect("/ws/echo/", token) for number in range(20))
        )
        ended = [asyncio.create_task(one.wait_closed()) for one in raced]
        await wait_until(lambda: sum(task.done() for task in ended) == 15, 20)
        assert {one.close_code for one in raced if one.close_code} == {4005}
        assert count_slots(migrated_postgres, database) == 6
        kept = [one for one in raced if one.close_code is None]
        for connection in kept:
            await assert_alive(connection)
        kick = ("connections", "kick", "--client", "alice")
        await asyncio.to_thread(pair[0].manage, *kick, is_checked=False)
        for connection in kept:
            assert (await read_close(connection, seconds=10))[0] == 4009
        await assert_alive(bystander)
    await wait_until(lambda: count_slots(migrated_postgres, database) == 0)


async def test_the_slots_of_a_killed_node_are_free_after_its_lease(
    start_nodes: StartPair, migrated_postgres: PostgresProcess, database: str
) -> None:
    killed, other = start_nodes({**QUICK, "on_client_limit": "refuse"})
    token = killed.create_token()
    async with opened(killed, token, 5):
        assert count_slots(migrated_postgres, database) == 5
        killed.kill()
    await wait_until(lambda: count_slots(migrated_postgres, database) == 0, 20)
    async with opened(other, token, 5) as connections:
        for connection in connections:
            await assert_alive(connection)


async def test_a_restart_of_postgresql_costs_no_connection_and_no_limit(
    start_nodes: StartPair, migrated_postgres: PostgresProcess, database: str
) -> None:
    """A crash loses the slots of the last moment; nodes report them once it is back."""
    first, second = start_nodes(QUICK)
    token = first.create_token()
    async with opened(first, token, 2) as here, opened(second, token, 3) as there:
        migrated_postgres.kill()
        for connection in (*here, *there):
            await assert_alive(connection)
        migrated_postgres.start()

        def is_restored() -> bool:
            log = first.log() + second.log()
            return (
                log.count("The bus between nodes is back") == 2
                and log.count("is out of reach") == log.count("answers again")
                and count_slots(migrated_postgres, database) == 5
            )

        await wait_until(is_restored, 20)
        async with opened(second, token, 1) as (newcomer,):
            assert (await read_close(here[0]))[0] == 4005
            for connection in (here[1], *there, newcomer):
                await assert_alive(connection)
            assert count_slots(migrated_postgres, database) == 5


async def test_a_node_that_was_frozen_for_longer_than_its_lease(
    start_nodes: StartPair, migrated_postgres: PostgresProcess, database: str
) -> None:
    frozen, other = start_nodes(QUICK)
    token = frozen.create_token()
    async with opened(frozen, token, 5) as early:
        frozen.signal(signal.SIGSTOP)
        await wait_until(lambda: count_slots(migrated_postgres, database) == 0, 20)
        async with opened(other, token, 5) as late:
            frozen.signal(signal.SIGCONT)
            for connection in early:
                assert (await read_close(connection))[0] in (4005, 4103)
            for connection in late:
                await assert_alive(connection)


async def test_a_message_of_a_session_reaches_the_other_node_at_once(
    start_nodes: StartPair,
) -> None:
    """Also one that is too long for a notification; polls are hours away."""
    pair = start_nodes({**SESSION_CONFIG, "sessions__position_seconds": 3600})
    token = pair[0].create_token()
    here, there = SessionClient(token), SessionClient(token)
    await here.connect(pair[0])
    there.session_id = here.session_id
    await there.connect(pair[1])
    try:
        for text in ("short", "long " * 4000):
            await here.say(text)
        await there.wait(lambda: len(there.entries) == 2, seconds=20)
    finally:
        await asyncio.gather(here.cut(), there.cut())


@pytest.mark.parametrize("is_named", [True, False])
async def test_two_nodes_behind_a_pooler_of_transactions(
    start_nodes: StartPair,
    migrated_postgres: PostgresProcess,
    database: str,
    is_named: bool,
) -> None:
    """They listen on a direct connection, or poll where none is named."""
    bouncer = PgBouncer(migrated_postgres, "ignore_startup_parameters = options")
    try:
        await wait_until(lambda: bouncer.answers(database))
        direct = {"DATABASE_LISTEN_URL": migrated_postgres.url(database)}
        config = {**QUICK, "node__lease_seconds": 30}
        first, second = start_nodes(
            config,
            DATABASE_URL=bouncer.url(database),
            **(direct if is_named else {}),
        )
        token = first.create_token()
        async with opened(first, token, 5) as here, opened(second, token, 2) as there:
            for connection in here[:2]:
                assert (await read_close(connection, seconds=8))[0] == 4005
            for connection in (*here[2:], *there):
                await assert_alive(connection)
        polls = "DATABASE_LISTEN_URL may name a direct connection" in first.log()
        assert polls is not is_named
    finally:
        bouncer.remove()


FROM_COMMAND = """
from asgiref.sync import async_to_sync
from connections.layers.broadcast import broadcast
async_to_sync(broadcast)("direct", "from a command")
"""


async def test_groups_reach_the_clients_of_all_nodes_through_a_restart(
    start_nodes: StartPair, migrated_postgres: PostgresProcess
) -> None:
    """Short and long messages, from a node and from a command, without Redis."""
    pair = start_nodes(
        {"ping_interval_seconds": 5, "ping_timeout_seconds": 60},
        DJANGO_SETTINGS_MODULE="tests.integration.consumers_settings",
    )
    token = pair[0].create_token()
    clients = [await one.connect("/direct/", token) for one in pair]

    async def read(count: int) -> list[list[Any]]:
        async with asyncio.timeout(scale(30)):
            return [[await one.recv() for _ in range(count)] for one in clients]

    await clients[0].send("20 5")
    assert await read(20) == [[f"{n:<5}" for n in range(20)]] * 2
    await clients[1].send("3 9000")
    assert await read(3) == [[f"{n:<9000}" for n in range(3)]] * 2
    await asyncio.to_thread(pair[0].manage, "shell", "-c", FROM_COMMAND)
    assert await read(1) == [["from a command"]] * 2
    await asyncio.to_thread(migrated_postgres.kill)
    await asyncio.to_thread(migrated_postgres.start)

    def has_returned() -> bool:
        return all("The channel layer is back" in one.log() for one in pair)

    await wait_until(has_returned, 30)
    await asyncio.to_thread(pair[0].manage, "shell", "-c", FROM_COMMAND)
    assert await read(1) == [["from a command"]] * 2
    for client in clients:
        await client.close()
