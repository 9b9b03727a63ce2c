"""
python -m crowd_steps STEP NUMBER: act on a server or on Redis, in any version.

Each step runs in the process of an application, and prints what it did as JSON.
The folder of this module is on the path of the served version.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_SLOW_MICROSECONDS = 200
_SLOWLOG = 2_000


def post_requests(number: int) -> dict[str, float]:
    """Post close requests for absent addresses, and one for BENCHMARKS_LAST."""
    from connections.announcements import post_close_requests
    from connections.models import CloseRequest

    addresses = [f"10.0.{one >> 8}.{one & 255}" for one in range(number)]
    post_close_requests(
        *(
            CloseRequest(target="address", value=one, reason="kicked")
            for one in (*addresses, os.environ["BENCHMARKS_LAST"])
        )
    )
    return {"posted": number + 1}


def save_users(number: int) -> dict[str, float]:
    """Create users, and save the first name of each."""
    from django.contrib.auth import get_user_model

    from connections.models import CloseRequest

    users = get_user_model().objects
    users.bulk_create(get_user_model()(username=f"u{one}") for one in range(number))
    before = CloseRequest.objects.count()
    for user in users.all():
        user.first_name = "a name"
        user.save()
    return {"posted": CloseRequest.objects.count() - before}


def add_bans(number: int) -> dict[str, float]:
    """Add bans of clients that do not exist."""
    from connections.models import Ban

    Ban.objects.bulk_create(
        Ban(target="client", value=f"{time.time_ns()}-{one}") for one in range(number)
    )
    return {"added": number}


def add_bans_slowly(number: int) -> dict[str, float]:
    """Add a ban every half second."""
    for _ in range(number):
        add_bans(1)
        time.sleep(0.5)
    return {"added": number}


def fill_pool(number: int) -> dict[str, float]:
    """Lower a client's limit beside so many slots, let a node die, and settle."""
    return asyncio.run(_fill_pool(number))


async def _fill_pool(number: int) -> dict[str, float]:
    from redis.asyncio import Redis

    url = os.environ["REDIS_URL"]
    client: Any = Redis.from_url(url, decode_responses=True, socket_timeout=60)
    await client.config_set("slowlog-log-slower-than", _SLOW_MICROSECONDS)
    await client.config_set("slowlog-max-len", _SLOWLOG)
    figures = {}
    # Each measure has a pool of its own: one works on in the background.
    async with _pool(url, 1_000_000) as pool:
        slots = [_make_slot("one", n, number) for n in range(number)]
        await _recover(client, pool, slots)
        await pool.acquire(_make_slot("one", number, 10))
        figures["lowered_ms"] = await _read_longest(client)
    async with _pool(url, 1_000_000) as pool:
        await _recover(client, pool, slots)
        await pool.acquire(_make_slot("living", 0, 1))
        leases = {slot.connection_id: 1 for slot in slots}
        await client.zadd("{orchestra:pool}:leases", leases)
        await client.slowlog_reset()
        await pool.acquire(_make_slot("one", number, number))
        figures["dead_ms"] = await _read_longest(client)
    async with _pool(url, 100) as pool:
        slots = [_make_slot(f"{n}", n, 5) for n in range(number)]
        await _recover(client, pool, slots, is_settled=False)
        await pool.get_usage()
        figures["settle_ms"] = await _read_longest(client)
    await client.aclose()
    return figures


async def _recover(
    client: Any, pool: Any, slots: list[Any], *, is_settled: bool = True
) -> None:
    """Let an empty Redis take slots whatever the limits say."""
    await client.flushall()
    await pool.renew(slots)
    if await client.zcard("{orchestra:pool}:leases") < len(slots):
        raise RuntimeError(f"{len(slots)} slots were not taken")
    state = "{orchestra:pool}:state"
    if is_settled:
        await client.hdel(state, "recovering_until", "ordered", "suspected")
    else:
        await client.hset(state, "recovering_until", 1)
    await client.slowlog_reset()


@asynccontextmanager
async def _pool(url: str, max_total: int) -> AsyncIterator[Any]:
    from connections.pool.redis import RedisPool
    from connections.redis.bus import RedisBus

    pool = RedisPool(
        url,
        bus=RedisBus(url, node_id="a" * 32),
        max_total=max_total,
        lease_seconds=600,
        timeout_seconds=60,
    )
    yield pool
    await pool.close()


def _make_slot(client_id: str, number: int, limit: int) -> Any:
    from connections.pool.base import Slot

    return Slot(
        connection_id=f"{client_id[0]}{number:031x}",
        client_id=client_id,
        node_id="a" * 32,
        opened_at=1_700_000_000 + number / 1000,
        limit=limit,
    )


async def _await_calm(client: Any) -> None:
    """Wait until no script has run for half a second, or a minute has passed."""
    calls = -1
    for _ in range(120):
        before, calls = calls, (await client.info("commandstats"))["cmdstat_evalsha"]
        if calls == before:
            return
        await asyncio.sleep(0.5)


async def _read_longest(client: Any) -> float:
    """Return the milliseconds of the longest script, those in the background too."""
    await _await_calm(client)
    entries = await client.slowlog_get(_SLOWLOG)
    scripts = [one for one in entries if "EVAL" in str(one["command"]).upper()]
    return max((one["duration"] for one in scripts), default=0) / 1000


STEPS = {
    step.__name__: step
    for step in (post_requests, save_users, add_bans, add_bans_slowly, fill_pool)
}

if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    django.setup()
    print(json.dumps(STEPS[sys.argv[1]](int(sys.argv[2]))))
