"""Test that a slow database delays handshakes, but no open connection."""

import asyncio
import time

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from connections.testing import LiveServer, Proxy, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.faults.databases import Store
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.session_client import SessionClient

DELAY_SECONDS = 1


@pytest.fixture
def postgres_url(postgres_store: Store) -> str:
    return postgres_store.environment["DATABASE_URL"]


async def measure(connection: ClientConnection, times: list[float]) -> None:
    """Measure round trips until cancelled."""
    while True:
        began = time.monotonic()
        await assert_alive(connection)
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.02)


async def is_served(server: LiveServer, token: str) -> bool:
    """Connect; return True if served, False if closed with 4104."""
    connection = await open_echo(server, token, open_timeout=scale(20))
    try:
        await assert_alive(connection)
    except ConnectionClosed:
        assert await read_close(connection) == (4104, "unavailable")
        return False
    await connection.close()
    return True


async def test_a_second_for_each_answer_of_the_database(
    servers: Servers, postgres_store: Store, postgres_url: str
) -> None:
    """Known clients are admitted; unknown ones may get 4104; others notice nothing."""
    assert postgres_store.postgres is not None
    port = postgres_store.postgres.port
    async with Proxy(port) as proxy:
        url = postgres_url.replace(f":{port}/", f":{proxy.port}/")
        server = servers.start(
            config=QUICK,
            arguments=("--no-sweeper",),
            environment={"DATABASE_URL": url},
        )
        known = await asyncio.to_thread(server.create_token)
        unknown = await asyncio.to_thread(server.create_token, "bob")
        page = SessionClient(known)
        async with opened(server, known, 1) as (bystander,):
            await page.connect(server)
            times: list[float] = []
            measuring = asyncio.create_task(measure(bystander, times))
            proxy.delay_seconds = DELAY_SECONDS
            said = await page.say({"text": "slowly"})
            served = await asyncio.gather(
                *(is_served(server, token) for token in (known, known, unknown))
            )
            assert served[:2] == [True, True]
            # A message is acked late and logged, or not acked.
            await page.wait(lambda: said in page.acked or page.errors)
            measuring.cancel()
            await asyncio.wait([measuring])
            # Each wait for the database would take a second.
            slow = [one for one in times if one > DELAY_SECONDS / 2]
            assert len(slow) <= len(times) / 20, sorted(times)[-10:]
            proxy.delay_seconds = 0
            await wait_until(lambda: is_served(server, unknown))
            await page.connect(server)
            await page.wait_acked()
            await page.wait(lambda: page.last_offset == 1)
            await page.cut()
        query = "select count(*) from connections_connection where closed_at is null"
        await wait_until(lambda: postgres_store.ask(query) == [(0,)])
