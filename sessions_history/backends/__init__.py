"""Choose the backend of the log for the configured database."""

from datetime import datetime

from connections.models.alias import get_connection
from sessions_history.backends.base import Backend
from sessions_history.backends.postgresql import PostgresqlBackend
from sessions_history.backends.sqlite import SqliteBackend


def make_backend(at: datetime) -> Backend:
    """Return the backend for an open transaction."""
    connection = get_connection()
    backend_class = (
        SqliteBackend if connection.vendor == "sqlite" else PostgresqlBackend
    )
    return backend_class(connection, at)
