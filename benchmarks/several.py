"""Measurements of several processes: workers, nodes over Redis, stores of slots."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.processes import ServerProcess, StartFailed
from benchmarks.site import Site
from benchmarks.sizes import Size, Values
from connections.capacity.load.generator import Load
from connections.capacity.load.procfs import free_port, read_cpu_seconds

_IN_FLIGHT = 50
_LAYER = "connections.layers.redis.RedisLayer"
_START_SECONDS = 60
_FRAME_BYTES = 102
"""A frame with the text of 100 bytes that the load generator broadcasts."""


def measure_workers(contender: Contender, site: Site, size: Size) -> Values:
    """Measure the CPU of round trips over all processes, and how clients spread."""
    with contender.start(site) as server, _load(contender, server) as load:
        headers = contender.get_headers(site)
        workers = _await_workers(contender, server, load, headers)
        before = [_count_sockets(pid) for pid in workers]
        load.do("open", group="echo", count=size.spread, headers=headers)
        opened = [
            _count_sockets(pid) - count
            for pid, count in zip(workers, before, strict=True)
        ]
        options = {"group": "echo", "message": "x" * 100, "members": _IN_FLIGHT}
        load.do("exchange", seconds=size.warm_up_seconds, **options)
        processes = {server.pid, *workers}
        cpu_seconds = sum(map(read_cpu_seconds, processes))
        done = load.do("exchange", seconds=size.echo_seconds, **options)
        cpu_seconds = sum(map(read_cpu_seconds, processes)) - cpu_seconds
    return {
        "echoes_per_second": done["round_trips"] / done["seconds"],
        "cpu_ms_per_1000_echoes": cpu_seconds / max(1, done["round_trips"]) * 1e6,
        "least_share_of_connections": min(opened) / max(1, sum(opened)),
    }


def measure_nodes(contender: Contender, site: Site, size: Size) -> Values:
    """
    Measure deliveries of a broadcast on one node, and on a second over Redis.

    Where the nodes share cores with the load generator, compare their CPU.
    """
    count, headers = size.members[1], contender.get_headers(site)
    path = contender.group_path
    with _start_redis(site.folder) as url:
        variables = {"REDIS_URL": url, "BENCHMARKS_LAYER": _LAYER}
        with (
            contender.start(site, **variables) as near,
            contender.start(site, **variables) as far,
            _load(contender, near) as load,
            Load(far.port, path=path, module="benchmarks.members") as far_load,
        ):
            load.do(
                "open", group="members", count=count, headers=headers, path=path,
                seconds=300,
            )  # fmt: skip
            load.do("broadcast", group="members", seconds=size.warm_up_seconds)
            near_cpu = near.cpu_seconds()
            alone = load.do("broadcast", group="members", seconds=size.echo_seconds)
            alone_cpu = near.cpu_seconds() - near_cpu
            # Other clients than those of the first node: each may have five.
            rest = headers[len(headers) // 2 :]
            far_load.do("open", group="members", count=count, headers=rest, seconds=300)
            load.do("broadcast", group="members", seconds=size.warm_up_seconds)
            far_load.do("count", group="members")
            before = time.monotonic()
            near_cpu, far_cpu = near.cpu_seconds(), far.cpu_seconds()
            both = load.do("broadcast", group="members", seconds=size.echo_seconds)
            received_bytes = far_load.do("counted")["received_bytes"]
            seconds = time.monotonic() - before
            near_cpu = near.cpu_seconds() - near_cpu
            far_cpu = far.cpu_seconds() - far_cpu
    far_deliveries = received_bytes / _FRAME_BYTES
    return {
        "alone_deliveries_per_second": alone["deliveries"] / alone["seconds"],
        "near_deliveries_per_second": both["deliveries"] / both["seconds"],
        "far_deliveries_per_second": far_deliveries / seconds,
        "alone_delivery_cpu_us": alone_cpu / max(1, alone["deliveries"]) * 1e6,
        "near_delivery_cpu_us": near_cpu / max(1, both["deliveries"]) * 1e6,
        "far_delivery_cpu_us": far_cpu / max(1, far_deliveries) * 1e6,
    }


def measure_stores(contender: Contender, site: Site, size: Size) -> Values:
    """Measure connects of one node with its slots in memory, Redis and PostgreSQL."""
    values: Values = {}
    with _start_redis(site.folder) as url, _start_postgres(site.folder) as other:
        shared = {"REDIS_URL": url, "BENCHMARKS_LAYER": _LAYER}
        stores: dict[str, tuple[Site, dict[str, str]]] = {
            "memory": (site, {}),
            "redis": (site, shared),
            "postgres": (other, {}),
        }
        for name, (place, variables) in stores.items():
            headers = contender.get_headers(place)
            with (
                contender.start(place, **variables) as server,
                _load(contender, server) as load,
            ):
                load.do("open", group="first", count=_IN_FLIGHT, headers=headers)
                load.do("rest", seconds=size.warm_up_seconds)
                opened = measure_opening(load, server, size.connects[0], headers)
            values |= {f"{name}_{key}": value for key, value in opened.items()}
    return values


def measure_opening(
    load: Load, server: ServerProcess, count: int, headers: list[str]
) -> Values:
    """Open connections, fifty at a time; return their rate, and the server's CPU."""
    before, started = server.cpu_seconds(), time.monotonic()
    opened = load.do(
        "open", group="new", count=count, concurrency=_IN_FLIGHT, headers=headers
    )
    seconds = time.monotonic() - started
    # Deferred database writes are part of a connection's cost.
    load.do("rest", seconds=2)
    return {
        "connects_per_second": count / seconds,
        "connect_cpu_us": (server.cpu_seconds() - before) / count * 1e6,
        "connect_p99_ms": opened["p99_ms"],
    }


def _load(contender: Contender, server: ServerProcess) -> Load:
    return Load(server.port, dialect=contender.dialect, path=contender.path)


def _await_workers(
    contender: Contender, server: ServerProcess, load: Load, headers: list[str]
) -> list[int]:
    """Return the ids of the serving processes once each has taken a connection."""
    if contender.workers == 1:
        return [server.pid]
    deadline = time.monotonic() + _START_SECONDS
    empty: dict[int, int] = {}
    while time.monotonic() < deadline:
        for pid in server.list_children():
            empty.setdefault(pid, _count_sockets(pid))
        load.do("open", group="first", count=1, headers=headers)
        taking = [pid for pid, count in empty.items() if _count_sockets(pid) > count]
        if len(taking) == contender.workers:
            load.do("drop", group="first")
            load.do("rest", seconds=1)
            return taking
        load.do("rest", seconds=0.1)
    raise StartFailed(f"a worker takes no connection: {server.log_tail()}")


def _count_sockets(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    places = [os.readlink(one) for one in folder.iterdir() if one.is_symlink()]
    return sum(place.startswith("socket:") for place in places)


@contextmanager
def _start_redis(folder: Path) -> Iterator[str]:
    """
    Start a Redis without files; yield its URL.

    Raises:
        StartFailed: it is not installed, or did not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise StartFailed("redis-server is not installed")
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    log = folder / "redis.log"
    with ServerProcess([*argv, "--dir", str(folder)], port=port, log=log):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _start_postgres(folder: Path) -> Iterator[Site]:
    """Start a PostgreSQL that syncs each commit; yield a site in it."""
    # Where only a Redis is needed, no test module is.
    from tests.integration.services import PostgresProcess

    place = folder / "postgres"
    place.mkdir(exist_ok=True)
    postgres = PostgresProcess(is_synced=True)
    try:
        postgres.create()
        site = Site(place)
        site.environment["DATABASE_URL"] = postgres.create_database("benchmark")
        site.prepare()
        yield site
    finally:
        postgres.remove()
