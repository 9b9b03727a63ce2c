"""Serve through a real PgBouncer, and through one that goes silent."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connections.testing import LiveServer, Proxy, Servers, wait_until
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.pgbouncer import PgBouncer
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG, SessionClient


@pytest.fixture
def database(migrated_postgres: PostgresProcess) -> str:
    name = f"test_{uuid.uuid4().hex}"
    migrated_postgres.create_database(name, template="migrated")
    return name


@pytest.fixture
def make_bouncer(
    migrated_postgres: PostgresProcess,
) -> Iterator[Callable[..., PgBouncer]]:
    made: list[PgBouncer] = []

    def make(*settings: str) -> PgBouncer:
        made.append(PgBouncer(migrated_postgres, *settings))
        return made[-1]

    yield make
    for bouncer in made:
        bouncer.remove()


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ((), {"DATABASE_POOLED": "true"}),
        (("ignore_startup_parameters = options",), {}),
    ],
)
async def test_a_node_serves_behind_a_pooler_of_transactions(
    servers: Servers,
    migrated_postgres: PostgresProcess,
    database: str,
    make_bouncer: Callable[..., PgBouncer],
    settings: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    """Records, tokens, sweeps and the log of sessions, which reads in chunks."""
    bouncer = make_bouncer(*settings)
    await wait_until(lambda: bouncer.answers(database))
    server = servers.start(
        config=SESSION_CONFIG,
        environment={"DATABASE_URL": bouncer.url(database), **environment},
    )
    token = server.create_token()
    async with opened(server, token, 1) as (connection,):
        await assert_alive(connection)
    clients = [SessionClient(token) for _ in range(3)]
    for client in clients:
        await client.connect(server)
        for number in range(12):
            await client.say(f"message {number}")
        await client.wait_acked()
        await client.cut()
    page = SessionClient(token, clients[0].session_id)
    page.epoch = clients[0].epoch
    await page.connect(server)
    await page.wait(lambda: len(page.entries) >= 12)
    await page.cut()

    def read() -> list[tuple[Any, ...]]:
        with migrated_postgres.connect(database) as inspected:
            return inspected.execute(
                "select count(*) from connections_connection where closed_at is null"
            ).fetchall()

    await wait_until(lambda: read() == [(0,)])
    errors = [line for line in server.log().splitlines() if " ERROR " in line]
    assert errors == []


async def test_a_silent_connection_is_given_up(
    servers: Servers, migrated_postgres: PostgresProcess, database: str
) -> None:
    """New connections to the database work, and the old ones get no answer."""

    def read_beat() -> int:
        with migrated_postgres.connect(database) as inspected:
            row = inspected.execute("select max(beat) from connections_node").fetchone()
        assert row is not None
        return int(row[0] or 0)

    async with Proxy(migrated_postgres.port) as proxy:
        url = f"postgres://orchestra@127.0.0.1:{proxy.port}/{database}"
        server: LiveServer = servers.start(
            config={**QUICK, "node__database_timeout_seconds": 1},
            environment={"DATABASE_URL": url},
        )
        token = await asyncio.to_thread(server.create_token)
        other = await asyncio.to_thread(server.create_token, "bob")
        async with opened(server, token, 1) as (bystander,):
            await wait_until(lambda: read_beat() > 3)
            proxy.silence()
            silenced_at = read_beat()
            await wait_until(lambda: read_beat() > silenced_at + 5, seconds=20)
            await assert_alive(bystander)
            async with open_echo(server, other) as newcomer:
                await assert_alive(newcomer)
