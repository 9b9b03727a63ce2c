"""What is read of sessions; everything here runs in a thread of the database."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from sessions_history.entries import Entry
from sessions_history.exceptions import SessionNotFound, TooManySessions
from sessions_history.models import HistoryEntry, Session

_IDS_PER_QUERY = 500
_NODES_AT_ONCE = 100
"""A node begins one session after another: more than one node for each may not
begin one in the same moment."""
_CHARACTERS_PER_READ = 256_000
_ROWS_PER_FETCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a session's log stands."""

    session_id: str
    epoch: str
    last_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a client says it holds: all up to an offset of an epoch, but some open."""

    epoch: str | None = None
    offset: int = 0
    open_offsets: tuple[int, ...] = ()

    def continues(self, position: Position) -> bool:
        """Tell whether this is about the very log, and not ahead of it."""
        return self.epoch == position.epoch and self.offset <= position.last_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a client may have missed, at one moment."""

    position: Position
    offsets: Sequence[int]
    """Of the entries after the client's offset, in order."""

    reopened: Sequence[int]
    """Where those of the entries stand that the client held unfinished."""


def create_session(
    client_id: str, user_id: int | None, max_sessions: int = 0
) -> Position:
    """
    Begin a session for a client that has less than max_sessions; 0: any number.

    Raises:
        TooManySessions: it has so many, however many nodes are asked at once.
    """
    session = Session(
        session_id=os.urandom(16).hex(),
        client_id=client_id,
        user_id=user_id,
        epoch=os.urandom(8).hex(),
    )
    # Far from the limit one statement is enough: a storm of clients is many.
    if not max_sessions:
        session.save(force_insert=True)
    elif not _insert_below(session, max_sessions - _NODES_AT_ONCE):
        with transaction.atomic():
            _lock_client(client_id)
            if not _insert_below(session, max_sessions):
                raise TooManySessions
    return Position(session_id=session.session_id, epoch=session.epoch, last_offset=0)


def _insert_below(session: Session, limit: int) -> bool:
    """Write a session whose client has less than so many; return whether it was."""
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    user = Session._meta.get_field("user")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sessions_history_session (session_id, client_id, user_id,"
            " epoch, last_offset, created_at, last_seen_at)"
            " SELECT %s, %s, %s, %s, 0, %s, %s WHERE ("
            "SELECT count(*) FROM (SELECT 1 FROM sessions_history_session"
            " WHERE client_id = %s LIMIT %s) AS existing) < %s",
            [
                session.session_id,
                session.client_id,
                user.get_db_prep_save(session.user_id, connection),
                session.epoch,
                now,
                now,
                session.client_id,
                max(0, limit),
                limit,
            ],
        )
        return bool(cursor.rowcount)


def _lock_client(client_id: str) -> None:
    """Have other transactions that begin a session for this client wait."""
    if connection.vendor == "postgresql":
        # Elsewhere a transaction is the only one that writes.
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"session of {client_id}"],
            )


def read_snapshot(session_id: str, client_id: str, claim: Claim) -> Snapshot:
    """
    Read what a client may have missed that holds what it claims.

    Raises:
        SessionNotFound: no such session, or another client's: the same to both.
    """
    row = (
        Session.objects.filter(session_id=session_id, client_id=client_id)
        .values_list("epoch", "last_offset")
        .first()
    )
    if row is None:
        raise SessionNotFound
    position = Position(session_id=session_id, epoch=row[0], last_offset=row[1])
    is_continued = claim.continues(position)
    after = claim.offset if is_continued else 0
    offsets = (
        HistoryEntry.objects.filter(
            session=session_id, offset__gt=after, offset__lte=position.last_offset
        )
        .order_by("offset")
        .values_list("offset", flat=True)
    )
    reopened = [one for one in claim.open_offsets if one <= after]
    return Snapshot(
        position=position,
        offsets=list(offsets),
        reopened=_find_offsets(session_id, reopened) if reopened else (),
    )


def _find_offsets(session_id: str, offsets: Collection[int]) -> list[int]:
    rows = HistoryEntry.objects.filter(session=session_id, offset__in=offsets)
    return list(rows.order_by("offset").values_list("offset", flat=True))


def read_entries_after(session_id: str, after: int, count: int) -> list[Entry]:
    """Read the next few entries of a session after an offset, fewer large ones."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__gt=after)
    return list(_read_some(rows.order_by("offset")[:count]))


def read_entries_at(session_id: str, offsets: Collection[int]) -> list[Entry]:
    """Read single entries of a session; those that were trimmed are left out."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__in=offsets)
    return [_make_entry(row) for row in rows.order_by("offset")]


def read_latest_entries(session_id: str, before: int, count: int) -> list[Entry]:
    """Read the last few entries before an offset, oldest first, fewer large ones."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__lt=before)
    return list(_read_some(rows.order_by("-offset")[:count]))[::-1]


def _read_some(rows: QuerySet[HistoryEntry]) -> Iterator[Entry]:
    """Yield entries until they are large together, one at least."""
    characters = 0
    for row in rows.iterator(chunk_size=_ROWS_PER_FETCH):
        yield _make_entry(row)
        characters += len(row.data)
        if characters > _CHARACTERS_PER_READ:
            return


def read_positions(
    session_ids: Sequence[str],
) -> tuple[dict[str, Position], dict[str, dict[int, Entry]]]:
    """Read where sessions stand, and their entries that stream, by offset."""
    positions: dict[str, Position] = {}
    streaming: dict[str, dict[int, Entry]] = {}
    for start in range(0, len(session_ids), _IDS_PER_QUERY):
        some = session_ids[start : start + _IDS_PER_QUERY]
        for row in HistoryEntry.objects.streaming().filter(session__in=some):
            entries = streaming.setdefault(row.session_id, {})
            entries[row.offset] = _make_entry(row)
        for session_id, epoch, last_offset in Session.objects.filter(
            session_id__in=some
        ).values_list("session_id", "epoch", "last_offset"):
            positions[session_id] = Position(
                session_id=session_id, epoch=epoch, last_offset=last_offset
            )
    return positions, streaming


def _make_entry(row: HistoryEntry) -> Entry:
    return Entry(
        offset=row.offset,
        kind=row.kind,
        sender=row.sender,
        at=row.at,
        data=row.data,
        state=row.state,
    )
