"""The tables of the log, on the database that is configured."""

from datetime import datetime

from django.db import connection

from sessions_history.backends.base import Backend
from sessions_history.backends.postgresql import PostgresqlBackend
from sessions_history.backends.sqlite import SqliteBackend


def make_backend(at: datetime) -> Backend:
    """Return the tables for a transaction that is open."""
    backend_class = (
        SqliteBackend if connection.vendor == "sqlite" else PostgresqlBackend
    )
    return backend_class(at)
