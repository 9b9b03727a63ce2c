"""Read the rows of a query at once."""

import json
from typing import Any, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import connections, models

Row = TypeVar("Row", bound=models.Model)


def read_at_once(rows: "models.QuerySet[Row, Row]") -> list[Row]:
    """
    Return the rows of a query on one table, which SQLite gives as one value.

    Python's sqlite3 lets go of the interpreter's lock for each row, and the event
    loop takes it: for many small rows that is most of their cost. The drivers of
    other databases receive all rows together. No column may be binary.
    """
    database = connections[rows.db]
    if database.vendor != "sqlite":
        return list(rows)
    fields = rows.model._meta.concrete_fields
    columns = ", ".join(f'"{field.column}"' for field in fields)
    compiler: Any = rows.query.get_compiler(connection=database)
    try:
        query, parameters = compiler.as_sql()
    except EmptyResultSet:  # As for a list without values.
        return []
    with database.cursor() as cursor:
        cursor.execute(
            f"SELECT json_group_array(json_array({columns})) FROM ({query})", parameters
        )
        (text,) = cursor.fetchone()
    converters = compiler.get_converters(one for one, _, _ in compiler.select)
    names = [field.attname for field in fields]
    return [
        rows.model.from_db(rows.db, names, values)
        for values in compiler.apply_converters(json.loads(text), converters)
    ]
