"""Connections to the echo consumer of a live server, and queries of its database."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from connections.testing import LiveServer
from connections.testing.waiting import scale

ECHO = "/ws/echo/"
QUICK: dict[str, Any] = {
    "node__beat_seconds": 0.1,
    # A node that stands still for so long on a slow machine would lose its slots.
    "node__lease_seconds": scale(2),
}
"""Beats and leases short enough for a test to wait for."""


def open_echo(server: LiveServer, token: str | None, **options: Any) -> connect:
    """Connect to the echo consumer, or to the path that the options name."""
    return server.connect(options.pop("path", ECHO), token, **options)


async def assert_alive(connection: ClientConnection) -> None:
    """Check that the server echoes a message."""
    await connection.send("ping")
    async with asyncio.timeout(scale(30)):
        assert await connection.recv() == "ping"


@contextlib.asynccontextmanager
async def opened(
    server: LiveServer, token: str, count: int
) -> AsyncIterator[list[ClientConnection]]:
    """Open connections of one client, and close them on exit."""
    connections = [await open_echo(server, token) for _ in range(count)]
    try:
        yield connections
    finally:
        await asyncio.gather(*(one.close() for one in connections))


def read_rows(server: LiveServer, query: str) -> list[tuple[Any, ...]]:
    """Run a query on the SQLite file of a server."""
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(query).fetchall()


def _is_writable(server: LiveServer) -> bool:
    """Tell whether a transaction on the SQLite file of a server can begin."""
    path = server.folder / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=scale(2))) as database:
        try:
            database.execute("begin immediate")
        except sqlite3.OperationalError:
            return False
        database.rollback()
        return True


async def freeze(process: LiveServer, server: LiveServer) -> None:
    """
    Freeze a process with SIGSTOP while it holds no lock of its SQLite file.

    A process frozen in a transaction blocks all others that write to the file,
    which is SQLite's doing and hides what the others do about the frozen one.
    """
    for _ in range(20):
        process.signal(signal.SIGSTOP)
        if await asyncio.to_thread(_is_writable, server):
            return
        process.signal(signal.SIGCONT)
    pytest.fail("the process held the lock of its database each time it was frozen")


on_both = pytest.mark.parametrize("command", ["serve", "uvicorn"])
