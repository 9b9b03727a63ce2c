"""
python -m benchmarks.http: measure HTTP beside busy threads, slow and large clients.

--tree serves another version of the project, for a comparison.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.processes import ROOT, ServerProcess
from benchmarks.report import make_table
from benchmarks.site import make_site
from connections.capacity.load.procfs import free_port

_PATIENCE_SECONDS = 40
_HASHING = (30, 120)
_UPLOADS = 12
_APPLICATION = "http_views:application"

Rows = list[tuple[str, str]]


async def _connect(
    server: ServerProcess, head: str, *headers: str, source: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, local_addr=(source, 0), limit=65_536
    )
    lines = [f"{head} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


async def _read_status(reader: asyncio.StreamReader) -> str:
    """Return the status of a response, or how the connection ended."""
    try:
        line = await asyncio.wait_for(reader.readline(), 3 * _PATIENCE_SECONDS)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "reset"
    return line.split()[1].decode() if line else "closed"


async def probe_beside_hashing(server: ServerProcess, requests: int) -> Rows:
    """Ask /livez while so many requests hash passwords."""
    statuses: Counter[str] = Counter()

    async def hash_one(number: int) -> None:
        source = f"127.0.{number // 50 + 1}.{number % 50 + 1}"
        reader, writer = await _connect(server, "GET /hash", source=source)
        statuses[await _read_status(reader)] += 1
        writer.close()

    hashing = [asyncio.create_task(hash_one(number)) for number in range(requests)]
    await asyncio.sleep(0.2)
    waits: list[float] = []
    most_threads = 0
    ends_at = time.monotonic() + _PATIENCE_SECONDS
    while not all(one.done() for one in hashing) and time.monotonic() < ends_at:
        began = time.monotonic()
        reader, writer = await _connect(server, "GET /livez")
        await _read_status(reader)
        writer.close()
        waits.append(time.monotonic() - began)
        threads = len(os.listdir(f"/proc/{server.pid}/task"))
        most_threads = max(most_threads, threads)
        await asyncio.sleep(0.05)
    await asyncio.gather(*hashing)
    name = f"/livez beside {requests} that hash"
    return [
        (f"{name}: median, ms", f"{statistics.median(waits) * 1000:.1f}"),
        (f"{name}: longest, ms", f"{max(waits) * 1000:.0f}"),
        (f"{name}: statuses of these", _join(statuses)),
        (f"{name}: most threads", str(most_threads)),
    ]


async def download_slowly(server: ServerProcess, bytes_per_second: int) -> Rows:
    """Download 40 MB with `Connection: close`."""
    reader, writer = await _connect(server, "GET /stream?parts=640")
    began, received = time.monotonic(), 0
    how = "complete"
    try:
        while piece := await reader.read(65_536):
            received += len(piece)
            ahead = received / bytes_per_second - (time.monotonic() - began)
            await asyncio.sleep(max(0, ahead))
    except OSError:
        how = "reset"
    writer.close()
    name = f"40 MB at {bytes_per_second / 1e6:g} MB/s"
    seconds = time.monotonic() - began
    return [(name, f"{how}: {received / 1e6:.1f} MB in {seconds:.0f} s")]


async def upload_slowly(server: ServerProcess, bytes_per_second: int) -> Rows:
    """Upload a megabyte."""
    began = time.monotonic()
    reader, writer = await _connect(server, "POST /upload", "Content-Length: 1000000")
    sending = asyncio.create_task(_send_slowly(writer, 1_000_000, bytes_per_second))
    status = await _read_status(reader)
    sending.cancel()
    writer.close()
    name = f"1 MB up at {bytes_per_second / 1e3:g} kB/s"
    return [(name, f"{status} after {time.monotonic() - began:.0f} s")]


async def _send_slowly(
    writer: asyncio.StreamWriter, size: int, bytes_per_second: int
) -> None:
    sent = 0
    while sent < size:
        piece = min(bytes_per_second, size - sent)
        writer.write(bytes(piece))
        sent += piece
        await asyncio.sleep(1)


async def stream_unread(server: ServerProcess) -> Rows:
    """Ask for a long response and read nothing of it."""
    before = server.memory_kib()
    _, writer = await _connect(server, "GET /stream?parts=100000")
    await asyncio.sleep(3)
    grown = server.memory_kib() - before
    writer.transport.abort()
    return [("unread response: growth, MB/s", f"{grown / 1024 / 3:.1f}")]


async def upload_much(server: ServerProcess) -> Rows:
    """Upload 12 bodies of 30 MB at once, beside the default buffers of 256 MB."""
    statuses: Counter[str] = Counter()
    before = server.memory_kib()
    highest = before

    begun = asyncio.Event()
    waiting = 0

    async def upload() -> None:
        nonlocal highest, waiting
        reader, writer = await _connect(
            server, "POST /upload", "Content-Length: 30000000"
        )
        try:
            for _ in range(29):
                writer.write(bytes(1_000_000))
                await writer.drain()
                highest = max(highest, server.memory_kib())
            # No upload is complete before all have nearly been sent.
            waiting += 1
            if waiting == _UPLOADS:
                begun.set()
            await asyncio.wait_for(begun.wait(), 10)
            writer.write(bytes(1_000_000))
            await writer.drain()
        except (OSError, TimeoutError):
            begun.set()
        statuses[await _read_status(reader)] += 1
        writer.close()

    await asyncio.gather(*(upload() for _ in range(_UPLOADS)))
    grown = (max(highest, server.memory_kib()) - before) / 1024
    name = "12 uploads of 30 MB"
    return [
        (f"{name}: statuses", _join(statuses)),
        (f"{name}: growth, MB", f"{grown:.0f}"),
    ]


async def upload_in_tiny_chunks(server: ServerProcess) -> Rows:
    """Upload a megabyte in chunks of one byte."""
    before = server.cpu_seconds()
    reader, writer = await _connect(
        server, "POST /upload", "Transfer-Encoding: chunked"
    )
    chunks = b"1\r\nx\r\n" * 10_000
    status = asyncio.create_task(_read_status(reader))
    try:
        for _ in range(100):
            writer.write(chunks)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    except OSError:
        pass  # The server has refused the rest.
    found = await status
    spent = server.cpu_seconds() - before
    writer.close()
    return [("1 MB in chunks of 1 byte", f"{found}; {spent:.2f} s of CPU")]


def _join(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in statuses.items())


async def _measure(server: ServerProcess, is_quick: bool) -> Rows:
    steps: list[Callable[[], Awaitable[Rows]]] = [
        lambda: probe_beside_hashing(server, 5 if is_quick else _HASHING[0]),
        lambda: stream_unread(server),
        lambda: upload_much(server),
        lambda: upload_in_tiny_chunks(server),
    ]
    if not is_quick:
        steps.insert(1, lambda: probe_beside_hashing(server, _HASHING[1]))
    rows: Rows = []
    for step in steps:
        rows += await step()
    if not is_quick:
        slow = (download_slowly(server, 2_300_000), upload_slowly(server, 14_000))
        for found in await asyncio.gather(*slow):
            rows += found
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measures on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the version to serve")
    parser.add_argument("--quick", action="store_true", help="only the short measures")
    options = parser.parse_args(arguments)
    tree = options.tree.resolve()
    with make_site() as name:
        folder, port = Path(name), free_port()
        environment = {
            "ORCHESTRA_VAR": str(folder),
            "PYTHONPATH": f"{tree}:{ROOT / 'benchmarks' / 'served'}",
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "LOG_LEVEL": "ERROR",
            "WEBSOCKET__HANDSHAKE__MAX_BODY_SIZE": "100MB",
        }
        migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=tree, env={**os.environ, **environment}, check=True)
        serve = [sys.executable, "-m", "daphne", "-p", str(port), _APPLICATION]
        with ServerProcess(
            serve,
            port=port,
            log=folder / "server.log",
            environment=environment,
            folder=tree,
        ) as server:
            rows = asyncio.run(_measure(server, options.quick))
    print(make_table(("measure", "value"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
