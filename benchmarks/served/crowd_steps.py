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
from typing import Any

_SLOW_MICROSECONDS = 200
_SLOWLOG = 2_000


def post_requests(number: int) -> dict[str, float]:
    """Post close requests for addresses that are not connected."""
    from connections.announcements import post_close_requests
    from connections.models import CloseRequest

    post_close_requests(
        *(
            CloseRequest(
                target="address", value=f"10.0.{one >> 8}.{one & 255}", reason="kicked"
            )
            for one in range(number)
        )
    )
    return {"posted": number}


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
    """Lower the limit of a client with so many slots; then let another node die."""
    return asyncio.run(_fill_pool(number))


async def _fill_pool(number: int) -> dict[str, float]:
    from redis.asyncio import Redis

    url = os.environ["REDIS_URL"]
    client: Any = Redis.from_url(url, decode_responses=True, socket_timeout=60)
    await client.config_set("slowlog-log-slower-than", _SLOW_MICROSECONDS)
    await client.config_set("slowlog-max-len", _SLOWLOG)
    lowered, dying = _make_pool(url, "a", 600), _make_pool(url, "b", 20)
    for pool in (lowered, dying):
        await pool.renew([])
    await client.hdel("{orchestra:pool}:state", "recovering_until")
    await _acquire(lowered, "lowered", number, number)
    await client.slowlog_reset()
    await lowered.acquire(_make_slot("lowered", number, 10))
    # The rest of the excess is taken in the background.
    await _await_calm(client)
    figures = {"lowered_ms": await _read_longest(client)}
    await _acquire(dying, "dying", number, number)
    await client.slowlog_reset()
    await asyncio.sleep(21)
    await lowered.acquire(_make_slot("dying", number, number))
    figures["dead_ms"] = await _read_longest(client)
    for pool in (lowered, dying):
        await pool.close()
    await client.aclose()
    return figures


def _make_pool(url: str, letter: str, lease_seconds: float) -> Any:
    from connections.pool.redis import RedisPool
    from connections.redis.bus import RedisBus

    return RedisPool(
        url,
        bus=RedisBus(url, node_id=letter * 32),
        max_total=1_000_000,
        lease_seconds=lease_seconds,
        timeout_seconds=60,
    )


def _make_slot(client_id: str, number: int, limit: int) -> Any:
    from connections.pool.base import Slot

    return Slot(
        connection_id=f"{client_id[0]}{number:031x}",
        client_id=client_id,
        node_id=("a" if client_id == "lowered" else "b") * 32,
        opened_at=1_700_000_000 + number / 1000,
        limit=limit,
    )


async def _acquire(pool: Any, client_id: str, number: int, limit: int) -> None:
    for start in range(0, number, 100):
        slots = range(start, min(start + 100, number))
        await asyncio.gather(
            *(pool.acquire(_make_slot(client_id, one, limit + 1)) for one in slots)
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
