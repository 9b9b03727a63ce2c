"""Record who writes a streaming entry; this module runs in a database thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.db import models

from connections.models.alias import atomic
from connections.models.clock import Now
from sessions_history.approval_models import Approval
from sessions_history.entries import Entry
from sessions_history.models import HistoryEntry, Session, Work
from sessions_history.reads import read_entries_at

_MOST = 20
"""Works that a node takes over at once, so that others get some too."""

MOST_ATTEMPTS = 3
"""How often an answer without a text is begun before it counts as interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a lease and a whole work last, by the clock of the database."""

    owner: str
    lease_seconds: float
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWork:
    """A work of this node, as the database knows it."""

    session_id: str
    offset: int
    message_offset: int | None
    key: str
    attempts: int
    is_late: bool
    """Its time is over."""
    is_waiting: bool = False
    """A person has to decide on a tool call of it."""
    is_blocked: bool = False
    """An earlier answer of its session is open."""
    traceparent: str = ""
    metadata: str = ""
    """That of the message, as JSON; empty without any."""
    epoch: str = ""
    """That of the session's log."""


class NewWork(NamedTuple):
    """A work to insert."""

    session_id: str
    offset: int
    message_offset: int | None
    key: str = ""
    traceparent: str = ""
    metadata: str = ""


def add(works: Sequence[NewWork], terms: Terms) -> None:
    """Insert works."""
    Work.objects.bulk_create(
        Work(
            **one._asdict(),
            owner=terms.owner,
            leased_until=_after(terms.lease_seconds),
            ends_at=_after(terms.timeout_seconds),
        )
        for one in works
    )


def claim(session_id: str, offset: int, terms: Terms) -> bool:
    """
    Take over the work of a streaming entry, or make it; its session is locked.

    Returns False while another owner holds the lease.
    """
    found = Work.objects.filter(session=session_id, offset=offset)
    others = found.filter(leased_until__gte=Now()).exclude(owner=terms.owner)
    if others.filter(_is_streaming()).exists():
        return False
    is_taken = found.update(
        owner=terms.owner,
        leased_until=_after(terms.lease_seconds),
        ends_at=_after(terms.timeout_seconds),
        attempts=models.F("attempts") + 1,
    )
    if not is_taken:
        add([NewWork(session_id, offset, None)], terms)
    return True


def renew(terms: Terms, *, has_waiting: bool = False) -> list[DueWork]:
    """
    Renew the leases of an owner; return what it still has to write.

    The work of entries that ended, here or on another node, is deleted. The time
    of an answer that waits for an earlier one has not begun, and that of one that
    waits for a person stands still: has_waiting tells that the owner has such answers.
    """
    owned = Work.objects.filter(owner=terms.owner)
    owned.filter(~_is_streaming()).delete()
    owned.update(leased_until=_after(terms.lease_seconds))
    if has_waiting:
        waiting = _is_blocked() | models.Q(_awaits_approval())
        owned.filter(waiting).update(ends_at=_after(terms.timeout_seconds))
    return _read(owned)


def release(works: Sequence[tuple[str, int]], owner: str) -> None:
    """Let other nodes take over some works of an owner at once."""
    for session_id, offset in works:
        own = Work.objects.filter(session=session_id, offset=offset, owner=owner)
        own.update(owner="", leased_until=_after(-1))


def take_over(terms: Terms) -> list[DueWork]:
    """Take over some works whose lease has ended; return them."""
    with atomic():
        due = Work.objects.filter(leased_until__lt=Now())
        ids = set(
            due.order_by("leased_until").values_list("session", flat=True)[:_MOST]
        )
        if not ids:
            return []
        # The log locks sessions in the same order, before it touches their entries.
        sessions = Session.objects.filter(pk__in=ids).order_by("pk")
        free = list(
            sessions.select_for_update(skip_locked=True).values_list("pk", flat=True)
        )
        due = due.filter(session__in=free)
        due.filter(~_is_streaming()).delete()
        found = list(due.values_list("pk", "session", "offset"))
        for _, session_id, offset in found:
            entries = HistoryEntry.objects.filter(session=session_id, offset=offset)
            entries.update(node=terms.owner)
        taken = Work.objects.filter(pk__in=[pk for pk, *_ in found])
        taken.update(
            owner=terms.owner,
            leased_until=_after(terms.lease_seconds),
            attempts=models.F("attempts") + 1,
        )
        return _read(taken)


def read_answer(
    work: DueWork, *, is_resumable: bool = False
) -> tuple[Entry, Entry] | None:
    """
    Return a message and its answer; None if nobody can go on with the answer.

    It is empty, or waits for a person and is resumable.
    """
    if work.message_offset is None:
        return None
    offsets = [work.message_offset, work.offset]
    entries = read_entries_at(work.session_id, offsets)
    if len(entries) < len(offsets):
        return None
    message, answer = entries
    if not answer.is_streaming:
        return None
    has_begun = bool(answer.text or answer.parts)
    return None if has_begun and not is_resumable else (message, answer)


def is_blocked(session_id: str, offset: int) -> bool:
    """Return True while an earlier answer of a session is open, on any node."""
    earlier = Work.objects.filter(session=session_id, offset__lt=offset)
    return earlier.filter(_is_streaming(), message_offset__isnull=False).exists()


def _is_blocked() -> models.Q:
    """Return the condition that a work is an answer behind an open one."""
    earlier = Work.objects.filter(
        _is_streaming(),
        session=models.OuterRef("session"),
        offset__lt=models.OuterRef("offset"),
        message_offset__isnull=False,
    )
    return models.Q(models.Exists(earlier), message_offset__isnull=False)


def _awaits_approval() -> models.Exists:
    """Return the condition that a person has to decide on a tool call of a work."""
    open_ones = Approval.objects.filter(
        session=models.OuterRef("session"),
        offset=models.OuterRef("offset"),
        is_open=True,
    )
    return models.Exists(open_ones)


def _is_streaming() -> models.Exists:
    """Return the condition that the entry of a work streams."""
    entries = HistoryEntry.objects.filter(
        session=models.OuterRef("session"), offset=models.OuterRef("offset")
    )
    return models.Exists(entries.streaming())


def _read(works: models.QuerySet[Work]) -> list[DueWork]:
    rows = works.annotate(
        is_late=models.ExpressionWrapper(
            models.Q(ends_at__lt=Now()), output_field=models.BooleanField()
        ),
        is_waiting=_awaits_approval(),
        is_blocked=models.ExpressionWrapper(
            _is_blocked(), output_field=models.BooleanField()
        ),
    ).values_list(
        *("session_id", "offset", "message_offset", "key", "attempts", "is_late"),
        *("is_waiting", "is_blocked", "traceparent", "metadata", "session__epoch"),
    )
    return [
        DueWork(
            session_id=session_id,
            offset=offset,
            message_offset=message_offset,
            key=key,
            attempts=attempts,
            is_late=is_late and not is_waiting,
            is_waiting=is_waiting,
            is_blocked=is_blocked,
            traceparent=traceparent,
            metadata=metadata,
            epoch=epoch,
        )
        for (
            session_id,
            offset,
            message_offset,
            key,
            attempts,
            is_late,
            is_waiting,
            is_blocked,
            traceparent,
            metadata,
            epoch,
        ) in rows
    ]


def _after(seconds: float) -> models.Expression:
    """Return a moment so many seconds from now, by the clock of the database."""
    return models.ExpressionWrapper(
        Now() + timedelta(seconds=seconds), output_field=models.DateTimeField()
    )
