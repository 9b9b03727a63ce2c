"""Write the log on SQLite."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from sessions_history.backends.base import Backend, Changes, Found, Row, dump

# SQLite runs a CROSS JOIN in the written order: each row of the parameter is looked
# up in the index, and no table is scanned.
LOCK = """
SELECT json_group_array(
    json_array(
        s.session_id, s.client_id, s.epoch, s.last_offset, s.chain, s.last_seen_at < ?
    )
) FROM json_each(?) AS v
CROSS JOIN sessions_history_session AS s ON s.session_id = v.value
"""

FIND_STREAMING = """
SELECT json_group_array(
    json_array(e.session_id, e."offset", e.id, e.node_id, e.chain, coalesce((
        SELECT max(c.sequence) FROM sessions_history_entrychunk AS c
        WHERE c.entry_id = e.id
    ), 0))
)
FROM json_each(?) AS v CROSS JOIN sessions_history_historyentry AS e
ON e.session_id = v.value AND e.state = 'streaming'
"""

FIND_KEYS = """
SELECT json_group_array(json_array(k.session_id, k.key, k.digest, k."offset"))
FROM json_each(?) AS v CROSS JOIN sessions_history_appendkey AS k
ON k.session_id = json_extract(v.value, '$[0]')
AND k.key = json_extract(v.value, '$[1]')
"""

_INSERT_ENTRIES = """
INSERT INTO sessions_history_historyentry
(session_id, "offset", kind, sender, data, state, node_id, chain, author, replaces, at)
VALUES
"""

_INSERT_KEYS = """
INSERT INTO sessions_history_appendkey
(session_id, key, digest, "offset", created_at) VALUES
"""

MOVE = """
UPDATE sessions_history_session SET last_offset = json_extract(v.value, '$[1]'),
chain = json_extract(v.value, '$[3]')
FROM json_each(?) AS v WHERE session_id = json_extract(v.value, '$[0]')
"""

# In a separate statement: SQLite rewrites all indexes of each named column.
SEE = """
UPDATE sessions_history_session SET last_seen_at = ?
FROM json_each(?) AS v WHERE session_id = v.value
"""

TRIM = """
DELETE FROM sessions_history_historyentry WHERE id IN (
    SELECT e.id FROM json_each(?) AS v CROSS JOIN sessions_history_historyentry AS e
    ON e.session_id = json_extract(v.value, '$[0]')
    AND e."offset" <= json_extract(v.value, '$[1]') AND e.state <> 'streaming'
)
"""

# A SELECT needs a WHERE before ON CONFLICT, which would be read as that of a join.
WRITE_CHUNKS = """
INSERT INTO sessions_history_entrychunk (entry_id, sequence, part, kind, text, owner)
SELECT json_extract(v.value, '$[0]'), json_extract(v.value, '$[1]'),
json_extract(v.value, '$[2]'), json_extract(v.value, '$[3]'),
json_extract(v.value, '$[4]'), json_extract(v.value, '$[5]')
FROM json_each(?) AS v WHERE true
ON CONFLICT (entry_id, sequence) DO UPDATE
SET text = excluded.text, kind = excluded.kind
"""


class SqliteBackend(Backend):
    """The tables of the log on SQLite, where one transaction writes at a time."""

    def lock(self, session_ids: Collection[str]) -> list[Row]:
        ids = dump(list(session_ids))
        return [tuple(row) for row in self._fetch(LOCK, self._seen_before, ids)]

    def find(
        self, session_ids: Collection[str], keys: Sequence[tuple[str, str]]
    ) -> Found:
        found = Found()
        streaming = self._fetch(FIND_STREAMING, dump(list(session_ids)))
        found.streaming = [tuple(row) for row in streaming]
        if keys:
            for session_id, key, *known in self._fetch(FIND_KEYS, dump(keys)):
                found.keys[session_id, key] = tuple(known)
        return found

    def write(self, changes: Changes) -> None:
        with self._connection.wrap_database_errors:
            self._insert(_INSERT_ENTRIES, changes.entries)
            self._insert(_INSERT_KEYS, changes.keys)
            self._execute(MOVE, [dump(changes.positions)])
            stale = [key for key, _, is_stale, _ in changes.positions if is_stale]
            if stale:
                self._execute(SEE, [self._at, dump(stale)])
            if changes.thresholds:
                self._execute(TRIM, [dump(changes.thresholds)])

    def write_chunks(self, rows: Collection[Row]) -> None:
        with self._connection.wrap_database_errors:
            self._execute(WRITE_CHUNKS, [dump(rows)])

    def _insert(self, head: str, rows: Sequence[Row]) -> None:
        """
        Insert rows with the moment of the commit as their last column.

        One statement for all: on a busy machine each change of the interpreter's
        lock costs more than preparing another statement.
        """
        if rows:
            marks = f"({', '.join('?' * (len(rows[0]) + 1))})"
            sql = head + ", ".join([marks] * len(rows))
            self._execute(sql, [value for row in rows for value in (*row, self._at)])

    def _fetch(self, sql: str, *values: Any) -> list[list[Any]]:
        with self._connection.wrap_database_errors:
            (text,) = self._execute(sql, values).fetchone()
        found: list[list[Any]] = json.loads(text)
        return found

    def _execute(self, sql: str, values: Sequence[Any]) -> Any:
        """Bypass Django's cursor, which would search the whole text for %s."""
        return self._connection.connection.execute(sql, values)
