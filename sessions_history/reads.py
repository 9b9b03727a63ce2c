"""Read sessions and entries; this module runs in a database thread."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import (
    Case,
    Count,
    F,
    Func,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Sum,
    When,
)
from django.db.models.functions import Coalesce

from connections.models.alias import step
from sessions_history.chain import Mark, compare, find_resumption, has_link, is_newer
from sessions_history.entries import Entry, merge_chunks
from sessions_history.epochs import make_first_epoch
from sessions_history.exceptions import SessionNotFound
from sessions_history.member_models import Role
from sessions_history.models import (
    DeletedSession,
    EntryChunk,
    HistoryEntry,
    HistoryEntryQuerySet,
    Session,
)
from sessions_history.roles import find_role
from sessions_history.session_ids import is_recent_id

_IDS_PER_QUERY = 500
_BYTES_PER_READ = 256_000
_SIZES_PER_FETCH = 8
_SHORT_FIELDS = (
    "offset",
    "kind",
    "sender",
    "at",
    "state",
    "chain",
    "author",
    "replaces",
)
"""The columns of an entry beside its texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of a session's log."""

    session_id: str
    epoch: str
    last_offset: int
    is_provisional: bool = False
    """Its first entry inserts the session."""
    mark: Mark | None = None
    """The mark of its newest commit."""
    owner_id: str = ""
    """The client id of its owner, where it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The entries a client claims to hold: all up to an offset, some unfinished."""

    epoch: str | None = None
    offset: int = 0
    mark: Mark | None = None
    """The newest commit that the client knows of."""

    acked: tuple[Mark, ...] = ()
    """The commits that acks named, of entries that the client has not got yet."""

    open_offsets: tuple[int, ...] = ()

    def continues(self, position: Position) -> bool:
        """Return True if the claim is of this log and not ahead of it."""
        return self.epoch == position.epoch and self.offset <= position.last_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The entries that a client may have missed, read at one moment."""

    position: Position
    offsets: Sequence[int]
    """Offsets of the entries after the client's offset, in order."""

    reopened: Sequence[int]
    """Entries that the client holds unfinished, or as they were before a resumption."""

    is_same_log: bool = True
    """False if the log has lost a commit that the client knows of."""

    role: Role = Role.OWNER
    """What the client may do in the session."""


class _Bytes(Func):
    """The number of bytes of a text in UTF-8."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # octet_length() is part of SQLite since 3.43.
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)


_OWN_SIZE = _Bytes("data") + _Bytes("parts")
_SIZE_OF_CHUNKS = (
    EntryChunk.objects.filter(entry=OuterRef("pk"), part="")
    .order_by()
    .values("entry")
    .annotate(size=Sum(_Bytes("text")))
    .values("size")
)
_SIZE = F("own_size") + Case(
    When(state="streaming", then=Coalesce(Subquery(_SIZE_OF_CHUNKS), 0)), default=0
)
"""The size of an entry in bytes, with the chunks of one that streams."""


def read_usage(client_id: str) -> tuple[int, int]:
    """Return how many entries, and how many bytes in them, a client stores."""
    entries = HistoryEntry.objects.filter(session__client_id=client_id)
    found = entries.aggregate(count=Count("pk"), size=Sum(_OWN_SIZE))
    chunks = EntryChunk.objects.filter(entry__session__client_id=client_id)
    growing = chunks.aggregate(size=Sum(_Bytes("text")))
    return found["count"], (found["size"] or 0) + (growing["size"] or 0)


def read_snapshot(
    session_id: str, client_id: str, claim: Claim, user_id: Any = None
) -> Snapshot:
    """
    Read what a client with a claim may have missed, as the owner or as a member.

    A provisional session has no entries, and the same epoch on every node.

    Raises:
        SessionNotFound: it does not exist, or the client has no role in it; the
            client cannot tell which.
    """
    row = (
        Session.objects.filter(session_id=session_id)
        .values_list("epoch", "last_offset", "chain", "client_id")
        .first()
    )
    if row is None:
        if claim.offset or not is_recent_id(session_id, client_id):
            raise SessionNotFound
        if DeletedSession.objects.filter(pk=session_id).exists():
            raise SessionNotFound
        return make_provisional(session_id)
    epoch, last_offset, chain, owner_id = row
    role = find_role(session_id, owner_id, client_id, user_id)
    if role is None:
        raise SessionNotFound
    position = Position(
        session_id=session_id,
        epoch=epoch,
        last_offset=last_offset,
        mark=Mark.parse(chain),
        owner_id=owner_id,
    )
    known = [*claim.acked, *([claim.mark] if claim.mark else [])]
    is_same_log = has_commits(position, known)
    is_continued = claim.continues(position) and is_same_log
    after = claim.offset if is_continued else 0
    offsets = (
        HistoryEntry.objects.filter(
            session=session_id, offset__gt=after, offset__lte=position.last_offset
        )
        .order_by("offset")
        .values_list("offset", flat=True)
    )
    held_open = [one for one in claim.open_offsets if one <= after]
    reopened = _find_offsets(session_id, held_open) if held_open else []
    if after and is_newer(position.mark, claim.mark):
        reopened += find_resumed(session_id, claim.mark, after, held_open)
    return Snapshot(
        position=position,
        offsets=list(offsets),
        reopened=sorted(reopened),
        is_same_log=is_same_log,
        role=role,
    )


def make_provisional(session_id: str, epoch: str | None = None) -> Snapshot:
    """Return the snapshot of a session that is not inserted yet."""
    position = Position(
        session_id=session_id,
        epoch=epoch or make_first_epoch(session_id),
        last_offset=0,
        is_provisional=True,
    )
    return Snapshot(position=position, offsets=(), reopened=())


def has_commits(position: Position, marks: Sequence[Mark]) -> bool:
    """
    Return False if a log has lost one of some commits.

    A commit whose entry was trimmed counts as kept: nothing can tell.
    """
    results = {mark: compare(mark, position.mark) for mark in marks}
    if False in results.values():
        return False
    unknown = [mark for mark, is_kept in results.items() if is_kept is None]
    if not unknown:
        return True
    entries = HistoryEntry.objects.filter(
        session=position.session_id, offset__in={mark.offset for mark in unknown}
    )
    chains = dict(entries.values_list("offset", "chain"))
    return all(
        has_link(chains[mark.offset], mark) for mark in unknown if mark.offset in chains
    )


def find_resumed(
    session_id: str, mark: Mark | None, up_to: int, but: Collection[int] = ()
) -> list[int]:
    """Return the entries up to an offset that were resumed after a commit."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__lte=up_to)
    after = mark.number if mark else 0
    return sorted(
        offset
        for offset, state, chain in rows.resumed().values_list(
            "offset", "state", "chain"
        )
        if offset not in but
        and find_resumption(chain, is_streaming=state == "streaming") > after
    )


def _find_offsets(session_id: str, offsets: Collection[int]) -> list[int]:
    rows = HistoryEntry.objects.filter(session=session_id, offset__in=offsets)
    return list(rows.order_by("offset").values_list("offset", flat=True))


def read_entries_after(session_id: str, after: int, count: int) -> list[Entry]:
    """Read the next entries after an offset; fewer if they are large."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__gt=after)
    return _read_some(rows.order_by("offset"), count)


def read_entries_at(session_id: str, offsets: Collection[int]) -> list[Entry]:
    """Read single entries of a session; trimmed ones are left out."""
    rows = HistoryEntry.objects.filter(session=session_id, offset__in=offsets)
    return [_make_entry(row) for row in rows.with_chunks().order_by("offset")]


def read_latest_entries(
    session_id: str, before: int, count: int, most: int = _BYTES_PER_READ
) -> list[Entry]:
    """
    Read the last entries before an offset, oldest first; fewer if they are large.

    At most one of them goes beyond so many bytes.
    """
    rows = HistoryEntry.objects.filter(session=session_id, offset__lt=before)
    return _read_some(rows.order_by("-offset"), count, most)[::-1]


def _read_some(
    rows: HistoryEntryQuerySet, count: int, most: int = _BYTES_PER_READ
) -> list[Entry]:
    """
    Return the first entries until their sizes add up to a bound, at least one.

    One statement reads the sizes, and small entries whole, which together stay below
    the bound. Another reads the large ones and those that stream.
    """
    is_small = ~Q(state="streaming") & Q(own_size__lte=most // count)
    texts = [Case(When(is_small, then=name)) for name in ("data", "parts")]
    sized = rows.alias(own_size=_OWN_SIZE).values_list(*_SHORT_FIELDS, _SIZE, *texts)
    found: dict[int, Entry | None] = {}
    size_bytes = 0
    # SQLite reads a text to measure it.
    for *short, size, data, parts in step(sized[:count], _SIZES_PER_FETCH):
        fields = dict(zip(_SHORT_FIELDS, short, strict=True))
        entry = None if data is None else Entry(data=data, parts=parts, **fields)
        found[fields["offset"]] = entry
        size_bytes += size
        if size_bytes > most:
            break
    left = [offset for offset, entry in found.items() if entry is None]
    if left:
        # One that ended may stream again by now. There may be many: a range has two
        # parameters.
        large = rows.filter(offset__range=(min(left), max(left))).with_chunks()
        found.update((row.offset, _make_entry(row)) for row in large)
    return [entry for entry in found.values() if entry is not None]


def read_positions(
    session_ids: Sequence[str],
) -> tuple[dict[str, Position], dict[str, dict[int, Entry]]]:
    """Read the positions of sessions, and their streaming entries by offset."""
    positions: dict[str, Position] = {}
    streaming: dict[str, dict[int, Entry]] = {}
    for start in range(0, len(session_ids), _IDS_PER_QUERY):
        some = session_ids[start : start + _IDS_PER_QUERY]
        rows = HistoryEntry.objects.streaming().filter(session__in=some)
        for row in rows.with_chunks():
            entries = streaming.setdefault(row.session_id, {})
            entries[row.offset] = _make_entry(row)
        for session_id, epoch, last_offset, chain, owner_id in Session.objects.filter(
            session_id__in=some
        ).values_list("session_id", "epoch", "last_offset", "chain", "client_id"):
            positions[session_id] = Position(
                session_id=session_id,
                epoch=epoch,
                last_offset=last_offset,
                mark=Mark.parse(chain),
                owner_id=owner_id,
            )
    return positions, streaming


def _make_entry(row: Any) -> Entry:
    """Return the entry of a row; one that streams was read with its chunks."""
    return Entry(
        offset=row.offset,
        kind=row.kind,
        sender=row.sender,
        at=row.at,
        data=merge_chunks(row.data, getattr(row, "chunks", None)),
        state=row.state,
        chain=row.chain,
        author=row.author,
        replaces=row.replaces,
        parts=getattr(row, "part_chunks", None) or row.parts,
    )
