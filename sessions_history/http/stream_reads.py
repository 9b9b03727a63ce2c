"""
Read the finished entries of a session in order; this runs in a database thread.

A stream has no item that changes, so it ends before the first entry that still
streams, and goes on when that entry is done.
"""

from dataclasses import dataclass

from sessions_history.entries import Entry
from sessions_history.exceptions import SessionNotFound, SessionsError
from sessions_history.http.offsets import BEGINNING, NOW, StreamOffset
from sessions_history.models import HistoryEntry, Session
from sessions_history.reads import read_entries_after

MOST_ENTRIES = 100
"""Of one response; entries of more than 256,000 bytes in all make it shorter."""


class OffsetGone(SessionsError):
    """The log began anew since the offset, or keeps the next entry no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPage:
    """The next finished entries after an offset."""

    entries: list[Entry]
    next_offset: StreamOffset
    is_up_to_date: bool
    growing: Entry | None = None
    """The entry before which the stream ends for now."""

    @property
    def content(self) -> str:
        """The data of the entries as a JSON array."""
        return f"[{','.join(one.data for one in self.entries)}]"


def read_page(session_id: str, offset: StreamOffset | str) -> StreamPage:
    """
    Return the finished entries after an offset; after NOW there are none.

    Raises:
        SessionNotFound: the session has no entry, or does not exist.
        OffsetGone: as its class says.
        ValueError: the offset is ahead of the log.
    """
    row = Session.objects.filter(pk=session_id).values_list("epoch", "last_offset")
    found = row.first()
    if found is None:
        raise SessionNotFound
    epoch, last_offset = found
    after = 0
    if offset == NOW:
        end = StreamOffset(epoch, _find_end(session_id, last_offset))
        return StreamPage(entries=[], next_offset=end, is_up_to_date=True)
    if isinstance(offset, StreamOffset):
        if offset.epoch != epoch:
            raise OffsetGone
        if offset.after > last_offset:
            raise ValueError("offset is ahead of the stream")
        after = offset.after
    entries: list[Entry] = []
    growing = None
    for entry in read_entries_after(session_id, after, MOST_ENTRIES):
        if entry.offset != after + 1 + len(entries):
            if offset != BEGINNING or entries:
                raise OffsetGone
            # The stream begins with the oldest entry that is kept.
            after = entry.offset - 1
        if entry.is_streaming:
            growing = entry
            break
        entries.append(entry)
    if not entries and growing is None and after < last_offset:
        # The history keeps no entry at all.
        if offset != BEGINNING:
            raise OffsetGone
        after = last_offset
    reached = after + len(entries)
    return StreamPage(
        entries=entries,
        next_offset=StreamOffset(epoch, reached),
        is_up_to_date=growing is not None or reached >= last_offset,
        growing=growing,
    )


def _find_end(session_id: str, last_offset: int) -> int:
    """Return the offset of the last entry before those that still stream."""
    rows = HistoryEntry.objects.streaming().filter(session=session_id)
    first = rows.order_by("offset").values_list("offset", flat=True).first()
    return first - 1 if first is not None else last_offset
