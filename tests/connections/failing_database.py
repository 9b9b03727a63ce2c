"""Make the database of this thread fail, as one that is away or read-only does."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connection


def _refuse(message: str, name: str) -> None:
    cause = sqlite3.OperationalError(message)
    cause.sqlite_errorname = name
    raise OperationalError(message) from cause


@contextmanager
def database_away() -> Iterator[None]:
    """Fail every statement."""

    def refuse(execute: Any, *args: Any) -> None:
        _refuse("unable to open database file", "SQLITE_CANTOPEN")

    with connection.execute_wrapper(refuse):
        yield


@contextmanager
def database_read_only() -> Iterator[None]:
    """Fail every statement that writes."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> object:
        if not sql.startswith(("SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK")):
            _refuse("attempt to write a readonly database", "SQLITE_READONLY")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield
