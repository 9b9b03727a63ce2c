"""
python -m benchmarks.redis_cost: measure the cost of connections for Redis.

A temporary Redis reports its memory, commands and CPU time for slots and leases,
and for the channel layer. There are two nodes; each client is at its limit.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
from redis.asyncio import Redis

from benchmarks.processes import ServerProcess
from benchmarks.report import make_table

# The pools of databases import models.
os.environ.setdefault("DEBUG", "true")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from connections.capacity.load.procfs import free_port  # noqa: E402
from connections.layers.redis import RedisLayer  # noqa: E402
from connections.pool.base import Slot  # noqa: E402
from connections.pool.redis import RedisPool  # noqa: E402
from connections.redis.bus import RedisBus  # noqa: E402

LIMIT = 5
LEASE_SECONDS = 15
RENEWALS_PER_SECOND = 3 / LEASE_SECONDS
_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Resources that Redis has used so far."""

    memory_bytes: int
    cpu_seconds: float
    calls: int
    """Calls of scripts, publishes and subscriptions."""

    inner_calls: int
    """All commands, those within scripts included."""

    @classmethod
    async def read(cls, client: Any) -> "Counters":
        """Read the counters of Redis."""
        info = await client.info("all")
        by_command = {
            name.removeprefix("cmdstat_"): one["calls"]
            for name, one in info.items()
            if name.startswith("cmdstat_")
        }
        sent = ("evalsha", "script|load", "publish", "subscribe", "unsubscribe")
        return cls(
            memory_bytes=info["used_memory"],
            cpu_seconds=info["used_cpu_sys"] + info["used_cpu_user"],
            calls=sum(by_command.get(name, 0) for name in sent),
            inner_calls=sum(by_command.values()),
        )

    def since(self, before: "Counters") -> "Counters":
        """Return the difference to earlier counters."""
        return Counters(
            memory_bytes=self.memory_bytes - before.memory_bytes,
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
            calls=self.calls - before.calls,
            inner_calls=self.inner_calls - before.inner_calls,
        )


Row = tuple[str, str, str, str]


def make_pool(url: str, node_id: str, connections: int) -> RedisPool:
    """Return the pool of one node."""
    return RedisPool(
        url,
        bus=RedisBus(url, node_id=node_id),
        max_total=2 * connections,
        lease_seconds=LEASE_SECONDS,
        # The work is measured, not its duration.
        timeout_seconds=30,
    )


def make_slots(nodes: Sequence[str], connections: int) -> list[list[Slot]]:
    """Return the slots of each node."""
    slots: list[list[Slot]] = [[] for _ in nodes]
    for number in range(connections):
        node = number % len(nodes)
        slot = Slot(
            connection_id=f"{number:032x}",
            client_id=f"user:{number // LIMIT}",
            node_id=nodes[node],
            opened_at=1_700_000_000 + number / 1000,
            limit=LIMIT,
        )
        slots[node].append(slot)
    return slots


async def gather_some(works: Sequence[Any]) -> None:
    """Await many coroutines, a few at once."""
    semaphore = asyncio.Semaphore(_AT_ONCE)

    async def do(work: Any) -> None:
        async with semaphore:
            await work

    await asyncio.gather(*map(do, works))


async def measure_pool(url: str, client: Any, connections: int) -> list[Row]:
    """Return the cost of taking, renewing, evicting and releasing slots."""
    nodes = ("a" * 32, "b" * 32)
    pools = [make_pool(url, node, connections) for node in nodes]
    slots = make_slots(nodes, connections)
    for pool in pools:
        await pool.renew([])
    await client.hdel("{orchestra:pool}:state", "recovering_until")
    empty = await Counters.read(client)
    for pool, own in zip(pools, slots, strict=True):
        await gather_some([pool.acquire(slot) for slot in own])
    full = await Counters.read(client)
    for pool, own in zip(pools, slots, strict=True):
        await pool.renew(own)
    renewed = await Counters.read(client)
    # Each client at its limit opens one more, which evicts its oldest.
    newest = make_slots(nodes, connections)
    evicting = [
        pool.acquire(
            Slot(
                connection_id=f"f{slot.connection_id[1:]}",
                client_id=slot.client_id,
                node_id=slot.node_id,
                opened_at=slot.opened_at + 10_000_000,
                limit=LIMIT,
            )
        )
        for pool, own in zip(pools, newest, strict=True)
        for slot in own[:1000]
    ]
    await gather_some(evicting)
    evicted = await Counters.read(client)
    for pool, own in zip(pools, slots, strict=True):
        for slot in own:
            pool.release(slot.connection_id)
        await pool.close()
    closed = await Counters.read(client)
    held, renewal = full.since(empty), renewed.since(full)
    eviction, closing = evicted.since(renewed), closed.since(evicted)
    return [
        _make_row("a connection opened, and its slot", held, connections, memory=True),
        _make_row("a connection opened, another evicted", eviction, len(evicting)),
        _make_row("a connection closed", closing, connections),
        _make_row("a slot, renewed", renewal, connections),
        (
            f"{connections} slots at rest, a second",
            "",
            f"{renewal.calls * RENEWALS_PER_SECOND:.1f}",
            f"{renewal.cpu_seconds * RENEWALS_PER_SECOND * 1000:.1f} ms",
        ),
    ]


async def measure_layer(url: str, client: Any, connections: int) -> list[Row]:
    """Return the cost of subscribed channels and of a group send."""
    layer = RedisLayer([url], timeout_seconds=30)
    empty = await Counters.read(client)
    channels = [await layer.new_channel() for _ in range(connections)]
    await gather_some(
        [layer.group_add(f"g{n // 100}", one) for n, one in enumerate(channels)]
    )
    receiving = [asyncio.create_task(layer.receive(one)) for one in channels]
    await asyncio.sleep(0)
    # Redis does not report when all subscriptions are active.
    while (await client.info("stats"))["pubsub_channels"] < connections:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    full = await Counters.read(client)
    await gather_some(
        [layer.group_send(f"g{n % 100}", {"type": "x"}) for n in range(1000)]
    )
    sent = await Counters.read(client)
    for task in receiving:
        task.cancel()
    await asyncio.gather(*receiving, return_exceptions=True)
    await layer.flush()
    subscribed, sending = full.since(empty), sent.since(full)
    return [
        _make_row(
            "a channel and its group, subscribed", subscribed, connections, memory=True
        ),
        _make_row("a group send", sending, 1000),
    ]


def _make_row(what: str, used: Counters, count: int, *, memory: bool = False) -> Row:
    return (
        what,
        f"{used.memory_bytes / count:.0f} B" if memory else "",
        f"{used.calls / count:.3g} ({used.inner_calls / count:.1f})",
        f"{used.cpu_seconds / count * 1e6:.0f} us",
    )


async def measure(connections: int) -> list[Row]:
    """Start Redis and measure pool and layer."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed")
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess([*argv, "--dir", folder], port=port, log=Path(folder) / "log"),
    ):
        url = f"redis://127.0.0.1:{port}/0"
        client: Any = Redis.from_url(url, decode_responses=True)
        rows = [
            *await measure_pool(url, client, connections),
            *await measure_layer(url, client, connections),
        ]
        await client.aclose()
        return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.redis_cost", description=__doc__
    )
    parser.add_argument("--connections", type=int, default=10_000, metavar="N")
    options = parser.parse_args(arguments)
    if options.connections < LIMIT:
        parser.error(f"--connections must be {LIMIT} or more")
    header = ("what", "memory", "calls (commands in all)", "CPU of Redis")
    print(make_table(header, asyncio.run(measure(options.connections))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
