"""Notice whether work on a database changes rows."""

from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

_WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE")


class Changes:
    """The rows that the statements on one connection changed."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._is_sqlite = connection.vendor == "sqlite"
        # SQLite's connection before the first statement, and its count then.
        self._began: tuple[Any, int] | None = None
        self._has_written = False

    @property
    def found(self) -> bool:
        """True if a statement changed at least one row."""
        if self._began is None:
            return self._has_written
        # SQLite counts rows with RETURNING after they have been fetched.
        raw, count = self._began
        return self._connection.connection is raw and raw.total_changes > count

    def execute(
        self,
        execute: Callable[..., Any],
        sql: Any,
        params: Any,
        many: Any,
        context: Any,
    ) -> Any:
        """Run a statement, as a wrapper of Django's execute()."""
        if self._is_sqlite and self._began is None:
            raw = self._connection.connection
            self._began = raw, raw.total_changes
        result = execute(sql, params, many, context)
        if not self._is_sqlite:
            cursor = context["cursor"].cursor
            is_write = (cursor.statusmessage or "").startswith(_WRITES)
            self._has_written |= is_write and cursor.rowcount != 0
        return result
