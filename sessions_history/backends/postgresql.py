"""Write the log on PostgreSQL: three round trips and the commit itself."""

from collections.abc import Collection, Sequence

from sessions_history.backends.base import Backend, Changes, Found, Row, dump

# LATERAL and = ANY make PostgreSQL look each row up in the index. For a join with
# old statistics, as on a table that fills up, the planner would scan the table.
_LOCK = """
SELECT session_id, client_id, epoch, last_offset, chain, last_seen_at < %s
FROM sessions_history_session WHERE session_id = ANY(%s) ORDER BY session_id FOR UPDATE
"""

# After the lock, in a separate statement: a statement that waited for a row sees
# that row as it is now, but all others as they were before.
_FIND = """
SELECT session_id, NULL, NULL, "offset", id, node_id, chain, coalesce((
    SELECT max(sequence) FROM sessions_history_entrychunk WHERE entry_id = e.id
), 0)
FROM sessions_history_historyentry AS e
WHERE state = 'streaming' AND session_id = ANY(%s)
UNION ALL
SELECT known.*, NULL, NULL, NULL, NULL
FROM jsonb_array_elements(%s::jsonb) AS v CROSS JOIN LATERAL (
    SELECT session_id, key, digest, "offset" FROM sessions_history_appendkey
    WHERE session_id = v ->> 0 AND key = v ->> 1 LIMIT 1
) AS known
"""

_WRITE = """
WITH entries AS (
    INSERT INTO sessions_history_historyentry
    (session_id, "offset", kind, sender, data, state, node_id, chain, author, replaces,
    at)
    SELECT v ->> 0, (v ->> 1)::bigint, v ->> 2, v ->> 3, v ->> 4, v ->> 5, v ->> 6,
    v ->> 7, v ->> 8, (v ->> 9)::bigint, %s FROM jsonb_array_elements(%s::jsonb) AS v
), keys AS (
    INSERT INTO sessions_history_appendkey
    (session_id, key, digest, "offset", created_at)
    SELECT v ->> 0, v ->> 1, v ->> 2, (v ->> 3)::bigint, %s
    FROM jsonb_array_elements(%s::jsonb) AS v
), trimmed AS (
    DELETE FROM sessions_history_historyentry WHERE id = ANY(ARRAY(
        SELECT old.id FROM jsonb_array_elements(%s::jsonb) AS v CROSS JOIN LATERAL (
            SELECT id FROM sessions_history_historyentry
            WHERE session_id = v ->> 0 AND "offset" <= (v ->> 1)::bigint
            AND state <> 'streaming' OFFSET 0
        ) AS old
    ))
)
UPDATE sessions_history_session AS s SET last_offset = (v ->> 1)::bigint,
chain = v ->> 3,
last_seen_at = CASE WHEN (v ->> 2)::boolean THEN %s ELSE last_seen_at END
FROM jsonb_array_elements(%s::jsonb) AS v WHERE s.session_id = v ->> 0
"""

_WRITE_CHUNKS = """
INSERT INTO sessions_history_entrychunk
(entry_id, sequence, part, kind, text, owner)
SELECT (v ->> 0)::bigint, (v ->> 1)::integer, v ->> 2, v ->> 3, v ->> 4, v ->> 5
FROM jsonb_array_elements(%s::jsonb) AS v
ON CONFLICT (entry_id, sequence) DO UPDATE
SET text = EXCLUDED.text, kind = EXCLUDED.kind
"""


class PostgresqlBackend(Backend):
    """The tables of the log on PostgreSQL."""

    def lock(self, session_ids: Collection[str]) -> list[Row]:
        self._cursor.execute(_LOCK, [self._seen_before, list(session_ids)])
        rows: list[Row] = self._cursor.fetchall()
        return rows

    def find(
        self, session_ids: Collection[str], keys: Sequence[tuple[str, str]]
    ) -> Found:
        self._cursor.execute(_FIND, [list(session_ids), dump(keys)])
        found = Found()
        for session_id, key, digest, offset, *entry in self._cursor.fetchall():
            if key is None:
                found.streaming.append((session_id, offset, *entry))
            else:
                found.keys[session_id, key] = (digest, offset)
        return found

    def write(self, changes: Changes) -> None:
        at = self._at
        entries, keys = dump(changes.entries), dump(changes.keys)
        positions, thresholds = dump(changes.positions), dump(changes.thresholds)
        values = [at, entries, at, keys, thresholds, at, positions]
        self._cursor.execute(_WRITE, values)

    def write_chunks(self, rows: Collection[Row]) -> None:
        self._cursor.execute(_WRITE_CHUNKS, [dump(rows)])
