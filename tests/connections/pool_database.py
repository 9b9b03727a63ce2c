"""A PostgreSQL database with the pool alone, and the pools of nodes in it."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from connections.models.alias import get_alias
from connections.storage.database import Database
from connections.testing.databases import use_in_thread
from connections.testing.waiting import scale
from tests.connections.pool_nodes import PostgresNodePool
from tests.integration.services import PostgresProcess
from tests.project import ROOT

Result = TypeVar("Result")

SCRIPT = ROOT / "connections" / "pool" / "scripts" / "postgres_1.sql"
TABLES = "connections_pool_slot, connections_pool_lease, connections_pool_state"


class ForeignDatabase(Database):
    """The threads of a node on a database other than that of the tests."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__()
        self._settings = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "HOST": "127.0.0.1",
            "PORT": port,
            "USER": "orchestra",
            "OPTIONS": {"connect_timeout": round(scale(2))},
            "CONN_MAX_AGE": None,
        }
        self._threads = threading.local()

    async def run_briefly(
        self, work: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        return await super().run_briefly(self._run_there, work, *args, **kwargs)

    def _run_there(
        self, work: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        if not hasattr(self._threads, "is_set_up"):
            use_in_thread({get_alias(): self._settings})
            self._threads.is_set_up = True
        return work(*args, **kwargs)


class PoolDatabase:
    """One database of a server, with the tables and functions of the pool."""

    has_shards = False

    def __init__(self, server: PostgresProcess, name: str) -> None:
        self.server = server
        self.name = name
        server.create_database(name)
        with self.connect() as connection:
            connection.execute(SCRIPT.read_bytes())

    @property
    def port(self) -> int:
        return self.server.port

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    def connect(self) -> psycopg.Connection:
        return self.server.connect(self.name)

    def make_pool(
        self, node_id: str = "a", *, port: int = 0, **options: Any
    ) -> PostgresNodePool:
        """Return the pool of a node; a port is that of a proxy or a pooler."""
        database = ForeignDatabase(port or self.server.port, self.name)
        return PostgresNodePool(
            database, self.server.url(self.name), node_id, **options
        )

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def run(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement.encode())

    def empty(self) -> None:
        """Return to the state after the migration."""
        self.run(f"TRUNCATE {TABLES}; INSERT INTO connections_pool_state VALUES (1)")

    def lose_slots(self, *, is_whole: bool = True) -> None:
        """Lose all tables of the pool, or the slots alone."""
        self.run(f"TRUNCATE {TABLES if is_whole else 'connections_pool_slot'}")

    def jump(self, seconds: float) -> None:
        """Make its clock jump by moving all stored times the other way."""
        back = f"- interval '{seconds} seconds'"
        for table, column in (
            ("lease", "expires_at"),
            ("slot", "since"),
            ("state", "recovering_until"),
        ):
            self.run(f"UPDATE connections_pool_{table} SET {column} = {column} {back}")

    def leased(self) -> set[str]:
        """Return the connections with a slot."""
        rows = self.ask(
            "SELECT connection_id FROM connections_pool_slot WHERE taken_for = ''"
        )
        return {str(one) for (one,) in rows}
