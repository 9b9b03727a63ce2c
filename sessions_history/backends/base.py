"""Define the contract between a commit of the log and its database."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

Row = tuple[Any, ...]

SEEN_SECONDS = 5
"""How old last_seen_at may be; it is part of three indexes and costly to update."""


@dataclass(slots=True, kw_only=True)
class Found:
    """The streaming entries and known keys of the sessions in a commit."""

    streaming: list[Row] = field(default_factory=list)
    """(session_id, offset, entry_id, node_id, chain, last_chunk) of the streaming
    entries; the last is the highest sequence number of their chunks."""

    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """(session_id, key) of the known keys, with (digest, offset)."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """The changes that a commit writes."""

    entries: list[Row] = field(default_factory=list)
    """(session_id, offset, kind, sender, data, state, node_id, chain, author,
    replaces)"""

    keys: list[Row] = field(default_factory=list)
    """(session_id, key, digest, offset)"""

    positions: list[Row] = field(default_factory=list)
    """(session_id, last_offset, is_stale, chain) of the sessions used; a stale
    last_seen_at is set to now."""

    thresholds: list[Row] = field(default_factory=list)
    """(session_id, offset): entries up to the offset are trimmed unless they stream."""


class Backend(ABC):
    """
    The tables of the log inside one transaction.

    All rows of a statement are one parameter, a JSON text, unless that is slower.
    The statement's text stays the same, and the interpreter's lock changes hands
    once. A driver with one parameter per row would wait for the event loop at each.
    """

    def __init__(self, connection: BaseDatabaseWrapper, at: datetime) -> None:
        adapt = connection.ops.adapt_datetimefield_value
        self._at = adapt(at)
        self._seen_before = adapt(at - timedelta(seconds=SEEN_SECONDS))
        self._connection = connection
        self._cursor = connection.cursor()

    @abstractmethod
    def lock(self, session_ids: Collection[str]) -> list[Row]:
        """
        Lock sessions, always in the order of their ids.

        Returns (session_id, client_id, epoch, last_offset, chain, is_stale) of each
        existing session; it is stale if last_seen_at is older than SEEN_SECONDS.
        """

    @abstractmethod
    def find(
        self, session_ids: Collection[str], keys: Sequence[tuple[str, str]]
    ) -> Found:
        """Return the streaming entries of locked sessions, and the known keys."""

    @abstractmethod
    def write(self, changes: Changes) -> None:
        """Write the changes of a commit and trim in the same transaction."""

    @abstractmethod
    def write_chunks(self, rows: Collection[Row]) -> None:
        """
        Write chunks: (entry_id, sequence, part, kind, text, owner) of each.

        A chunk with a known sequence number replaces the earlier one.
        """

    def rewrite(
        self, entry_id: int, *, state: str, data: str, chain: str, parts: str = ""
    ) -> None:
        """Change the text, parts, state and chain of an entry."""
        self._cursor.execute(
            "UPDATE sessions_history_historyentry SET state = %s, data = %s,"
            " chain = %s, parts = %s WHERE id = %s",
            [state, data, chain, parts, entry_id],
        )


def dump(rows: Collection[Any]) -> str:
    """Return rows as the JSON parameter of a statement."""
    return json.dumps(rows, ensure_ascii=False)
