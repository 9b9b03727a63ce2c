"""Share presence between nodes in PostgreSQL."""

import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from django.db import DatabaseError

from connections.exceptions import DatabaseUnavailable, PresenceUnavailable
from connections.models.alias import atomic, get_connection
from connections.presence.base import (
    ONLINE,
    Bus,
    Change,
    Delta,
    PresenceStore,
    Renewal,
    read_delta,
)

_CHANNEL = "orchestra:bus:all"
"""The channel of the bus that all nodes receive."""

_MOST_BYTES = 7900
"""PostgreSQL takes less than 8000 bytes (NOTIFY)."""

_LOCK = 0x6F7263_70726573
"""The advisory lock of all changes: one transaction changes members at a time."""

Cursor = Any
Deltas = dict[str, Delta]


class Run(Protocol):
    """Runs work in a thread that has a connection to the database."""

    def __call__(self, work: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Return what the work returns."""


class PostgresStore(PresenceStore):
    """
    Members are rows; each step is one statement, or a transaction under one lock.

    A lease row is renewed when a third of it has passed. Events are notifications
    of the transaction that they are about, so that they arrive in its order. Nodes
    that only read need no bus.
    """

    is_shared = True

    def __init__(
        self,
        *,
        write: Run,
        read: Run,
        bus: Bus | None,
        lease_seconds: float,
        linger_seconds: float,
        max_members: int,
    ) -> None:
        self._write = write
        self._read = read
        self._max_members = max_members
        self._lengths = {
            "lease": timedelta(seconds=lease_seconds),
            "linger": timedelta(seconds=linger_seconds),
        }
        if bus is not None:
            bus.on_message("presence", self._on_message)
            bus.on_return(lambda: self.on_gap())

    async def renew(self, node_id: str, held: int) -> Renewal:
        is_known, count, self.online = await self._run(
            self._write, self._renew, node_id
        )
        return Renewal.KNOWN if is_known and count == held else Renewal.EXPIRED

    async def apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> Collection[tuple[str, str]]:
        refused = await self._run(self._write, self._apply, node_id, changes)
        if refused is None:
            raise PresenceUnavailable("the lease of this node has ended")
        return list(refused)

    async def get_present(self, room: str) -> Mapping[str, str]:
        return dict(await self._select("member, data", room))

    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        condition = "m.member = ANY(%(members)s)"
        rows = await self._select("member", room, condition, members=list(members))
        return {member for (member,) in rows}

    async def count(self, room: str) -> int:
        ((members,),) = await self._select("count(*)", room)
        return int(members)

    async def forget(self, members: Sequence[str]) -> None:
        await self._run(self._write, self._forget, members)

    async def close(self) -> None:
        """Do nothing: the owner of the database closes it."""

    async def _select(
        self, columns: str, room: str, condition: str = "true", **arguments: Any
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self._run(
            self._read,
            _fetch,
            f"SELECT {columns} FROM connections_presence_member m"
            f" WHERE room = %(room)s AND {condition} AND (due > clock_timestamp()"
            " OR EXISTS (SELECT 1 FROM connections_presence_holder h"
            " JOIN connections_presence_lease USING (node_id)"
            " WHERE h.room = m.room AND h.member = m.member"
            " AND ends_at + %(linger)s > clock_timestamp()))",
            {"room": room, **self._lengths, **arguments},
        )
        return rows

    async def _run(self, run: Run, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return await run(work, *args)
        except (DatabaseError, DatabaseUnavailable) as exc:
            raise PresenceUnavailable(f"PostgreSQL did not answer: {exc}") from exc

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("is_gap"):
            self.on_gap()
        self.on_delta(*read_delta(message))

    # In a thread of the database

    def _renew(self, node_id: str) -> tuple[bool, int, int]:
        arguments: dict[str, Any] = {
            "node": node_id,
            "online": ONLINE,
            **self._lengths,
        }
        ((is_known, held, online, is_due),) = _fetch(_RENEW, arguments)
        if is_due:
            with atomic(), get_connection().cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                for statement in _END_LEASES:
                    cursor.execute(statement, arguments)
                cursor.execute(_END_LINGERS)
                deltas: Deltas = {}
                for room, member in cursor.fetchall():
                    deltas.setdefault(room, Delta()).leave(member)
                _notify(cursor, deltas)
        return is_known, held, online

    def _apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> list[tuple[str, str]] | None:
        with atomic(), get_connection().cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            cursor.execute(
                "SELECT 1 FROM connections_presence_lease"
                " WHERE node_id = %s AND ends_at > clock_timestamp()",
                [node_id],
            )
            if cursor.fetchone() is None:
                return None
            self._release(
                cursor, node_id, [one for one in changes if not one.is_present]
            )
            return self._add(
                cursor, node_id, [one for one in changes if one.is_present]
            )

    def _forget(self, members: Sequence[str]) -> None:
        with atomic(), get_connection().cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            cursor.execute(_FORGET, {"members": list(members)})
            deltas: Deltas = {}
            for room, member in cursor.fetchall():
                deltas.setdefault(room, Delta()).leave(member)
            _notify(cursor, deltas)

    def _release(self, cursor: Cursor, node_id: str, changes: Sequence[Change]) -> None:
        if changes:
            arguments = {"node": node_id, **_make_arrays(changes), **self._lengths}
            cursor.execute(_RELEASE, arguments)

    def _add(
        self, cursor: Cursor, node_id: str, changes: Sequence[Change]
    ) -> list[tuple[str, str]]:
        """Add members; return those for which their room has no place."""
        if not changes:
            return []
        arrays = _make_arrays(changes)
        cursor.execute(_FIND, arrays)
        known = set(cursor.fetchall())
        new = [one for one in changes if (one.room, one.member) not in known]
        limited = sorted({one.room for one in new} - {ONLINE})
        sizes: dict[str, int] = {}
        if limited:
            cursor.execute(_COUNT, {"rooms": limited})
            sizes = dict(cursor.fetchall())
        refused: list[tuple[str, str]] = []
        deltas: Deltas = {}
        for one in new:
            size = sizes.get(one.room, 0)
            if one.room != ONLINE and size >= self._max_members:
                refused.append((one.room, one.member))
                continue
            sizes[one.room] = size + 1
            if not one.is_quiet:
                deltas.setdefault(one.room, Delta()).join(one.member, one.data)
        taken = [one for one in changes if (one.room, one.member) not in refused]
        if taken:
            cursor.execute(_ADD, {"node": node_id, **_make_arrays(taken)})
        _notify(cursor, deltas)
        return refused


def _fetch(statement: str, arguments: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with get_connection().cursor() as cursor:
        cursor.execute(statement, arguments)
        return [tuple(row) for row in cursor.fetchall()]


def _make_arrays(changes: Sequence[Change]) -> dict[str, list[str]]:
    return {
        "rooms": [one.room for one in changes],
        "members": [one.member for one in changes],
        "data": [one.data for one in changes],
    }


def _notify(cursor: Cursor, deltas: Deltas) -> None:
    """Send the deltas with the commit of this transaction."""
    texts = [text for room, delta in deltas.items() for text in _encode(room, delta)]
    if texts:
        cursor.execute(
            "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload",
            [_CHANNEL, texts],
        )


def _encode(room: str, delta: Delta) -> Iterator[str]:
    """Yield messages about a delta, each short enough for a notification."""
    text = json.dumps(
        {
            "kind": "presence",
            "room": room,
            "joined": list(delta.joined.items()),
            "left": list(delta.left),
        }
    )
    if len(text) <= _MOST_BYTES:
        yield text
        return
    if len(delta) == 1:
        # The data alone is too long: the receivers ask for the list again.
        yield json.dumps({"kind": "presence", "room": room, "is_gap": True})
        return
    halves = (Delta(), Delta())
    for number, (member, data) in enumerate(delta.joined.items()):
        halves[number % 2].join(member, data)
    for number, member in enumerate(delta.left, start=len(delta.joined)):
        halves[number % 2].leave(member)
    for half in halves:
        yield from _encode(room, half)


_RENEW = """
WITH before AS (
  SELECT ends_at FROM connections_presence_lease WHERE node_id = %(node)s
), renewed AS (
  INSERT INTO connections_presence_lease AS lease (node_id, ends_at)
  VALUES (%(node)s, clock_timestamp() + %(lease)s)
  ON CONFLICT (node_id) DO UPDATE SET ends_at = excluded.ends_at
  WHERE lease.ends_at < clock_timestamp() + %(lease)s * 2 / 3
  OR lease.ends_at > clock_timestamp() + %(lease)s
)
SELECT
  coalesce((SELECT ends_at > clock_timestamp() FROM before), false),
  (SELECT count(*) FROM connections_presence_holder WHERE node_id = %(node)s),
  (SELECT count(*) FROM connections_presence_member WHERE room = %(online)s),
  EXISTS (
    SELECT 1 FROM connections_presence_lease
    WHERE node_id <> %(node)s AND (ends_at <= clock_timestamp()
    OR ends_at > clock_timestamp() + %(lease)s * 2)
  ) OR EXISTS (
    SELECT 1 FROM connections_presence_member
    WHERE due <= clock_timestamp() OR due > clock_timestamp() + %(linger)s * 2
  )
"""

_FORGET = """
DELETE FROM connections_presence_member m
WHERE member = ANY(%(members)s) AND NOT EXISTS (
  SELECT 1 FROM connections_presence_holder h
  WHERE h.room = m.room AND h.member = m.member)
RETURNING room, member
"""

_END_LEASES = (
    # The clock of PostgreSQL went back since. Leases and lingers of up to twice this
    # node's length stay, for nodes may differ in theirs.
    """
    UPDATE connections_presence_lease SET ends_at = clock_timestamp() + %(lease)s
    WHERE node_id IN (
      SELECT node_id FROM connections_presence_lease
      WHERE ends_at > clock_timestamp() + %(lease)s * 2 FOR UPDATE SKIP LOCKED)
    """,
    """
    UPDATE connections_presence_member SET due = clock_timestamp() + %(linger)s
    WHERE due > clock_timestamp() + %(linger)s * 2
    """,
    # A node that renews its lease at this moment is skipped.
    """
    WITH dead AS (
      DELETE FROM connections_presence_lease WHERE node_id IN (
        SELECT node_id FROM connections_presence_lease
        WHERE ends_at <= clock_timestamp() FOR UPDATE SKIP LOCKED)
      RETURNING node_id
    ), gone AS (
      DELETE FROM connections_presence_holder
      WHERE node_id IN (SELECT node_id FROM dead) RETURNING room, member
    )
    UPDATE connections_presence_member m SET due = clock_timestamp() + %(linger)s
    FROM gone WHERE m.room = gone.room AND m.member = gone.member
    AND NOT EXISTS (
      SELECT 1 FROM connections_presence_holder h
      WHERE h.room = m.room AND h.member = m.member
      AND h.node_id NOT IN (SELECT node_id FROM dead))
    """,
)

_END_LINGERS = """
DELETE FROM connections_presence_member m
WHERE due <= clock_timestamp() AND NOT EXISTS (
  SELECT 1 FROM connections_presence_holder h
  WHERE h.room = m.room AND h.member = m.member)
RETURNING room, member
"""

_RELEASE = """
WITH gone AS (
  DELETE FROM connections_presence_holder h
  USING unnest(%(rooms)s::text[], %(members)s::text[]) AS one (room, member)
  WHERE h.node_id = %(node)s AND h.room = one.room AND h.member = one.member
  RETURNING h.room, h.member
)
UPDATE connections_presence_member m SET due = clock_timestamp() + %(linger)s
FROM gone WHERE m.room = gone.room AND m.member = gone.member
AND NOT EXISTS (
  SELECT 1 FROM connections_presence_holder h
  WHERE h.room = m.room AND h.member = m.member AND h.node_id <> %(node)s)
"""

_FIND = """
SELECT room, member FROM connections_presence_member
JOIN unnest(%(rooms)s::text[], %(members)s::text[]) AS one (room, member)
USING (room, member)
"""

_COUNT = """
SELECT room, count(*) FROM connections_presence_member
WHERE room = ANY(%(rooms)s) GROUP BY room
"""

_ADD = """
WITH one AS (
  SELECT * FROM unnest(%(rooms)s::text[], %(members)s::text[], %(data)s::text[])
  AS one (room, member, data)
), held AS (
  INSERT INTO connections_presence_holder (node_id, room, member)
  SELECT %(node)s, room, member FROM one ON CONFLICT DO NOTHING
)
INSERT INTO connections_presence_member (room, member, data)
SELECT room, member, data FROM one
ON CONFLICT (room, member) DO UPDATE SET data = excluded.data, due = NULL
"""
