"""The tables of the log, on the database that is configured."""

from datetime import datetime

from django.db import connection

from sessions_history.backends.base import Rows
from sessions_history.backends.postgresql import PostgresqlRows
from sessions_history.backends.sqlite import SqliteRows


def make_rows(at: datetime) -> Rows:
    """Return the tables for a transaction that is open."""
    rows_class = SqliteRows if connection.vendor == "sqlite" else PostgresqlRows
    return rows_class(at)
