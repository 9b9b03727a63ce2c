"""A PostgreSQL database with the tables of presence, and what its nodes hear."""

import asyncio
import importlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
from django.db import connections
from django.db.utils import load_backend

from connections.models.alias import get_alias
from tests.integration.services import PostgresProcess

NAME = "presence"
TABLES = ("lease", "member", "holder")
THREADS = 3


class PresenceDatabase:
    """The database, and threads that use it instead of that of the tests."""

    def __init__(self, server: PostgresProcess) -> None:
        self.url = server.create_database(NAME)
        self._server = server
        migration: Any = importlib.import_module("connections.migrations.0023_presence")
        with server.connect(NAME) as connection:
            connection.execute(migration.TABLES)
        self._opened: list[Any] = []
        self._threads = ThreadPoolExecutor(THREADS, initializer=self._open)

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *args)

    def empty(self) -> None:
        names = ", ".join(f"connections_presence_{one}" for one in TABLES)
        with self._server.connect(NAME) as connection:
            connection.execute(f"TRUNCATE {names}".encode())

    def jump(self, seconds: float) -> None:
        """Make its clock jump by moving all stored times the other way."""
        back = f"- interval '{seconds} seconds'"
        with self._server.connect(NAME) as connection:
            for table, column in (("lease", "ends_at"), ("member", "due")):
                update = f"UPDATE connections_presence_{table} SET {column} = {column}"
                connection.execute(f"{update} {back}".encode())

    def close(self) -> None:
        self._threads.shutdown()
        for opened in self._opened:
            opened.close()

    def _open(self) -> None:
        """Connect this thread, as Django does; pytest-django blocks its own way."""
        alias = get_alias()
        changed = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": NAME,
            "HOST": "127.0.0.1",
            "PORT": self._server.port,
            "USER": "orchestra",
            "OPTIONS": {},
            "CONN_MAX_AGE": 0,
        }
        settings = {**connections.settings[alias], **changed}
        backend: Any = load_backend(settings["ENGINE"])
        opened = backend.DatabaseWrapper(settings, alias)
        opened.ensure_connection = lambda: opened.connection or opened.connect()
        opened.inc_thread_sharing()
        connections[alias] = opened
        self._opened.append(opened)


class ListeningBus:
    """The part of a bus in PostgreSQL that hands notifications on."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._callback: Callable[[dict[str, Any]], None] = lambda message: None
        self._listening: asyncio.Task[None] | None = None

    def on_message(self, kind: str, callback: Callable[[dict[str, Any]], None]) -> None:
        self._callback = callback

    def on_return(self, callback: Callable[[], None]) -> None:
        """Nothing is missing here."""

    async def start(self) -> None:
        if self._listening is None:
            connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True
            )
            await connection.execute('LISTEN "orchestra:bus:all"')
            self._listening = asyncio.create_task(self._listen(connection))

    async def close(self) -> None:
        """Stop listening; raise what ended it before."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        async with connection:
            async for notification in connection.notifies():
                self._callback(json.loads(notification.payload))
