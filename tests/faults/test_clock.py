"""Test that a wall clock jump ends only connections whose expiry it reaches."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from websockets.asyncio.client import ClientConnection

from connections.exceptions import PoolFull
from connections.pool.base import Slot
from connections.pool.redis import RedisPool
from connections.redis.bus import RedisBus
from connections.testing import LiveServer, Servers, read_close, wait_until
from tests.faults.databases import Store
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.redis_process import RedisProcess

FORWARD, BACK = signal.SIGUSR1, signal.SIGUSR2
HOUR_SECONDS = 3600
HOUR_MS = 1000 * HOUR_SECONDS
LEASE_SECONDS = 1.5


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
        config={**QUICK, "node__node_timeout_seconds": 2},
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
            await asyncio.sleep(2.5)
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


class Shelf:
    """A node's pool, and control over the clock of its Redis."""

    def __init__(self, redis_process: RedisProcess, *, max_total: int = 100) -> None:
        self._redis = redis_process
        self.pool = RedisPool(
            redis_process.url,
            bus=RedisBus(redis_process.url, node_id="n"),
            max_total=max_total,
            lease_seconds=LEASE_SECONDS,
        )

    def slot(self, name: str) -> Slot:
        return Slot(
            connection_id=name,
            client_id=f"client of {name}",
            node_id="n",
            opened_at=1_700_000_000,
            limit=5,
        )

    def jump(self, milliseconds: int) -> None:
        """Make the clock of Redis jump by moving all stored times the other way."""
        with self._redis.connect() as client:
            for name in ("leases", "tombs"):
                key = f"{{orchestra:pool}}:{name}"
                for member, score in client.zrange(key, 0, -1, withscores=True):
                    client.zadd(key, {member: score - milliseconds})
            state = "{orchestra:pool}:state"
            until = client.hget(state, "recovering_until")
            if until:
                client.hset(state, "recovering_until", int(until) - milliseconds)


@pytest.fixture
async def make_shelf(
    redis_process: RedisProcess,
) -> AsyncIterator[Callable[..., Shelf]]:
    async with contextlib.AsyncExitStack() as stack:

        def make(**options: int) -> Shelf:
            shelf = Shelf(redis_process, **options)
            stack.push_async_callback(shelf.pool.close)
            return shelf

        yield make


async def test_when_redis_jumps_ahead_every_slot_is_taken_again(
    make_shelf: Callable[..., Shelf],
) -> None:
    """All leases expire at once; the pool recovers and keeps every slot."""
    shelf = make_shelf()
    slots = [shelf.slot(str(number)) for number in range(10)]
    for slot in slots:
        await shelf.pool.acquire(slot)
    shelf.jump(HOUR_MS)
    renewal = await shelf.pool.renew(slots)
    assert (renewal.evicted, renewal.lost) == ((), ())
    assert (await shelf.pool.get_usage()).slots == 10


async def test_when_redis_jumps_back_no_lease_lives_for_an_hour(
    make_shelf: Callable[..., Shelf],
) -> None:
    """The lease of a node that just died ends in time, or one lease later."""
    dead, alive = make_shelf(max_total=2), make_shelf(max_total=2)
    await dead.pool.acquire(dead.slot("dead"))
    held = alive.slot("held")
    await alive.pool.acquire(held)
    alive.jump(-HOUR_MS)
    await alive.pool.renew([held])
    with pytest.raises(PoolFull):
        await alive.pool.acquire(alive.slot("next"))

    async def is_admitted() -> bool:
        assert await alive.pool.renew([held]) is not None
        try:
            await alive.pool.acquire(alive.slot("next"))
        except PoolFull:
            return False
        return True

    await wait_until(is_admitted, 10)
    assert (await alive.pool.get_usage()).slots == 2


async def test_when_redis_jumps_back_a_recovery_ends(
    make_shelf: Callable[..., Shelf],
) -> None:
    """Until then each node enforces its own limits."""
    shelf = make_shelf()
    await shelf.pool.acquire(shelf.slot("first"))
    shelf.jump(-HOUR_MS)

    async def is_exact() -> bool:
        await shelf.pool.renew([shelf.slot("first")])
        return not (await shelf.pool.get_usage()).is_recovering

    await wait_until(is_exact, 10)
