"""Make the presence store of a node or of another process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from connections.config.loader import WebSocketConfig
from connections.exceptions import PresenceUnavailable
from connections.models.alias import get_connection
from connections.pool.choice import PoolKind, choose_pool, get_redis_url
from connections.presence.base import PresenceStore
from connections.presence.memory import MemoryStore
from connections.presence.registry import Reader
from connections.storage.database import Database
from connections.units import Clock

if TYPE_CHECKING:
    from connections.bus import Bus


def make_store(
    config: WebSocketConfig,
    kind: PoolKind,
    *,
    redis_url: str | None,
    bus: Bus | None,
    clock: Clock,
    database: Database | None = None,
) -> PresenceStore:
    """Return the store of a node, which is where the slots of its pool are."""
    options: dict[str, Any] = {
        # A beat renews the lease, and one or two may be missed.
        "lease_seconds": max(
            config.presence.lease_seconds, 3 * config.node.beat_seconds
        ),
        "linger_seconds": config.presence.linger_seconds,
        "max_members": config.presence.max_members_per_room,
    }
    if kind != "postgres" and not redis_url:
        # Workers share a pool in their parent, and nodes with unshared limits nothing:
        # each has a presence of its own.
        is_whole = kind == "memory" and not config.allow_unshared_limits
        return MemoryStore(**options, clock=clock, is_whole=is_whole)
    if not redis_url:
        from connections.presence.postgres import PostgresStore

        write = database.write_urgently if database else _run
        read = database.read if database else _run
        return PostgresStore(write=write, read=read, bus=bus, **options)
    from connections.presence.redis import RedisStore
    from connections.redis.bus import RedisBus

    beat_seconds = config.node.beat_seconds
    redis_bus = bus if isinstance(bus, RedisBus) else None
    return RedisStore(redis_url, bus=redis_bus, beat_seconds=beat_seconds, **options)


@asynccontextmanager
async def open_reader(config: WebSocketConfig) -> AsyncIterator[Reader]:
    """
    Open the store that the nodes share, for questions of a process without a node.

    Raises:
        PresenceUnavailable: they share none.
    """
    redis_url = get_redis_url()
    kind = choose_pool(config, redis_url)
    if kind == "memory":
        raise PresenceUnavailable(
            "presence is in the memory of the node; ask in its process, or use"
            " PostgreSQL in DATABASES, or set REDIS_URL, to share it"
        )
    store = make_store(
        config, kind, redis_url=redis_url, bus=None, clock=time.monotonic
    )
    try:
        yield store
    finally:
        await store.close()


async def forget_members(config: WebSocketConfig, members: Sequence[str]) -> None:
    """
    Remove members that linger in the rooms which nodes share.

    Raises:
        PresenceUnavailable: the store did not answer in time.
    """
    redis_url = get_redis_url()
    kind = choose_pool(config, redis_url)
    if kind == "memory":
        return
    bus = None
    if redis_url:
        from connections.redis.bus import RedisBus

        bus = RedisBus(redis_url, node_id="none")
    store = make_store(config, kind, redis_url=redis_url, bus=bus, clock=time.monotonic)
    try:
        await store.forget(members)
    finally:
        await store.close()
        if bus is not None:
            await bus.close()


async def _run(work: Callable[..., Any], *args: Any) -> Any:
    """Run work on the database in a process without a node."""
    return await sync_to_async(_run_in_thread)(work, *args)


def _run_in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """
    Run work on the connection of this thread, which stays open if it was.

    The thread may be the caller's, who reads from a cursor or has a transaction:
    database_sync_to_async() would close the connection under both. One that is lost
    is closed, so that the next question opens another.
    """
    connection = get_connection()
    was_open = connection.connection is not None
    try:
        return work(*args)
    finally:
        is_lost = connection.errors_occurred and not connection.is_usable()
        if not connection.in_atomic_block and (is_lost or not was_open):
            connection.close_if_unusable_or_obsolete()
