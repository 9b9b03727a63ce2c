"""
Empty the tables after a test without a transaction, in place of Django's flush.

Flush deletes from every table and then makes the permissions and content types of
every model anew, which took a fifth of all tests. Few tables have rows after a test,
and tests change neither permissions nor content types.
"""

from typing import Any
from unittest.mock import patch

from django.db import connections, transaction
from django.test import TransactionTestCase

_KEPT = {"auth_permission", "django_content_type"}


def empty_tables(alias: str) -> None:
    """Delete all rows of a database but those of permissions and content types."""
    connection = connections[alias]
    names = connection.introspection.django_table_names(
        only_existing=True, include_views=False
    )
    tables = [connection.ops.quote_name(name) for name in names if name not in _KEPT]
    if not tables:
        return
    having_rows = " UNION ALL ".join(
        f"SELECT {number} WHERE EXISTS (SELECT 1 FROM {table})"
        for number, table in enumerate(tables)
    )
    with transaction.atomic(alias), connection.cursor() as cursor:
        cursor.execute(having_rows)
        # Foreign keys are checked at the end of the transaction.
        for (number,) in cursor.fetchall():
            cursor.execute(f"DELETE FROM {tables[number]}")


def pytest_configure() -> None:
    # TestCase, which rolls back, has a method of its own.
    patch.object(TransactionTestCase, "_fixture_teardown", _empty_all).start()


def _empty_all(case: Any) -> None:
    for alias in case.databases:
        if connections[alias].settings_dict["TEST"]["MIRROR"] is None:
            empty_tables(alias)
