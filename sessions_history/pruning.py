"""End abandoned streams and delete old rows of sessions, in small batches."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from connections.config.loader import WebSocketConfig
from connections.models.alias import atomic
from connections.models.sweep import count_some, delete_some, work_on_some
from connections.sweeper.tasks import SweepTask, Unfinished, add_sweep_task
from sessions_history import chunks
from sessions_history.approval_models import Approval
from sessions_history.approvals import find_orphans
from sessions_history.commits import interrupt
from sessions_history.models import (
    AppendKey,
    DeletedSession,
    HistoryEntry,
    HistoryEntryQuerySet,
    Session,
    SessionInvitation,
    SessionMember,
    SessionQuerySet,
    StreamProducer,
)
from sessions_history.session_ids import KNOWN_SECONDS

KEY_HOURS = 24
"""How long message ids are kept, also after trimming."""

_UNKNOWN_NODE_SECONDS = 5
"""Grace for a node that has just started and has no row yet."""

_SESSIONS_PER_STEP = 50


def interrupt_abandoned(batch_size: int) -> int:
    """End some streams whose node is gone, keeping their text; return how many."""
    found = list(_find_abandoned().values_list("pk", "session_id")[:batch_size])
    return work_on_some(found, _interrupt, HistoryEntry.__name__)


def _interrupt(found: Sequence[tuple[int, str]]) -> int:
    with atomic():
        # The log locks sessions in the same order.
        sessions = Session.objects.filter(pk__in={session for _, session in found})
        list(sessions.select_for_update().order_by("pk").values_list("pk"))
        abandoned = _find_abandoned().filter(pk__in=[pk for pk, _ in found])
        streams = list(abandoned.order_by().values_list("session_id", "offset"))
        interrupt(streams)
        return len(streams)


def prune_sessions(unused_since: datetime, batch_size: int) -> int:
    """
    Delete some rows of sessions unused since a moment; return how many.

    Entries are deleted before their session, in separate transactions. A client
    that resumes in between gets a gap.
    """
    unused = Session.objects.unused_since(unused_since).order_by("last_seen_at")
    ids = list(unused.values_list("pk", flat=True)[:_SESSIONS_PER_STEP])
    if not ids:
        return 0
    still_unused = {"session__in": ids, "session__last_seen_at__lt": unused_since}
    entries = HistoryEntry.objects.filter(**still_unused)
    rows = delete_some(entries.order_by(), batch_size)
    if rows == batch_size:
        return rows
    rows += delete_some(AppendKey.objects.filter(**still_unused), batch_size - rows)
    if rows == batch_size:
        return rows

    def delete(some: Sequence[str]) -> int:
        with atomic():
            locked = unused.filter(pk__in=some).select_for_update().order_by("pk")
            pks = list(locked.values_list("pk", flat=True))
            Session.objects.filter(pk__in=pks).delete()
            return len(pks)

    some = sorted(ids)[: batch_size - rows]
    rows += work_on_some(some, delete, Session.__name__)
    return Unfinished(rows) if rows and len(ids) == _SESSIONS_PER_STEP else rows


def prune_keys(batch_size: int) -> int:
    """Delete some message ids older than a day; return how many."""
    return delete_some(_find_old_keys(), batch_size)


def prune_empty(batch_size: int) -> int:
    """Delete some sessions that had no entry within an hour; return how many."""
    return delete_some(_find_empty(), batch_size)


def _find_empty() -> SessionQuerySet:
    hour_ago = timezone.now() - timedelta(hours=1)
    return Session.objects.empty().unused_since(hour_ago).order_by("last_seen_at")


def _find_old_keys() -> QuerySet[AppendKey]:
    return AppendKey.objects.filter(created_at__lt=_day_ago()).order_by("created_at")


def prune_deleted(batch_size: int) -> int:
    """Delete some ids of deleted sessions, which no node accepts any more."""
    return delete_some(_find_deleted(), batch_size)


def _find_deleted() -> QuerySet[DeletedSession]:
    known_since = timezone.now() - timedelta(seconds=KNOWN_SECONDS)
    known = DeletedSession.objects.filter(deleted_at__lt=known_since)
    return known.order_by("deleted_at")


def prune_members(batch_size: int) -> int:
    """
    Delete some invitations that ended a day ago, and what no session is left of.

    Nodes of the previous release delete sessions, and know neither members nor
    producers.
    """
    deleted = 0
    for rows in _find_old_members():
        deleted += delete_some(rows, batch_size - deleted)
    return deleted


def _find_old_members() -> list[QuerySet[Any]]:
    sessions = Session.objects.filter(pk=OuterRef("session_id"))
    is_orphan, invitations = ~Exists(sessions), SessionInvitation.objects
    return [
        SessionMember.objects.filter(is_orphan),
        (invitations.ended(_day_ago()) | invitations.filter(is_orphan)).order_by(),
        StreamProducer.objects.filter(is_orphan),
    ]


def prune_approvals(batch_size: int) -> int:
    """Delete some approvals of entries that are gone; return how many."""
    return delete_some(_find_old_approvals(), batch_size)


def _find_old_approvals() -> QuerySet[Approval]:
    return Approval.objects.filter(find_orphans(), created_at__lt=_day_ago())


def get_oldest_use(config: WebSocketConfig) -> datetime:
    """Return the moment before which unused sessions are deleted."""
    return timezone.now() - timedelta(days=config.retention.sessions_days)


def register() -> None:
    """Register these tasks with the sweeper; called once, when the app is ready."""
    add_sweep_task(
        SweepTask(
            name="streams_interrupted",
            count=lambda config: _find_abandoned().count(),
            work=lambda config, batch_size: interrupt_abandoned(batch_size),
            waits_for_nodes=True,
        )
    )
    add_sweep_task(
        SweepTask(
            name="empty_sessions_pruned",
            count=lambda config: _find_empty().count(),
            work=lambda config, batch_size: prune_empty(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="chunks_folded",
            count=lambda config: chunks.count_left(),
            work=lambda config, batch_size: chunks.fold_left(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="deleted_sessions_pruned",
            count=lambda config: _find_deleted().count(),
            work=lambda config, batch_size: prune_deleted(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="members_pruned",
            count=lambda config: sum(rows.count() for rows in _find_old_members()),
            work=lambda config, batch_size: prune_members(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="approvals_pruned",
            count=lambda config: _find_old_approvals().count(),
            work=lambda config, batch_size: prune_approvals(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="append_keys_pruned",
            count=lambda config: count_some(_find_old_keys()),
            work=lambda config, batch_size: prune_keys(batch_size),
        )
    )
    add_sweep_task(
        SweepTask(
            name="session_rows_pruned",
            count=lambda config: count_prunable(get_oldest_use(config))["rows"],
            work=lambda config, batch_size: prune_sessions(
                get_oldest_use(config), batch_size
            ),
        )
    )


def count_prunable(unused_since: datetime) -> dict[str, int]:
    """Return the number of sessions unused since a moment, and of all their rows."""
    sessions = Session.objects.unused_since(unused_since).count()
    of_unused = {"session__last_seen_at__lt": unused_since}
    entries = HistoryEntry.objects.filter(**of_unused).count()
    keys = AppendKey.objects.filter(**of_unused).count()
    return {"sessions": sessions, "rows": sessions + entries + keys}


def _find_abandoned() -> HistoryEntryQuerySet:
    now = timezone.now()
    known_by = now - timedelta(seconds=_UNKNOWN_NODE_SECONDS)
    return HistoryEntry.objects.abandoned(now).filter(at__lt=known_by)


def _day_ago() -> datetime:
    return timezone.now() - timedelta(hours=KEY_HOURS)
