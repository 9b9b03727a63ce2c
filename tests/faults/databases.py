"""Query the SQLite or PostgreSQL database of live servers."""

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.services import PostgresProcess


@dataclass(kw_only=True)
class Store:
    """A migrated database that servers may share."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    """The environment that makes a server use this database."""

    postgres: PostgresProcess | None = None
    name: str = ""

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        if self.postgres is None:
            path = self.folder / "db.sqlite3"
            with contextlib.closing(sqlite3.connect(path)) as database:
                return database.execute(query).fetchall()
        with contextlib.closing(self.postgres.connect(self.name)) as database:
            return database.execute(query.encode()).fetchall()


@contextlib.contextmanager
def make_postgres_store(postgres: PostgresProcess, folder: Path) -> Iterator[Store]:
    """Yield a private migrated database; resume the server afterwards."""
    name = f"faults_{uuid.uuid4().hex}"
    url = postgres.create_database(name, template="migrated")
    yield Store(
        folder=folder, environment={"DATABASE_URL": url}, postgres=postgres, name=name
    )
    postgres.resume()
