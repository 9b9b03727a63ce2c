"""The cost of a commit does not grow with the tables."""

import pytest
from django.db import connection

from sessions_history.backends import sqlite
from sessions_history.commits import commit
from tests.sessions_history.appends import LIMITS, make_append, make_session

pytestmark = pytest.mark.django_db

_TABLES = (
    "sessions_history_historyentry",
    "sessions_history_appendkey",
    "sessions_history_entrychunk",
)


def test_no_table_is_read_from_end_to_end() -> None:
    """The keys of a day are millions; here enough that a planner might go through."""
    if connection.vendor == "sqlite":
        assert not find_sqlite_scans()
        return
    sessions = [make_session() for _ in range(20)]
    fill_postgresql(sessions)
    before = count_postgresql_scans()
    for _ in range(2):
        commit([make_append(one, f"new-{one}") for one in sessions], LIMITS)
    assert count_postgresql_scans() == before


def find_sqlite_scans() -> list[str]:
    """Return the steps of the statements' plans that go through a whole table."""
    statements = {
        sqlite.LOCK: 2,
        sqlite.FIND_STREAMING: 1,
        sqlite.FIND_KEYS: 1,
        sqlite.MOVE: 1,
        sqlite.SEE: 2,
        sqlite.TRIM: 1,
        sqlite.WRITE_CHUNKS: 1,
    }
    found = []
    with connection.cursor() as cursor:
        for sql, parameters in statements.items():
            cursor.connection.execute(sql, ["[]"] * parameters)
            plan = cursor.connection.execute(
                f"EXPLAIN QUERY PLAN {sql}", ["[]"] * parameters
            )
            found += [step for *_, step in plan if step.startswith("SCAN")]
    return [step for step in found if not step.startswith("SCAN v")]


def fill_postgresql(sessions: list[str]) -> None:
    """Give each of some sessions 500 entries and keys, unknown to the planner."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sessions_history_appendkey"
            ' (session_id, key, digest, "offset", created_at)'
            " SELECT one, 'k' || n, 'd', n, now()"
            " FROM unnest(%s::text[]) AS one, generate_series(1, 500) AS n",
            [sessions],
        )
        cursor.execute(
            "INSERT INTO sessions_history_historyentry"
            ' (session_id, "offset", kind, sender, at, data, state)'
            " SELECT one, n, 'message', 'client', now(), '1', 'done'"
            " FROM unnest(%s::text[]) AS one, generate_series(1, 500) AS n",
            [sessions],
        )
        cursor.execute("UPDATE sessions_history_session SET last_offset = 500")


def count_postgresql_scans() -> int:
    """Return how often this transaction has read a table of the log whole."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables"
            " WHERE relname = ANY(%s)",
            [list(_TABLES)],
        )
        (count,) = cursor.fetchone()
    return int(count)
