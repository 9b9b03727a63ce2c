"""What an error of the database means for whoever looks after it."""

from typing import Any

from django.db import Error as DatabaseError

_NOT_MIGRATED = frozenset(("42P01", "42703"))
"""PostgreSQL, appendix A: undefined_table, undefined_column."""

_HELD = frozenset(("55P03", "57014", "40P01"))
"""lock_not_available, query_canceled (by statement_timeout), deadlock_detected."""


def describe_failure(exc: Exception) -> str:
    """Complete "the database ..." for an error, in words that are safe to show."""
    cause: Any = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
    state = getattr(cause, "sqlstate", None)
    name = getattr(cause, "sqlite_errorname", "")
    text = str(exc)
    if state in _NOT_MIGRATED or text.startswith(("no such table", "no such column")):
        return "is not migrated: run manage.py migrate"
    if state in _HELD or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "is locked by somebody else"
    if name and not name.startswith("SQLITE_CANTOPEN"):
        return "refuses what is asked"
    if state is not None and state[:2] not in ("08", "57"):
        return "refuses what is asked"
    return "does not answer"


def explain_failure(exc: DatabaseError) -> str:
    """Say in one line what failed, with the database's own words for operators."""
    own = " ".join(str(exc).split()) or type(exc).__name__
    return f"the database {describe_failure(exc)} ({own})"
