"""
python -m benchmarks.shared_stores: compare PostgreSQL and Redis between nodes.

For each store that is named, two nodes of one process take and release slots, renew
them, and send messages to a group. The figures are rates, and the CPU time of this
process and of the server for one operation. The database must be migrated, and
neither store may be in use.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import make_table

LIMIT = 5
LEASE_SECONDS = 60
_AT_ONCE = 50
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

Row = dict[str, Any]


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its children and its ended children."""
    seconds = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program is in brackets, and may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parent = int(fields[1])
        if pid in (int(folder.name), parent):
            ended = fields[13:15] if int(folder.name) == pid else []
            seconds += sum(map(int, (*fields[11:13], *ended))) / _TICKS_PER_SECOND
    return seconds


async def gather_some(works: Sequence[Awaitable[Any]]) -> None:
    """Await many, a few at once."""
    semaphore = asyncio.Semaphore(_AT_ONCE)

    async def do(work: Awaitable[Any]) -> None:
        async with semaphore:
            await work

    await asyncio.gather(*map(do, works))


async def measure(
    name: str, count: int, server_pid: int, work: Callable[[], Awaitable[Any]]
) -> Row:
    """Return the rate and the CPU time of some work, for one of its operations."""
    server = read_cpu_seconds(server_pid) if server_pid else 0.0
    own, started = time.process_time(), time.perf_counter()
    await work()
    seconds, own = time.perf_counter() - started, time.process_time() - own
    used = read_cpu_seconds(server_pid) - server if server_pid else None
    return {
        "what": name,
        "per_second": count / seconds,
        "own_cpu_us": own / count * 1e6,
        "server_cpu_us": None if used is None else used / count * 1e6,
    }


async def measure_layer(layers: Sequence[Any], messages: int, pid: int) -> list[Row]:
    """Return the cost of group messages from one node to a member on another."""
    sending, receiving = layers
    channel = await receiving.new_channel()
    await receiving.group_add("g", channel)

    async def send(at_once: int) -> None:
        for start in range(0, messages, at_once):
            part = range(start, min(start + at_once, messages))
            sends = [sending.group_send("g", {"type": "n", "n": n}) for n in part]
            await asyncio.gather(*sends)
            # Messages that are sent at once may arrive in any order.
            arrived = {(await receiving.receive(channel)).get("n") for _ in part}
            if arrived != set(part):
                raise SystemExit("a message is missing: is the store in use?")

    rows = [
        await measure(
            f"group messages, {at_once} at once",
            messages,
            pid,
            partial(send, at_once),
        )
        for at_once in (1, 50)
    ]
    for layer in layers:
        await layer.flush()
    return rows


async def measure_pool(
    pools: Sequence[Any], make_slot: Callable[..., Any], connects: int, pid: int
) -> list[Row]:
    """Return the cost of slots that are taken, renewed and released."""
    slots = [
        make_slot(
            connection_id=f"{number:032x}",
            client_id=f"user:{number // LIMIT}",
            node_id=("a" * 32, "b" * 32)[number % 2],
            opened_at=time.time() + number / 1000,
            limit=LIMIT,
        )
        for number in range(connects)
    ]
    halves = [slots[::2], slots[1::2]]
    for pool in pools:
        await pool.renew([])

    async def take() -> None:
        for pool, own in zip(pools, halves, strict=True):
            await gather_some([pool.acquire(slot) for slot in own])

    async def renew() -> None:
        for pool, own in zip(pools, halves, strict=True):
            await pool.renew(own)

    async def release() -> None:
        for pool, own in zip(pools, halves, strict=True):
            for slot in own:
                pool.release(slot.connection_id)
            await pool.close()

    return [
        await measure("slots taken", connects, pid, take),
        await measure("slots renewed", connects, pid, renew),
        await measure("slots released", connects, pid, release),
    ]


async def measure_redis(url: str, options: argparse.Namespace) -> list[Row]:
    """Return the figures of Redis."""
    from redis.asyncio import Redis

    from connections.layers.redis import RedisLayer
    from connections.pool.base import Slot
    from connections.pool.redis import RedisPool
    from connections.redis.bus import RedisBus

    client: Any = Redis.from_url(url)
    pid = int((await client.info("server"))["process_id"])
    await client.aclose()
    pools = [
        RedisPool(
            url,
            bus=RedisBus(url, node_id=node),
            max_total=2 * options.connects,
            lease_seconds=LEASE_SECONDS,
            timeout_seconds=30,
        )
        for node in ("a" * 32, "b" * 32)
    ]
    layers = [RedisLayer([url], timeout_seconds=30) for _ in range(2)]
    return [
        *await measure_pool(pools, Slot, options.connects, pid),
        *await measure_layer(layers, options.messages, pid),
    ]


async def measure_postgres(url: str, options: argparse.Namespace) -> list[Row]:
    """Return the figures of PostgreSQL, with CPU times if it runs on this machine."""
    import psycopg

    from connections.layers.postgres import PostgresLayer
    from connections.pool.base import Slot
    from connections.pool.postgres import PostgresPool
    from connections.postgres.bus import PostgresBus
    from connections.storage.database import Database

    with psycopg.connect(url) as connection:
        backend = connection.info.backend_pid
    pid = options.postgres_pid or _find_parent(backend)
    databases = [Database() for _ in range(2)]
    pools = [
        PostgresPool(
            database,
            bus=PostgresBus(database, node_id=node),
            node_id=node,
            max_total=2 * options.connects,
            lease_seconds=LEASE_SECONDS,
            timeout_seconds=30,
        )
        for database, node in zip(databases, ("a" * 32, "b" * 32), strict=True)
    ]
    layers = [PostgresLayer(timeout_seconds=30) for _ in range(2)]
    rows = [
        *await measure_pool(pools, Slot, options.connects, pid),
        *await measure_layer(layers, options.messages, pid),
    ]
    for database in databases:
        await database.close()
    return rows


def _find_parent(pid: int) -> int:
    """Return the parent of a process of this machine; 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[1])


def describe(found: dict[str, list[Row]]) -> str:
    """Return the figures as a table, with the ratio of the servers' CPU times."""
    rows = []
    for store, figures in found.items():
        for number, row in enumerate(figures):
            cpu = row["server_cpu_us"]
            redis = found.get("redis", figures)[number]["server_cpu_us"]
            rows.append(
                (
                    store,
                    row["what"],
                    f"{row['per_second']:.0f}",
                    f"{row['own_cpu_us']:.0f} us",
                    "" if cpu is None else f"{cpu:.0f} us",
                    f"{cpu / redis:.1f}" if cpu and redis else "",
                )
            )
    header = ("store", "what", "a second", "own CPU", "server's CPU", "to Redis")
    return make_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each named store and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shared_stores", description=__doc__
    )
    parser.add_argument("--postgres", metavar="URL", help="a migrated database")
    parser.add_argument(
        "--postgres-pid",
        type=int,
        default=0,
        metavar="PID",
        help="its first process, by default the parent of a connection's",
    )
    parser.add_argument("--redis", metavar="URL")
    parser.add_argument("--connects", type=int, default=2000, metavar="N")
    parser.add_argument("--messages", type=int, default=2000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures")
    options = parser.parse_args(arguments)
    if not options.postgres and not options.redis:
        parser.error("name --postgres, --redis or both")
    if min(options.connects, options.messages) < 1:
        parser.error("--connects and --messages must be 1 or more")
    os.environ.setdefault("DEBUG", "true")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    if options.postgres:
        os.environ["DATABASE_URL"] = options.postgres
    import django

    django.setup()
    found: dict[str, list[Row]] = {}
    if options.redis:
        found["redis"] = asyncio.run(measure_redis(options.redis, options))
    if options.postgres:
        found["postgres"] = asyncio.run(measure_postgres(options.postgres, options))
    print(describe(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
