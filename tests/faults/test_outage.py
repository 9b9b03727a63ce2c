"""Test that a locked database drops no connection and loses no record."""

import asyncio
import contextlib
import sqlite3

from connections.testing import Servers, wait_until
from tests.integration.echo import QUICK, assert_alive, open_echo, read_rows


async def test_a_locked_database_costs_no_connection_and_no_record(
    servers: Servers,
) -> None:
    """Readers continue beside the lock; every write waits."""
    server = servers.start(
        config={**QUICK, "max_connections_per_client": 50}, arguments=("--no-sweeper",)
    )
    token = server.create_token()
    async with open_echo(server, token) as bystander:
        await assert_alive(bystander)
        file = server.folder / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            for _ in range(10):
                churned = [await open_echo(server, token) for _ in range(20)]
                await asyncio.gather(*(one.close() for one in churned))
                await assert_alive(bystander)
            # SQLite's own time-out has passed: a flush has failed.
            await wait_until(lambda: "locked" in server.log())
            await assert_alive(bystander)
            lock.execute("ROLLBACK")
        query = "select count(*), count(closed_at) from connections_connection"
        await wait_until(lambda: read_rows(server, query) == [(201, 200)], seconds=20)
        await assert_alive(bystander)
