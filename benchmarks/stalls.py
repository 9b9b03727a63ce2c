"""
python -m benchmarks.stalls: measure what stops the event loop or Redis at size.

Each measure is one act beside many connections, slots, bans or answers. --tree serves
another version of the project, for a comparison.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.measures import read_observed
from benchmarks.processes import ROOT, ServerProcess
from benchmarks.report import make_table, write_json
from benchmarks.site import make_site
from connections.capacity.load.generator import Load
from connections.capacity.load.procfs import free_port

_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "orchestra.settings",
    "LOG_LEVEL": "ERROR",
    "WEBSOCKET__ANONYMOUS": "true",
    "WEBSOCKET__MAX_CONNECTIONS_PER_CLIENT": "20000",
    "WEBSOCKET__MAX_TOTAL_CONNECTIONS": "20000",
    "WEBSOCKET__HANDSHAKE__MAX_PENDING": "20000",
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_PENDING": "20000",
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_PER_SECOND": "20000",
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_BURST": "20000",
    "WEBSOCKET__RATE_LIMIT__MESSAGES_PER_SECOND": "100000",
    "WEBSOCKET__RATE_LIMIT__BURST_MESSAGES": "100000",
}
_ANSWERS_PER_SESSION = 4
_SESSIONS_AT_ONCE = 20
_ECHOES = 80
_BEATS_SECONDS = 5
_MOST_BLOCKED_SECONDS = 120
_LEAK_SECONDS = 75
"""A connection is looked at for leaks a minute after its end."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Amounts of each measure; QUICK is only a smoke test."""

    connections: int = 5_000
    requests: int = 1_000
    users: int = 4_000
    slots: int = 10_000
    bans: int = 30_000
    sessions: int = 200
    own_references: int = 9_000
    ban_seconds: int = 8
    rest_seconds: float = _LEAK_SECONDS


WHOLE = Size()
QUICK = Size(
    connections=50,
    requests=20,
    users=20,
    slots=100,
    bans=100,
    sessions=3,
    own_references=50,
    ban_seconds=1,
    rest_seconds=1,
)


class Site:
    """A migrated database, and the version of the project that uses it."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree = tree
        self.folder = folder
        self.environment = {
            **_ENVIRONMENT,
            "ORCHESTRA_VAR": str(folder),
            "PYTHONPATH": f"{tree}:{ROOT / 'benchmarks' / 'served'}",
            "BENCHMARKS_OBSERVED": str(folder / "observed"),
        }

    def run(self, *arguments: str, **environment: str) -> str:
        """Run a module of the version, and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.tree,
            env={**os.environ, **self.environment, **environment},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    def step(self, name: str, number: int, **environment: str) -> Figures:
        """Run one of crowd_steps."""
        done = self.run("crowd_steps", name, str(number), **environment)
        figures: Figures = json.loads(done.splitlines()[-1])
        return figures

    @contextmanager
    def serve(self, **environment: str) -> Iterator[ServerProcess]:
        """Serve the application crowd."""
        port = free_port()
        argv = [sys.executable, "-m", "daphne", "-v", "0", "-p", str(port)]
        argv.append("crowd:application")
        with ServerProcess(
            argv,
            port=port,
            log=self.folder / "server.log",
            environment={**self.environment, **environment},
            folder=self.tree,
        ) as server:
            yield server

    @contextmanager
    def watch(self, server: ServerProcess, name: str) -> Iterator[Figures]:
        """Give the longest block of the event loop meanwhile, and its CPU time."""
        figures: Figures = {}
        server.signal(signal.SIGUSR1)
        time.sleep(0.2)
        yield figures
        # What another process writes is read on the next beat.
        time.sleep(_BEATS_SECONDS)
        seen = read_observed(server, self.folder / "observed")
        figures[f"{name}_ms"] = max(seen["late_seconds"], default=0) * 1000
        figures[f"{name}_cpu_ms"] = max(seen["busy_seconds"], default=0) * 1000


@contextmanager
def _load(server: ServerProcess) -> Iterator[Load]:
    with Load(server.port, path="/ws/echo/") as load:
        yield load


def _open(load: Load, server: ServerProcess, count: int, **options: Any) -> None:
    origin = f"Origin: http://127.0.0.1:{server.port}\r\n"
    load.do("open", count=count, headers=[origin], **options)


def measure_requests(site: Site, size: Size) -> Figures:
    """Post close requests beside connections, and save users."""
    with site.serve() as server, _load(server) as load:
        _open(load, server, size.connections, group="idle")
        load.do("rest", seconds=2)
        with site.watch(server, "requests_block") as figures:
            asyncio.run(_end_last(site, server.port, size.requests))
        with site.watch(server, "users_block") as saved:
            posted = site.step("save_users", size.users)["posted"]
    return {**figures, **saved, "users_posted": posted}


async def _end_last(site: Site, port: int, requests: int) -> None:
    """Post close requests, and wait for the end of the connection of the last."""
    own = "127.0.1.250"
    origin: Any = f"http://127.0.0.1:{port}"
    url = f"ws://127.0.0.1:{port}/ws/echo/"
    async with connect(url, origin=origin, local_addr=(own, 0), proxy=None) as last:
        post = partial(site.step, "post_requests", requests, BENCHMARKS_LAST=own)
        await asyncio.to_thread(post)
        async with asyncio.timeout(_MOST_BLOCKED_SECONDS):
            await last.wait_closed()


def measure_bans(site: Site, size: Size) -> Figures:
    """Add a ban every half second beside many."""
    seconds = size.ban_seconds
    site.step("add_bans", size.bans)
    with site.serve() as server:
        time.sleep(2)
        before = server.cpu_seconds()
        site.step("add_bans_slowly", 2 * seconds)
        spent = server.cpu_seconds() - before
    return {"bans_cpu_percent": spent / seconds * 100}


def measure_answers(site: Site, size: Size) -> Figures:
    """Echo beside as many answers as one client can have under way."""
    with site.serve(SESSIONS_RESPONDER="crowd.Typist") as server:
        return asyncio.run(_echo_beside_answers(server.port, size.sessions))


async def _echo_beside_answers(port: int, sessions: int) -> Figures:
    origin: Any = f"http://127.0.0.1:{port}"
    url = f"ws://127.0.0.1:{port}/ws/echo/"
    # Another client, by its address.
    own = ("127.0.0.2", 0)
    async with connect(url, origin=origin, local_addr=own, proxy=None) as bystander:
        alone = await _echo_steadily(bystander)
        begun = 0
        for start in range(0, sessions, _SESSIONS_AT_ONCE):
            numbers = range(start, min(start + _SESSIONS_AT_ONCE, sessions))
            asking = (_ask_for_answers(port, origin, one) for one in numbers)
            begun += sum(await asyncio.gather(*asking))
        beside = await _echo_steadily(bystander)
    return {
        "answers_begun": begun,
        "bystander_alone_p50_ms": statistics.median(alone) * 1000,
        "bystander_p50_ms": statistics.median(beside) * 1000,
        "bystander_max_ms": max(beside) * 1000,
    }


async def _echo_steadily(socket: ClientConnection) -> list[float]:
    """Exchange a message 20 times a second; return the times of the round trips."""
    times = []
    for _ in range(_ECHOES):
        began = time.monotonic()
        await socket.send("a message")
        await socket.recv()
        times.append(time.monotonic() - began)
        await asyncio.sleep(max(0, 0.05 - times[-1]))
    return times


async def _ask_for_answers(port: int, origin: Any, number: int) -> int:
    """Begin answers in a new session; return how many were begun."""
    begun = 0
    url = f"ws://127.0.0.1:{port}/ws/sessions/new/"
    async with connect(url, origin=origin, proxy=None) as socket:
        await _await_type(socket, "hello")
        for answer in range(_ANSWERS_PER_SESSION):
            message = {"type": "message", "data": {"text": "hello"}}
            message["id"] = f"benchmark{number:06}-{answer}"
            await socket.send(json.dumps(message))
            begun += await _await_type(socket, "ack", "error") == "ack"
    return begun


async def _await_type(socket: ClientConnection, *kinds: str) -> str:
    while True:
        kind: str = json.loads(await socket.recv())["type"]
        if kind in kinds:
            return kind


def measure_own_references(site: Site, size: Size) -> Figures:
    """Open and close consumers that refer to themselves, twice, beside an open one."""
    with site.serve() as server, _load(server) as load:
        _open(load, server, 1, group="open")
        load.do("rest", seconds=1)
        before = server.memory_kib()

        def open_many() -> float:
            _open(load, server, size.own_references, group="own", path="/ws/own/")
            load.do("rest", seconds=1)
            return (server.memory_kib() - before) / 1024

        first = open_many()
        with site.watch(server, "drop_block") as dropped:
            load.do("drop", group="own")
            load.do("rest", seconds=size.rest_seconds / 5)
        second = open_many()
        load.do("drop", group="own")
        load.do("rest", seconds=size.rest_seconds / 5)
        with site.watch(server, "leaks_block") as watched:
            load.do("rest", seconds=size.rest_seconds * 4 / 5)
    return {"own_first_mb": first, "own_second_mb": second, **dropped, **watched}


def measure_pool(site: Site, size: Size) -> Figures:
    """Measure the longest scripts of a pool that has to give up many slots."""
    program = shutil.which("redis-server")
    if program is None:
        return {}
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess([*argv, "--dir", folder], port=port, log=Path(folder) / "log"),
    ):
        url = f"redis://127.0.0.1:{port}/0"
        return site.step("fill_pool", size.slots, REDIS_URL=url)


MEASURES: dict[str, Callable[[Site, Size], Figures]] = {
    "requests": measure_requests,
    "pool": measure_pool,
    "bans": measure_bans,
    "answers": measure_answers,
    "own_references": measure_own_references,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measures on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stalls")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the version to serve")
    parser.add_argument("--quick", action="store_true", help="small amounts")
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES))
    parser.add_argument("--slots", type=int, help="the slots of the measure 'pool'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(arguments)
    figures: Figures = {}
    size = QUICK if options.quick else WHOLE
    if options.slots is not None:
        size = replace(size, slots=options.slots)
    tree = options.tree.resolve()
    with make_site() as migrated:
        Site(tree, Path(migrated)).run("django", "migrate", "--verbosity", "0")
        for name in options.only:
            with make_site() as folder:
                shutil.copytree(migrated, folder, dirs_exist_ok=True)
                site = Site(tree, Path(folder))
                figures |= MEASURES[name](site, size)
    rows = [(name, f"{value:.3g}") for name, value in figures.items()]
    print(make_table(("figure", "value"), rows))
    if options.json is not None:
        write_json(options.json, {"tree": str(options.tree), "figures": figures})
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
