"""
Test that every list, search, filter, page and command reads few rows of many.

The cases are those of `python -m benchmarks.size`, which times them at a million
rows. Here the databases tell what each query reads, without ANALYZE.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from benchmarks.size.cases import list_cases
from benchmarks.size.rows import Sizes, fill
from connections.dashboard.bounded_lists import MOST_COUNTED
from connections.models.error_groups import MOST_GROUPED
from connections.testing.databases import run_on
from tests.integration.services import PostgresProcess

SIZES = Sizes(rows=100_000, minutes=24 * 60)
PREFER_ORDER = [
    f"SET enable_{name} = off" for name in ("seqscan", "bitmapscan", "sort")
]
"""In small tables without statistics, PostgreSQL prefers to read and sort all rows."""

BIG = re.compile(
    r"connections_connection|connections_errorevent|sessions_history_historyentry"
)
MOST_READ = max(MOST_COUNTED, MOST_GROUPED) + 2_000
"""The most rows of a big table that one query may read, to count or group them."""

MOST_STEPS = 200_000
"""The most instructions of SQLite's machine; a row that is filtered takes three."""

Explain = Callable[[Any, Any], str]


@dataclass(frozen=True, slots=True)
class Issued:
    """A query that a case issued, with its parameters."""

    sql: str
    params: Any


@contextmanager
def collect(issued: list[Issued]) -> Iterator[None]:
    """Collect the queries of this thread as they are sent, with their parameters."""

    def execute(
        run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if sql.startswith("SELECT") and BIG.search(sql):
            issued.append(Issued(sql, params))
        return run(sql, params, many, context)

    with connection.execute_wrapper(execute):
        yield


def explain_on_sqlite(sql: str, params: Any) -> str:
    """Return what is wrong with the plan of a query, or nothing."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1000
        return 0

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
        plan = [row[3] for row in cursor.fetchall()]
        is_scan = any(re.match(rf"SCAN ({BIG.pattern})", one) for one in plan)
        connection.connection.set_progress_handler(count, 1000)
        try:
            cursor.execute(sql, params)
            cursor.fetchall()
        finally:
            connection.connection.set_progress_handler(None, 0)
    # The newest rows of a whole list are read in the order of an index.
    # Errors are grouped within a bound, with many sums for each.
    is_long = steps > MOST_STEPS and "GROUP BY" not in sql
    if is_long or (is_scan and "LIMIT" not in sql):
        return f"{steps} steps: {plan}"
    return ""


def explain_on_postgres(sql: str, params: Any) -> str:
    """Return what is wrong with the plan of a query, or nothing."""
    with connection.cursor() as cursor:
        problem = run_on_postgres(cursor, sql, params)
        if problem:
            cursor.execute("; ".join(PREFER_ORDER))
            problem = run_on_postgres(cursor, sql, params)
            cursor.execute("RESET ALL")
    return problem


def run_on_postgres(cursor: Any, sql: str, params: Any) -> str:
    cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", params)
    (found,) = cursor.fetchone()
    plan = json.loads(found) if isinstance(found, str) else found
    for node in walk(plan[0]["Plan"]):
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        rows = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
        read = rows * node["Actual Loops"]
        if BIG.match(node.get("Relation Name", "")) and read > MOST_READ:
            return f"{node['Node Type']} by {node.get('Index Name')} reads {read} rows"
    return ""


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def find_slow(explain: Explain) -> list[str]:
    """Return the queries that read too much, each with its case and its plan."""
    fill(connection, SIZES)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("staff"))
    slow = []
    for case in list_cases(SIZES):
        issued: list[Issued] = []
        with collect(issued):
            case.run(client)
        for one in issued:
            if problem := explain(one.sql, one.params):
                slow.append(f"{case.name}: {problem}: {one.sql} {one.params}")
    return slow


SCAN = "SELECT path FROM connections_connection WHERE route = %s LIMIT 1"


@pytest.mark.slow
def test_no_query_reads_a_big_table_on_sqlite(
    tmp_path: Path, migrated_database: Path
) -> None:
    path = tmp_path / "db.sqlite3"
    shutil.copyfile(migrated_database, path)
    engine = "django.db.backends.sqlite3"
    database = {"default": {"ENGINE": engine, "NAME": path, "OPTIONS": {}}}
    slow = run_on(database, find_slow, explain_on_sqlite)
    assert not slow, "\n".join(slow)
    assert "steps" in run_on(database, explain_on_sqlite, SCAN, ["nothing"])


@pytest.mark.slow
def test_no_query_reads_a_big_table_on_postgres(
    migrated_postgres: PostgresProcess,
) -> None:
    url = migrated_postgres.create_database("plans", template="migrated")
    database: Any = {"default": {**dj_database_url.parse(url), "OPTIONS": {}}}
    slow = run_on(database, find_slow, explain_on_postgres)
    assert not slow, "\n".join(slow)
    assert "Scan" in run_on(database, explain_on_postgres, SCAN, ["nothing"])
