"""
Run the load generator in its own process: one step per line of JSON.

    {"do": "open", "group": "idle", "count": 1000}

The process keeps its connections alive between steps. Its answers include its own
CPU time per round trip, which shows whether it was the bottleneck.
"""

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from connections.capacity.load.client import DIALECTS, Client
from connections.capacity.load.frames import TEXT, build_frame, build_reply
from connections.capacity.load.sockets import LOOPBACK, Clients

Answer = dict[str, Any]


class LoadFailed(Exception):
    """A step failed; the text has the reason."""


class Load:
    """Controls a load generator in its own process, for one server."""

    def __init__(
        self,
        port: int,
        *,
        host: str = LOOPBACK,
        dialect: str = "plain",
        path: str = "",
        module: str = "connections.capacity.load.generator",
    ) -> None:
        arguments = [host, str(port), dialect, path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[3],
        )

    def do(self, step: str, **options: Any) -> Answer:
        """
        Run a step and return its result.

        Raises:
            LoadFailed: the step failed.
        """
        stdin, stdout = self._streams()
        line = ""
        with suppress(BrokenPipeError):  # Of a process that has ended.
            stdin.write(json.dumps({"do": step, **options}) + "\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            status = self._process.wait(10)
            raise LoadFailed(f"{step}: the load generator has exited, status {status}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise LoadFailed(f"{step}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Kill the process, and with it all its connections."""
        stdin, stdout = self._streams()
        self._process.kill()
        self._process.wait(10)
        with suppress(BrokenPipeError):  # It holds a step that nobody has read.
            stdin.close()
        stdout.close()

    def _streams(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise LoadFailed("no pipe to the load generator")
        return self._process.stdin, self._process.stdout

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Steps:
    """The steps of the process; each public method is one, by its name."""

    def __init__(self, host: str, port: int, dialect: str, path: str) -> None:
        self._dialect = DIALECTS[dialect]
        self._path = path
        self.clients = Clients(host, port, addresses=500)
        self.groups: dict[str, list[Client]] = {}

    def open(
        self,
        group: str,
        count: int,
        concurrency: int = 50,
        headers: list[str] | None = None,
        path: str = "",
        seconds: float = 120,
    ) -> Answer:
        """Open connections in a group; they use `headers` in rotation."""
        clients, times = self.clients.open(
            count,
            concurrency=concurrency,
            dialect=self._dialect,
            headers=headers or [],
            path=path or self._path,
            seconds=seconds,
        )
        self.groups.setdefault(group, []).extend(clients)
        return summarise(times)

    def confirm(self, group: str, seconds: float) -> Answer:
        """Wait until each connection of a group answers a ping, or is closed."""
        why_closed = self.clients.confirm(self.groups[group], seconds)
        return {"open": len(self.clients), "why_closed": why_closed}

    def echo(self, group: str, seconds: float, size: int = 100) -> Answer:
        """Exchange messages over a group, one in flight on each connection."""
        self.clients.prepare_echo(self.groups[group], size)
        return self._exchange(self.groups[group], seconds)

    def exchange(
        self, group: str, seconds: float, message: str, members: int
    ) -> Answer:
        """Exchange a message for any reply, or pings for pongs, over `members`."""
        clients = self.groups[group][:members]
        if message:
            self.clients.prepare_message(clients, message)
        else:
            self.clients.prepare_pings(clients)
        return self._exchange(clients, seconds)

    def _exchange(self, clients: list[Client], seconds: float) -> Answer:
        echoes = self.clients.exchange(clients, seconds)
        return {
            "round_trips": echoes.round_trips,
            "seconds": echoes.seconds,
            "own_cpu_us": echoes.own_cpu_seconds / max(1, echoes.round_trips) * 1e6,
            **summarise(echoes.times),
        }

    def broadcast(self, group: str, seconds: float, size: int = 100) -> Answer:
        """Have one message after another sent to all of a group; count deliveries."""
        clients = self.groups[group]
        text = "broadcast".ljust(size, "x")
        wrap = clients[0].dialect.wrap
        trigger = build_frame(TEXT, wrap(text, "broadcast").encode())
        reply = build_reply(wrap(text).encode())
        cpu = time.process_time()
        deliveries, took = self.clients.count_deliveries(
            clients, trigger, reply, seconds
        )
        own_cpu_seconds = time.process_time() - cpu
        return {
            "deliveries": deliveries,
            "seconds": took,
            "own_cpu_us": own_cpu_seconds / max(1, deliveries) * 1e6,
        }

    def evict(self, headers: str, limit: int, seconds: float = 10) -> Answer:
        """Exceed a client's limit by one; return the seconds until an eviction."""
        options: Any = {"concurrency": 1, "dialect": self._dialect}
        options |= {"headers": [headers], "path": self._path}
        old, _ = self.clients.open(limit, **options)
        closed = self.clients.watch_closes(old)
        started = time.monotonic()
        self.clients.open(1, **options)
        while not closed:
            self.clients.poll(0.1)
            if time.monotonic() - started > seconds:
                raise TimeoutError("no connection was evicted")
        return {"seconds": time.monotonic() - started}

    def rest(self, seconds: float) -> Answer:
        """Keep the connections alive for some seconds."""
        self.clients.rest(seconds)
        return {"open": len(self.clients)}

    def drop(self, group: str) -> Answer:
        """Reset the connections of a group."""
        for client in self.groups.pop(group, []):
            self.clients.drop(client)
        return {"open": len(self.clients)}

    def idle(self) -> None:
        """Keep the connections alive for 20 ms."""
        self.clients.rest(0.02)


def summarise(times: list[float]) -> Answer:
    """Return median, p99 and maximum of times in seconds, in milliseconds."""
    if not times:
        return {"p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    ordered = sorted(times)
    return {
        "p50_ms": statistics.median(ordered) * 1000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
        "max_ms": ordered[-1] * 1000,
    }


def _read_lines() -> "SimpleQueue[str]":
    """Return a queue of the lines of stdin; an empty line is the end."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _run_steps(steps: Steps) -> Iterator[Answer]:
    lines = _read_lines()
    while True:
        try:
            line = lines.get_nowait()
        except Empty:
            steps.idle()
            continue
        if not line:
            return
        request = json.loads(line)
        try:
            yield getattr(steps, request.pop("do"))(**request)
        except (OSError, TimeoutError) as exc:
            yield {"error": f"{type(exc).__name__}: {exc}"}


def main(make_steps: Callable[[str, int, str, str], Steps] = Steps) -> None:
    """Run the steps on stdin until it ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Nothing here needs collection, and a collection would delay round trips.
    gc.disable()
    host, port, dialect, path = sys.argv[1:]
    for answer in _run_steps(make_steps(host, int(port), dialect, path)):
        print(json.dumps(answer), flush=True)
    # The kernel closes the sockets with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
