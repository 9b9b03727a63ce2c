"""Fold the chunks of entries; this module runs in a database thread."""

from collections.abc import Collection, Sequence
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from connections.models.alias import atomic
from connections.models.sweep import delete_some, work_on_some
from sessions_history import parts
from sessions_history.approvals import erase_forgotten
from sessions_history.entries import Growth, merge_chunks
from sessions_history.models import EntryChunk, HistoryEntry, Session

_ENTRIES_PER_STEP = 50


def read_whole(entry_id: int) -> tuple[str, str]:
    """Return the data and the folded parts of an entry with those of its chunks."""
    row: Any = HistoryEntry.objects.with_chunks().get(pk=entry_id)
    changes = parts.fold(row.part_chunks or row.parts)
    return merge_chunks(row.data, row.chunks), changes


def delete_chunks(entry_ids: Collection[int]) -> None:
    """Delete the chunks of entries whose text is whole."""
    chunks = EntryChunk.objects.filter(entry__in=entry_ids)
    chunks._raw_delete(chunks.db)


def replace(entry_id: int, content: Growth, owner: str) -> int:
    """Replace the chunks of an entry; return how many it has then."""
    delete_chunks([entry_id])
    rows = EntryChunk.objects.bulk_create(
        EntryChunk(
            entry_id=entry_id, sequence=sequence, kind=kind, text=text, owner=owner
        )
        for sequence, kind, text in content.chunks
    )
    return len(rows)


def fold(entry_ids: Collection[int]) -> None:
    """Write the chunks into some entries, whose sessions are locked."""
    for entry_id in entry_ids:
        data, changes = read_whole(entry_id)
        entry = HistoryEntry.objects.filter(pk=entry_id)
        named = entry.values_list("session", "offset").get()
        entry.update(data=data, parts=erase_forgotten(*named, changes))
    delete_chunks(entry_ids)


def _find_left() -> "QuerySet[EntryChunk, tuple[int, str]]":
    """Return the ended entries that have chunks, each with its session."""
    found = EntryChunk.objects.exclude(entry__state="streaming")
    return found.order_by().values_list("entry", "entry__session").distinct()


def _find_orphans() -> QuerySet[EntryChunk]:
    entries = HistoryEntry.objects.filter(pk=OuterRef("entry_id"))
    return EntryChunk.objects.filter(~Exists(entries))


def fold_left(batch_size: int) -> int:
    """
    Fold the chunks of some entries that have ended, and delete those without one.

    A node or a sweeper of the previous release has ended or deleted these entries.
    Returns how many entries were folded and chunks deleted.
    """
    left = list(_find_left()[: min(batch_size, _ENTRIES_PER_STEP)])
    folded = work_on_some(left, _fold_some, HistoryEntry.__name__)
    return folded + delete_some(_find_orphans(), batch_size)


def _fold_some(left: Sequence[tuple[int, str]]) -> int:
    with atomic():
        # The log locks sessions in the same order.
        sessions = Session.objects.filter(pk__in={session for _, session in left})
        list(sessions.select_for_update().order_by("pk").values_list("pk"))
        entries = HistoryEntry.objects.filter(pk__in=[pk for pk, _ in left])
        fold(list(entries.values_list("pk", flat=True)))
        return len(left)


def count_left() -> int:
    """Return what fold_left() would return if it folded all."""
    return _find_left().count() + _find_orphans().count()
