"""What one commit of the log asks of its tables; a contract for each database."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

Row = tuple[Any, ...]

SEEN_SECONDS = 5
"""How old last_seen_at may be: it stands in three indexes, last_offset in none."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What there is of the sessions that a commit is about."""

    streaming: list[tuple[str, int]] = field(default_factory=list)
    """(session_id, offset) of the entries that stream."""

    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """(session_id, key) of the keys that are known: (digest, offset)."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a commit writes."""

    entries: list[Row] = field(default_factory=list)
    """(session_id, offset, kind, sender, data, state, node_id)"""

    keys: list[Row] = field(default_factory=list)
    """(session_id, key, digest, offset)"""

    positions: list[Row] = field(default_factory=list)
    """(session_id, last_offset, is_stale) of the sessions that were used: what is
    stale is seen now."""

    thresholds: list[Row] = field(default_factory=list)
    """(session_id, offset): the entries up to there go, unless they stream."""


class Backend(ABC):
    """
    The tables of the log inside of one transaction.

    All rows of a statement are one parameter, a JSON text, wherever that is
    no slower: the statement's own text stays the same, and the interpreter's
    lock changes hands once for all rows, where a driver that is given them one
    by one would wait for the busy event loop at each.
    """

    def __init__(self, at: datetime) -> None:
        adapt = connection.ops.adapt_datetimefield_value
        self._at = adapt(at)
        self._seen_before = adapt(at - timedelta(seconds=SEEN_SECONDS))
        self._cursor = connection.cursor()

    @abstractmethod
    def lock(self, session_ids: Collection[str]) -> list[Row]:
        """
        Lock sessions, always in the order of their ids.

        Returns (session_id, epoch, last_offset, is_stale) of each that is
        there, stale where it was seen longer than SEEN_SECONDS ago.
        """

    @abstractmethod
    def find(
        self, session_ids: Collection[str], keys: Sequence[tuple[str, str]]
    ) -> Found:
        """Return what there is of sessions that are locked, and of keys."""

    @abstractmethod
    def write(self, changes: Changes) -> None:
        """Write what a commit changes, trimmed in the same transaction."""

    def rewrite(
        self,
        session_id: str,
        offset: int,
        *,
        state: str,
        data: str | None,
        node_id: str | None,
    ) -> bool:
        """
        Change an entry that streams; return whether one does at that offset.

        Without data it keeps its text; with a node_id it is that node's alone.
        """
        sql = "UPDATE sessions_history_historyentry SET state = %s"
        values: list[Any] = [state]
        if data is not None:
            sql += ", data = %s"
            values.append(data)
        sql += " WHERE session_id = %s AND \"offset\" = %s AND state = 'streaming'"
        values += [session_id, offset]
        if node_id is not None:
            sql += " AND node_id = %s"
            values.append(node_id)
        self._cursor.execute(sql, values)
        return bool(self._cursor.rowcount)


def dump(rows: Collection[Any]) -> str:
    """Return rows as the JSON text that a statement takes."""
    return json.dumps(rows, ensure_ascii=False)
