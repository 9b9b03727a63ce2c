"""Describe errors of the database for operators."""

from typing import Any

from django.db import Error as DatabaseError

_NOT_MIGRATED = frozenset(("42P01", "42703", "42883"))
"""PostgreSQL, appendix A: undefined_table, undefined_column, undefined_function."""

AWAY = "does not answer"
"""How describe_failure() describes a database that cannot be reached."""

_LOCKED = frozenset(("55P03", "57014", "40P01"))
"""lock_not_available, query_canceled (by statement_timeout), deadlock_detected."""


def describe_failure(exc: Exception) -> str:
    """Describe an error as the rest of "the database ...", safe to show to clients."""
    cause: Any = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
    state = getattr(cause, "sqlstate", None)
    name = getattr(cause, "sqlite_errorname", "")
    text = str(exc)
    if state in _NOT_MIGRATED or text.startswith(("no such table", "no such column")):
        return "is not migrated: run manage.py migrate"
    if state in _LOCKED or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "is locked by another process"
    if name and not name.startswith("SQLITE_CANTOPEN"):
        return "refuses the statement"
    if state is not None and state[:2] not in ("08", "57"):
        return "refuses the statement"
    return AWAY


def explain_failure(exc: DatabaseError) -> str:
    """Describe an error in one line, with the database's own message."""
    own = " ".join(str(exc).split()) or type(exc).__name__
    return f"the database {describe_failure(exc)} ({own})"
