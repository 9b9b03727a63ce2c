"""Test that a wall clock jump ends only connections whose expiry it reaches."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from connections.exceptions import PoolFull
from connections.pool.base import Renewal
from connections.testing import LiveServer, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.connections.pool_database import PoolDatabase
from tests.connections.pool_nodes import (
    NodePool,
    RedisNodePool,
    is_recovering,
    jump_in_redis,
    leased_in,
)
from tests.faults.databases import Store
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

FORWARD, BACK = signal.SIGUSR1, signal.SIGUSR2
HOUR_SECONDS = 3600
NODE_TIMEOUT_SECONDS = scale(2)
"""A node that stands still for so long on a slow machine is recorded as lost."""

JUMPING = {"DJANGO_SETTINGS_MODULE": "tests.faults.jumping_settings"}


@pytest.fixture
def server(servers: Servers, store: Store) -> LiveServer:
    """A node whose clock jumps; SQLite's clock jumps with it."""
    return servers.start(
        folder=store.folder,
        config={**QUICK, "expiry__grace_seconds": 0, "reauthorise_seconds": 0.5},
        environment={**store.environment, **JUMPING},
        arguments=("--no-sweeper",),
    )


@pytest.fixture
def elsewhere(servers: Servers, store: Store) -> LiveServer:
    """
    The environment of a sweeper and of commands, which share the database's clock.

    With SQLite that is the node's clock.
    """
    return servers.start(
        folder=store.folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.2"),
        config={**QUICK, "node__node_timeout_seconds": NODE_TIMEOUT_SECONDS},
        environment={**store.environment, **JUMPING},
        is_ready=False,
    )


async def test_nobody_is_idle_dead_or_over_the_limit_for_a_jump(
    server: LiveServer, elsewhere: LiveServer, store: Store
) -> None:
    """The clock jumps an hour ahead, and then two hours back."""
    jumping = [server, elsewhere] if store.postgres is None else [server]
    token = await asyncio.to_thread(server.create_token)
    # For half an hour.
    passing = await asyncio.to_thread(
        server.create_token, "bob", "--expires-in", "1800"
    )
    expiring = await open_echo(server, passing)
    for jump in (FORWARD, BACK):
        async with opened(server, token, 5) as before:
            for one in jumping:
                one.signal(jump)
            if elsewhere in jumping:
                seconds = HOUR_SECONDS if jump is FORWARD else -HOUR_SECONDS
                elsewhere.environment["CLOCK_JUMPED_SECONDS"] = str(seconds)
            # Long enough for a silent node to be recorded as lost.
            await asyncio.sleep(NODE_TIMEOUT_SECONDS + 0.5)
            for connection in before:
                await assert_alive(connection)
            # Only the limits end connections, one for each new one.
            async with opened(server, token, 1) as (newest,):
                await wait_until(lambda seen=before: find_ended(seen) == [4005])
                await assert_alive(newest)
                # A request covers connections opened after the jump, none opened later.
                kick = ("connections", "kick", "--client", "alice")
                await asyncio.to_thread(elsewhere.manage, *kick, is_checked=False)
                assert await read_close(newest) == (4009, "kicked")
            async with opened(server, token, 1) as (again,):
                await asyncio.sleep(0.5)
                await assert_alive(again)
        # Credentials count as expired only while the clock says so.
        if jump is FORWARD:
            assert await read_close(expiring) == (4100, "token_expired")
            assert await read_close(await open_echo(server, passing)) == (
                4100,
                "token_expired",
            )
    async with open_echo(server, passing) as returned:
        await assert_alive(returned)
    query = "select count(*) from connections_connection where closed_at is null"
    await wait_until(lambda: store.ask(query) == [(0,)])
    nodes = "select state, generation from connections_node"
    assert store.ask(nodes) == [("serving", 1)]
    assert "Traceback" not in server.log()


def find_ended(connections: list[ClientConnection]) -> list[int]:
    """Return the close codes of the closed connections."""
    return [one.close_code for one in connections if one.close_code is not None]


class PoolRedis:
    """A Redis with the slots, and control over its clock."""

    def __init__(self, server: RedisProcess) -> None:
        self._server = server
        self.lose_slots = server.flush

    def make_pool(self, node_id: str, **options: Any) -> NodePool:
        return RedisNodePool(self._server.url, node_id, **options)

    def leased(self) -> set[str]:
        return leased_in(self._server)

    def jump(self, seconds: int) -> None:
        """Make its clock jump by moving all stored times the other way."""
        jump_in_redis(self._server, seconds)


@pytest.fixture(scope="module")
def pool_postgres(postgres_server: PostgresProcess) -> PoolDatabase:
    return PoolDatabase(postgres_server, "clock")


@pytest.fixture(params=["redis", "postgres"])
def slots(request: pytest.FixtureRequest) -> PoolRedis | PoolDatabase:
    """What has the slots; it holds none, and its pool is exact or recovers."""
    if request.param == "redis":
        return PoolRedis(request.getfixturevalue("redis_process"))
    database: PoolDatabase = request.getfixturevalue("pool_postgres")
    database.empty()
    return database


@pytest.fixture
async def make_pool(
    slots: PoolRedis | PoolDatabase,
) -> AsyncIterator[Callable[..., NodePool]]:
    made: list[NodePool] = []

    def make(node_id: str, **options: Any) -> NodePool:
        made.append(slots.make_pool(node_id, **options))
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def test_when_the_store_jumps_ahead_every_slot_is_taken_again(
    slots: PoolRedis | PoolDatabase, make_pool: Callable[..., NodePool]
) -> None:
    """All leases expire at once; the pool keeps every slot."""
    pool = make_pool("n")
    held = await pool.take(*map(str, range(10)), limit=10)
    slots.jump(HOUR_SECONDS)
    assert await pool.renew(held) == Renewal()
    assert (await pool.get_usage()).slots == 10


async def test_when_the_store_jumps_back_no_lease_lives_for_an_hour(
    slots: PoolRedis | PoolDatabase, make_pool: Callable[..., NodePool]
) -> None:
    """The lease of a node that just died ends in time, or one lease later."""
    dead, alive = (
        make_pool(node_id, max_total=2, lease_seconds=scale(2))
        for node_id in ("dead", "alive")
    )
    await dead.take("dead")
    held = await alive.take("held")
    slots.jump(-HOUR_SECONDS)
    await alive.renew(held)
    with pytest.raises(PoolFull):
        await alive.take("next")

    async def is_admitted() -> bool:
        assert await alive.renew(held) == Renewal()
        try:
            await alive.take("next")
        except PoolFull:
            return False
        return True

    await wait_until(is_admitted, 15)
    assert slots.leased() == {"held", "next"}


async def test_when_the_store_jumps_back_a_recovery_ends(
    slots: PoolRedis | PoolDatabase, make_pool: Callable[..., NodePool]
) -> None:
    """Until then each node enforces its own limits."""
    pool = make_pool("n", lease_seconds=60)
    slots.lose_slots()
    held = await pool.take("first")
    assert await is_recovering(pool)
    slots.jump(-HOUR_SECONDS)

    async def is_exact() -> bool:
        await pool.renew(held)
        return not await is_recovering(pool)

    await wait_until(is_exact, 10)
