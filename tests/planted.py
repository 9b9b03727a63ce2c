"""Search every table, and every key of Redis, for planted texts."""

from collections.abc import Iterator
from typing import Any

from django.db import connection


def find_in_database(*texts: str) -> list[str]:
    """Return the tables that hold one of some texts, in any column."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            if any(text in cell for cell in _read(cursor.fetchall()) for text in texts):
                found.append(table)
    return found


def find_in_redis(client: Any, *texts: str) -> list[str]:
    """Return the keys of Redis that hold one of some texts, in name or value."""
    found = []
    for key in client.scan_iter():
        values = repr(_read_value(client, key))
        if any(text in values or text in repr(key) for text in texts):
            found.append(repr(key))
    return found


def _read(rows: Any) -> Iterator[str]:
    for row in rows:
        for cell in row:
            content = bytes(cell) if isinstance(cell, memoryview) else cell
            yield content if isinstance(content, str) else repr(content)


def _read_value(client: Any, key: Any) -> Any:
    kind = client.type(key)
    name = kind.decode() if isinstance(kind, bytes) else kind
    if name == "hash":
        return client.hgetall(key)
    if name == "set":
        return client.smembers(key)
    if name == "zset":
        return client.zrange(key, 0, -1, withscores=True)
    if name == "list":
        return client.lrange(key, 0, -1)
    return client.get(key)
