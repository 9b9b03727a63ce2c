"""Make the database of this thread fail, as one that is away or read-only does."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections


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
def database_unreachable(alias: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Fail every statement and every new connection."""
    database = connections[alias]
    name = database.settings_dict["NAME"]
    database.close()
    database.settings_dict["NAME"] = f"{name}-missing/nothing"
    try:
        yield
    finally:
        database.close()
        database.settings_dict["NAME"] = name


@contextmanager
def statement_failing(beginning: str, *, after: int = 0) -> Iterator[None]:
    """Fail a statement, which is known by its beginning, after some that succeed."""
    count = 0

    def refuse(execute: Any, sql: str, *args: Any) -> object:
        nonlocal count
        if sql.startswith(beginning):
            count += 1
            if count > after:
                _refuse("disk I/O error", "SQLITE_IOERR")
        return execute(sql, *args)

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
