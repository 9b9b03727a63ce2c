"""
Find the database of these tables, which a router may separate from the rest.

All reads go to the database that takes the writes: a token, a ban or a close
request that a replica does not have yet would let in a client that may not.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

Row = TypeVar("Row", bound=models.Model, covariant=True)


def get_alias() -> str:
    """Return the alias of the database that holds the tables of both apps."""
    return router.db_for_write(apps.get_model("connections", "Connection"))


def get_connection() -> BaseDatabaseWrapper:
    """Return this thread's connection to the database of these tables."""
    return connections[get_alias()]


def atomic() -> transaction.Atomic:
    """Return a transaction, or a savepoint, in the database of these tables."""
    return transaction.atomic(using=get_alias())


class PrimaryQuerySet(models.QuerySet[Row]):
    """Rows that are read from the database that takes the writes."""

    _db: str | None
    _hints: dict[str, Any]

    @property
    def db(self) -> str:
        """The alias of the database that the query runs on."""
        return self._db or router.db_for_write(self.model, **self._hints)


def step(rows: models.QuerySet[Any, Any], chunk_size: int) -> Iterator[Any]:
    """
    Yield rows that SQLite computes a chunk at a time, as they are taken.

    Other databases compute and send all at once: a cursor would take a round trip for
    each chunk.
    """
    if connections[rows.db].vendor == "sqlite":
        return rows.iterator(chunk_size)
    return iter(rows)


def stream(rows: models.QuerySet[Any, Any], chunk_size: int = 2000) -> Iterator[Any]:
    """
    Yield rows a chunk at a time.

    On PostgreSQL in a transaction, because a pooler may give each transaction
    another connection, where the cursor does not exist.
    """
    if connections[rows.db].vendor == "sqlite":
        yield from rows.iterator(chunk_size)
    else:
        with transaction.atomic(using=rows.db):
            yield from rows.iterator(chunk_size)
