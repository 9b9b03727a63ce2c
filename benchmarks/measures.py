"""Measurements of one server: each starts the server, loads it and stops it."""

import contextlib
import json
import signal
import time
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.processes import DIRECT, ServerProcess
from benchmarks.several import (
    measure_nodes,
    measure_opening,
    measure_stores,
    measure_workers,
)
from benchmarks.site import Site
from benchmarks.sizes import Size, Values
from connections.capacity.load.generator import Load

_IN_FLIGHT = 50


def measure_echo(contender: Contender, site: Site, size: Size) -> Values:
    """Measure round trips per second, without and with idle connections."""
    headers = contender.get_headers(site)
    with contender.start(site) as server, _load(contender, server) as load:
        load.do("open", group="echo", count=_IN_FLIGHT, headers=headers)
        load.do("echo", group="echo", seconds=size.warm_up_seconds)
        values = _exchange(load, server, size.echo_seconds, "")
        load.do("open", group="idle", count=size.idle, headers=headers)
        load.do("rest", seconds=size.warm_up_seconds)
        values |= _exchange(load, server, size.echo_seconds, "idle_")
    return values


def measure_connects(contender: Contender, site: Site, size: Size) -> Values:
    """
    Measure opened connections per second, fifty at a time, and their CPU time.

    First without others, then beside those.
    """
    values: Values = {}
    headers = contender.get_headers(site)
    with contender.start(site) as server, _load(contender, server) as load:
        load.do("open", group="first", count=_IN_FLIGHT, headers=headers)
        load.do("rest", seconds=size.warm_up_seconds)
        for name, count in zip(("", "more_"), size.connects, strict=True):
            opened = measure_opening(load, server, count, headers)
            values |= {f"{name}{key}": value for key, value in opened.items()}
    return values


def measure_crowd(contender: Contender, site: Site, size: Size) -> Values:
    """Measure memory and CPU of idle connections, and blocks of the event loop."""
    headers = contender.get_headers(site)
    drained: Values = {"drain_blocked_ms": 0, "drain_blocked_cpu_ms": 0}
    observed = site.folder / f"{contender.name}.observed"
    with (
        contender.start(site, BENCHMARKS_OBSERVED=str(observed)) as server,
        _load(contender, server) as load,
    ):
        tenth = size.crowd // 10
        load.do("open", group="idle", count=tenth, headers=headers)
        load.do("rest", seconds=2)
        first_kib = server.memory_kib()
        load.do("open", group="idle", count=size.crowd - tenth, headers=headers)
        load.do("rest", seconds=3)
        last_kib = server.memory_kib()
        before = server.cpu_seconds()
        load.do("rest", seconds=size.rest_seconds)
        cpu_seconds = server.cpu_seconds() - before
        server.signal(signal.SIGUSR1)
        load.do("rest", seconds=size.rest_seconds / 2)
        for _ in range(3):
            _scrape(server)
            load.do("rest", seconds=0.2)
        seen = read_observed(server, observed)
        if contender.drains:
            server.signal(signal.SIGUSR1)
            server.signal(signal.SIGTERM)
            load.do("rest", seconds=size.drain_seconds)
            drained = _describe_blocks(read_observed(server, observed), "drain_")
    return {
        "kib_per_connection": (last_kib - first_kib) / (size.crowd - tenth),
        "idle_cpu_percent": cpu_seconds / size.rest_seconds * 100,
        **_describe_blocks(seen, ""),
        **drained,
        "collection_ms": seen["longest_collection_seconds"] * 1000,
    }


def measure_broadcast(contender: Contender, site: Site, size: Size) -> Values:
    """Measure deliveries per second of a message to few and to many members."""
    values: Values = {}
    headers = contender.get_headers(site)
    with contender.start(site) as server, _load(contender, server) as load:
        opened = 0
        for name, count in zip(("few", "many"), size.members, strict=True):
            load.do(
                "open",
                group="members",
                count=count - opened,
                headers=headers,
                path=contender.group_path,
                seconds=300,
            )
            opened = count
            load.do("broadcast", group="members", seconds=size.warm_up_seconds)
            before = server.cpu_seconds()
            done = load.do("broadcast", group="members", seconds=size.echo_seconds)
            cpu_seconds = server.cpu_seconds() - before
            values |= {
                f"deliveries_{name}_per_second": done["deliveries"] / done["seconds"],
                f"delivery_{name}_cpu_us": cpu_seconds / done["deliveries"] * 1e6,
                f"load_{name}_cpu_us": done["own_cpu_us"],
            }
    return values


MEASURES: Mapping[str, Callable[[Contender, Site, Size], Values]] = {
    "echo": measure_echo,
    "connects": measure_connects,
    "crowd": measure_crowd,
    "broadcast": measure_broadcast,
    "workers": measure_workers,
    "nodes": measure_nodes,
    "stores": measure_stores,
}

QUICK_CONTENDERS = (
    "channels-daphne",
    "orchestra-serve",
    "orchestra-uvicorn",
    "orchestra-workers",
    "orchestra-nodes",
)

CONTENDERS_OF = {
    "echo": (
        "channels-daphne",
        "orchestra-serve",
        "channels-uvicorn",
        "orchestra-uvicorn",
        "python-socketio",
        "node-socket.io",
        "node-ws",
    ),
    "connects": (
        "channels-daphne",
        "channels-auth",
        "orchestra-serve",
        "channels-uvicorn",
        "orchestra-uvicorn",
        "python-socketio",
        "node-socket.io",
        "node-ws",
    ),
    "crowd": ("channels-daphne", "orchestra-serve"),
    "broadcast": (
        "channels-daphne",
        "orchestra-serve",
        "orchestra-serve-direct",
        "channels-uvicorn",
        "orchestra-uvicorn",
        "orchestra-uvicorn-direct",
        "python-socketio",
        "node-socket.io",
        "node-ws",
    ),
    "workers": ("orchestra-serve", "orchestra-workers"),
    "nodes": ("orchestra-nodes",),
    "stores": ("orchestra-nodes",),
}


def read_observed(server: ServerProcess, place: Path) -> dict[str, Any]:
    """Return the server's observations of itself since SIGUSR1."""
    place.unlink(missing_ok=True)
    server.signal(signal.SIGUSR2)
    deadline = time.monotonic() + 10
    while not place.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{place} was not written: {server.log_tail()}")
        time.sleep(0.05)
    seen: dict[str, Any] = json.loads(place.read_text())
    return seen


def _scrape(server: ServerProcess) -> None:
    """Request the metrics as Prometheus does; a server may have none."""
    url = f"http://127.0.0.1:{server.port}/metrics"
    with contextlib.suppress(urllib.error.HTTPError):
        DIRECT.open(url, timeout=10).close()


def _describe_blocks(seen: dict[str, Any], prefix: str) -> Values:
    """Return the longest delay of the event loop."""
    return {
        f"{prefix}blocked_ms": max(seen["late_seconds"], default=0) * 1000,
        f"{prefix}blocked_cpu_ms": max(seen["busy_seconds"], default=0) * 1000,
    }


def _load(contender: Contender, server: ServerProcess) -> Load:
    return Load(server.port, dialect=contender.dialect, path=contender.path)


def _exchange(load: Load, server: ServerProcess, seconds: float, name: str) -> Values:
    before = server.cpu_seconds()
    done = load.do("echo", group="echo", seconds=seconds)
    cpu_seconds = server.cpu_seconds() - before
    return {
        f"{name}echoes_per_second": done["round_trips"] / done["seconds"],
        f"{name}echo_cpu_us": cpu_seconds / max(1, done["round_trips"]) * 1e6,
        f"{name}echo_p99_ms": done["p99_ms"],
        f"{name}load_cpu_us": done["own_cpu_us"],
    }
