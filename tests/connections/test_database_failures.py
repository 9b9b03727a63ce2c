"""A database failure is named to operators in one sentence."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import Error, OperationalError, ProgrammingError, connection

from connections.storage.failures import describe_failure


def fail_as(cause: Exception, kind: type[Error] = OperationalError) -> Error:
    """Return an error as Django raises it for a driver's own."""
    error = kind(str(cause))
    error.__cause__ = cause
    return error


def fail_in_sqlite(statement: str, path: Path) -> Error:
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(path, timeout=0).execute(statement)
    return fail_as(caught.value)


def test_sqlite_without_tables_is_not_migrated(tmp_path: Path) -> None:
    failure = fail_in_sqlite("select * from missing", tmp_path / "db")
    assert describe_failure(failure) == "is not migrated: run manage.py migrate"


def test_sqlite_that_another_writes_to_is_locked(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "db")
    other.execute("begin exclusive")
    failure = fail_in_sqlite("begin immediate", tmp_path / "db")
    other.close()
    assert describe_failure(failure) == "is locked by another process"


def test_sqlite_that_cannot_be_opened_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(tmp_path / "nowhere" / "db")
    assert describe_failure(fail_as(caught.value)) == "does not answer"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (psycopg.errors.UndefinedTable(), "is not migrated"),
        (psycopg.errors.UndefinedColumn(), "is not migrated"),
        (psycopg.errors.LockNotAvailable(), "is locked"),
        (psycopg.errors.QueryCanceled(), "is locked"),
        (psycopg.errors.AdminShutdown(), "does not answer"),
        (psycopg.errors.ConnectionFailure(), "does not answer"),
        (psycopg.OperationalError("connection refused"), "does not answer"),
        (psycopg.errors.DiskFull(), "refuses the statement"),
        (psycopg.errors.InsufficientPrivilege(), "refuses the statement"),
    ],
)
def test_postgresql_errors_are_described(cause: Exception, words: str) -> None:
    assert describe_failure(fail_as(cause, ProgrammingError)).startswith(words)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "command",
    [
        ("connections", "list"),
        ("connections", "show", "c1"),
        ("connections", "kick", "--client", "a"),
        ("ban", "--client", "a"),
        ("ban", "--list"),
        ("unban", "--client", "a"),
        ("alerts",),
        ("alerts", "--self-test", "--without-mail"),
        ("create_access_token", "--client", "a"),
        ("prune_sessions",),
        ("sweep_idle_connections", "--once"),
    ],
    ids=" ".join,
)
def test_commands_report_a_failure_in_one_line(command: tuple[str, ...]) -> None:
    def fail(execute: Callable[..., Any], *args: Any) -> Any:
        raise fail_as(psycopg.OperationalError("connection failed:\nno such host"))

    with (
        connection.execute_wrapper(fail),
        pytest.raises(CommandError) as caught,
    ):
        call_command(*command)
    expected = "the database does not answer (connection failed: no such host)"
    assert str(caught.value) == expected
