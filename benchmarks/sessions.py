"""
How fast sessions are: python -m benchmarks.sessions

On SQLite and on a PostgreSQL that it starts itself: entries that the log by
itself commits per second; entries that 200 clients have acked per second over
sockets, as fast as it goes; how long an ack takes at a steady 1,000 a second;
how long it takes a client to get 100 entries that it missed.
"""

import argparse
import asyncio
import base64
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, ServerProcess
from benchmarks.report import describe_machine, make_table
from benchmarks.site import make_site
from connections.load.frames import TEXT, build_frame, split_frames
from connections.load.processes import free_port

CLIENTS = 200
_WINDOW = 8
"""Messages that a client has under way when it goes as fast as it can."""

_STEADY_PER_SECOND = 1_000
_ENTRIES = 100
_RESUMES = 50
_PAYLOAD = {"text": "a message of about a hundred bytes, as people write: é👍🏽"}

_UNLIMITED = {
    "WEBSOCKET__ANONYMOUS": "true",
    "WEBSOCKET__MAX_CONNECTIONS_PER_CLIENT": "1000",
    "WEBSOCKET__RATE_LIMIT__MESSAGES_PER_SECOND": "100000",
    "WEBSOCKET__RATE_LIMIT__BURST_MESSAGES": "100000",
    "WEBSOCKET__RATE_LIMIT__BYTES_PER_SECOND": "1GB",
    "WEBSOCKET__RATE_LIMIT__BURST_BYTES": "1GB",
    "LOG_LEVEL": "WARNING",
}


class Page(asyncio.Protocol):
    """One client on one connection, as lean as Python can be."""

    def __init__(self, port: int, path: str) -> None:
        self.times: list[float] = []
        self.hello: dict[str, Any] = {}
        self.entries = 0
        self.on_ack: Callable[[Page], None] = lambda page: None
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.caught_up: asyncio.Future[None] | None = None
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Origin: http://127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
        )
        self._buffer = b""
        self._is_open = False
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self.all_acked = asyncio.Event()
        self._sent: dict[str, float] = {}
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head.splitlines()[0]:
                raise ConnectionRefusedError(head.decode())
            self._is_open, self._buffer = True, rest
        frames, self._buffer = split_frames(self._buffer)
        for whole, payload in frames:
            if whole[0] == TEXT:
                self._take(payload)

    def say(self) -> None:
        """Send a message and take the time until its ack."""
        message_id = f"{self._prefix}-{next(self._numbers)}"
        self._sent[message_id] = time.perf_counter()
        self.all_acked.clear()
        message = {"type": "message", "id": message_id, "data": _PAYLOAD}
        frame = build_frame(TEXT, json.dumps(message).encode())
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"entry"'):
            self.entries += 1
            if self.entries == _ENTRIES and self.caught_up is not None:
                self.caught_up.set_result(None)
            return
        message = json.loads(payload)
        if message["type"] == "ack":
            sent_at = self._sent.pop(message["id"])
            self.times.append(time.perf_counter() - sent_at)
            self.on_ack(self)
            if not self._sent:
                self.all_acked.set()
        elif message["type"] == "hello":
            self.hello = message
            self.greeted.set_result(None)
        else:
            raise ConnectionError(payload.decode())


async def open_page(port: int, session: str = "new", query: str = "") -> Page:
    """Connect and return when greeted."""
    loop = asyncio.get_running_loop()
    path = f"/ws/sessions/{session}/{query}"
    _, page = await loop.create_connection(lambda: Page(port, path), "127.0.0.1", port)
    async with asyncio.timeout(30):
        await page.greeted
    return page


async def measure_sockets(server: ServerProcess, seconds: float) -> dict[str, float]:
    """Return what 200 clients see, and one that comes back."""
    port = server.port
    pages = [await open_page(port) for _ in range(CLIENTS)]
    fast = await _go_fast(pages, server, seconds)
    steady = await _go_steady(pages, seconds)
    for page in pages:
        page.close()
    page = await open_page(port)
    for _ in range(_ENTRIES):
        page.say()
    await _wait_acked([page])
    page.close()
    query = f"?epoch={page.hello['epoch']}&offset=0"
    resumes = []
    for _ in range(_RESUMES):
        started = time.perf_counter()
        again = await open_page(port, page.hello["session"], query)
        again.caught_up = asyncio.get_running_loop().create_future()
        if again.entries < _ENTRIES:
            async with asyncio.timeout(30):
                await again.caught_up
        resumes.append(time.perf_counter() - started)
        again.close()
    return {
        **fast,
        **steady,
        "resume_p50_ms": 1000 * statistics.median(resumes),
        "resume_p99_ms": 1000 * _find_quantile(resumes, 0.99),
    }


async def _go_fast(
    pages: list[Page], server: ServerProcess, seconds: float
) -> dict[str, float]:
    """Have every client send its next message as soon as one is acked."""
    ends_at = time.perf_counter() + seconds
    cpu_seconds = server.cpu_seconds()
    for page in pages:
        page.times.clear()
        page.on_ack = lambda one: one.say() if time.perf_counter() < ends_at else None
        for _ in range(_WINDOW):
            page.say()
    await asyncio.sleep(seconds)
    acked = sum(len(page.times) for page in pages)
    cpu_seconds = server.cpu_seconds() - cpu_seconds
    for page in pages:
        page.on_ack = lambda one: None
    await _wait_acked(pages)
    return {
        "acked_per_second": acked / seconds,
        "server_cpu_us_per_append": 1e6 * cpu_seconds / acked,
    }


async def _go_steady(pages: list[Page], seconds: float) -> dict[str, float]:
    """Have the clients send in turn, at a steady rate."""
    for page in pages:
        page.times.clear()
    started = time.perf_counter()
    count = int(_STEADY_PER_SECOND * seconds)
    for number in range(count):
        wait_seconds = started + number / _STEADY_PER_SECOND - time.perf_counter()
        if wait_seconds > 0.001:
            await asyncio.sleep(wait_seconds)
        pages[number % len(pages)].say()
    await _wait_acked(pages)
    times = [one for page in pages for one in page.times]
    return {
        "ack_p50_ms": 1000 * statistics.median(times),
        "ack_p99_ms": 1000 * _find_quantile(times, 0.99),
    }


async def _wait_acked(pages: list[Page]) -> None:
    async with asyncio.timeout(60):
        for page in pages:
            await page.all_acked.wait()


def _find_quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure_log(seconds: float) -> float:
    """Return the entries per second that the log commits; needs Django set up."""
    from connections.config import get_config
    from connections.database import Database
    from sessions_history.log import SessionLog
    from sessions_history.reads import create_session

    database = Database()
    log = SessionLog(database, node_id="n" * 32, config=get_config())
    sessions = [
        await database.write(create_session, f"client-{number}", None)
        for number in range(CLIENTS)
    ]
    ends_at = time.perf_counter() + seconds
    counts = itertools.count()

    async def append(session_id: str, place: int) -> None:
        prefix = os.urandom(8).hex()
        while time.perf_counter() < ends_at:
            await log.say(session_id, f"{prefix}-{next(counts)}", _PAYLOAD)

    await asyncio.gather(
        *(append(one.session_id, place) for one in sessions for place in range(_WINDOW))
    )
    await log.stop()
    await database.close()
    return next(counts) / seconds


@contextmanager
def serve(folder: Path, environment: dict[str, str]) -> Iterator[ServerProcess]:
    """Serve a migrated database."""
    port = free_port()
    argv = [sys.executable, "manage.py", "serve", "--port", str(port)]
    _manage(environment, "manage.py", "migrate", "--verbosity", "0")
    with ServerProcess(
        argv, port=port, log=folder / "server.log", environment=environment
    ) as server:
        yield server


def measure(folder: Path, database_url: str, seconds: float) -> dict[str, float]:
    """Return all figures on one database, which is empty."""
    environment = {
        **os.environ,
        **_UNLIMITED,
        "DJANGO_SETTINGS_MODULE": "orchestra.settings",
        "ORCHESTRA_VAR": str(folder),
        "DATABASE_URL": database_url,
    }
    with serve(folder, environment) as server:
        found = asyncio.run(measure_sockets(server, seconds))
    arguments = ("-m", "benchmarks.sessions", "--log", "--seconds", str(seconds))
    alone = float(_manage(environment, *arguments))
    return {"committed_per_second": alone, **found}


def _manage(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sessions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=8, help="for each load")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--log", action="store_true", help="the log alone, in here")
    arguments = parser.parse_args()
    if arguments.log:
        import django

        django.setup()
        print(asyncio.run(measure_log(arguments.seconds)))
        return 0
    found = {}
    with make_site() as folder:
        if arguments.only != "postgresql":
            place = Path(folder) / "sqlite"
            place.mkdir()
            url = f"sqlite:///{place / 'db.sqlite3'}"
            found["SQLite"] = measure(place, url, arguments.seconds)
        if arguments.only != "sqlite":
            from tests.integration.services import PostgresProcess

            place = Path(folder) / "postgresql"
            place.mkdir()
            server = PostgresProcess()
            try:
                server.create()
                url = server.create_database("benchmark")
                found["PostgreSQL"] = measure(place, url, arguments.seconds)
            finally:
                server.remove()
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['revision']}")
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{one[name]:,.1f}" for one in found.values())] for name in names]
    print(make_table(["", *found], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
