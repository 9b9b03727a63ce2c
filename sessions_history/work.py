"""Record who writes a streaming entry; this module runs in a database thread."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import NamedTuple

from django.db import models

from connections.models.alias import atomic
from connections.models.clock import Now
from sessions_history.approval_models import Approval
from sessions_history.entries import Entry
from sessions_history.models import HistoryEntry, Session, Work
from sessions_history.reads import read_entries_at

MOST_TAKEN = 20
"""Works that a node takes over at once, so that others get some too."""

_IS_FREE = models.Q(owner="")

MOST_ATTEMPTS = 3
"""How often an answer without a text is begun before it counts as interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a lease and a whole work last, by the clock of the database."""

    owner: str
    lease_seconds: float
    timeout_seconds: float
    leaves_answers: bool = False
    """Answers wait for a worker: the owner begins none."""


class Takes(Enum):
    """Which works a process takes over: those whose lease has ended, and free ones."""

    NONE = "none"
    """It writes its own streams."""
    ALL = "all"
    """A node that answers."""
    STREAMS = "streams"
    """No answers: a node that leaves them to workers."""
    NEXT = "next"
    """A worker: all but the answers behind an open one, for it has room for others."""
    MANY = "many"
    """A worker whose responder answers several messages of a session at once."""

    @property
    def is_of_worker(self) -> bool:
        """True for a worker, which takes as much as it has room for."""
        return self in (Takes.NEXT, Takes.MANY)

    def choose(self) -> models.Q:
        """Return the condition of the works that are taken."""
        is_left = models.Q(leased_until__lt=Now())
        # Whoever finds the work of an entry that has ended deletes it.
        has_ended = ~models.Q(_is_streaming())
        if self is Takes.STREAMS:
            is_stream = models.Q(message_offset__isnull=True)
            return (is_left & is_stream) | ((is_left | _IS_FREE) & has_ended)
        is_due = is_left | _IS_FREE
        return is_due & (~_is_blocked() | has_ended) if self is Takes.NEXT else is_due


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
    claims: str = ""
    """Those of the client, as JSON; empty without any, or if a node answers."""
    epoch: str = ""
    """That of the session's log."""


class NewWork(NamedTuple):
    """A work to insert; see DueWork."""

    session_id: str
    offset: int
    message_offset: int | None
    key: str = ""
    traceparent: str = ""
    metadata: str = ""
    claims: str = ""

    @property
    def is_answer(self) -> bool:
        """True for the answer to a message."""
        return self.message_offset is not None


def add(works: Sequence[NewWork], terms: Terms) -> None:
    """
    Insert works: as those of the owner, or answers as free ones.

    The lease of a free one is the time in which somebody has to take it.
    """
    own = {"owner": terms.owner, "leased_until": _after(terms.lease_seconds)}
    free = {
        "owner": "",
        "leased_until": _after(terms.timeout_seconds),
        "attempts": 0,
    }
    Work.objects.bulk_create(
        Work(
            **one._asdict(),
            **(free if terms.leaves_answers and one.is_answer else own),
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


def release(owner: str) -> None:
    """Let others take over at once what an owner has left; delete what has ended."""
    own = Work.objects.filter(owner=owner)
    own.filter(~_is_streaming()).delete()
    own.update(owner="", leased_until=_after(-1))


def give_back(terms: Terms, taken: Sequence[DueWork]) -> None:
    """Let others begin at once what an owner took and did not begin."""
    for one in taken:
        own = Work.objects.filter(owner=terms.owner, session=one.session_id)
        own.filter(offset=one.offset).update(owner="", leased_until=_after(-1))


def find_due(
    terms: Terms, takes: Takes, *, is_left_too: bool = True
) -> models.QuerySet[Work]:
    """Return the works that an owner takes over: free ones, and what others left."""
    due = Work.objects.filter(takes.choose()).exclude(owner=terms.owner)
    return due if is_left_too else due.filter(_IS_FREE)


def is_any_due(terms: Terms, takes: Takes, *, is_left_too: bool = True) -> bool:
    """Return whether an owner has a work to take over."""
    return find_due(terms, takes, is_left_too=is_left_too).exists()


def extend_turns(terms: Terms) -> None:
    """Let the time in which a free answer is to be taken begin with its turn."""
    free = Work.objects.filter(_IS_FREE, _is_blocked(), _is_streaming())
    free.update(leased_until=_after(terms.timeout_seconds))


def count_waiting(terms: Terms, seconds: float) -> int:
    """Return how many answers could have begun for so long, and are free."""
    due = Work.objects.filter(
        _IS_FREE, Takes.NEXT.choose(), _is_streaming(), ~models.Q(_awaits_approval())
    )
    # The lease of one that a worker had begun ended as it was left.
    is_new = models.Q(attempts=0)
    is_long = models.Q(leased_until__lt=_after(terms.timeout_seconds - seconds))
    is_left = models.Q(leased_until__lt=_after(-seconds))
    return due.filter((is_new & is_long) | (~is_new & is_left)).count()


def count_answers(client_ids: Collection[str]) -> dict[str, int]:
    """
    Return how many answers are open in the sessions of clients.

    Those that wait for a person are left out.
    """
    own = Work.objects.filter(session__client_id__in=client_ids)
    answers = own.filter(
        ~models.Q(_awaits_approval()), _is_streaming(), message_offset__isnull=False
    )
    counted = answers.values_list("session__client_id").annotate(models.Count("pk"))
    return dict.fromkeys(client_ids, 0) | dict(counted)


def take_over(
    terms: Terms,
    takes: Takes = Takes.ALL,
    most: int = MOST_TAKEN,
    *,
    is_left_too: bool = True,
    in_turn: bool = False,
) -> list[DueWork]:
    """
    Take over some works that nobody does; return them.

    In turn, answers behind open ones wait: their time has not begun, nor is it an
    attempt that fails.
    """
    with atomic():
        due = find_due(terms, takes, is_left_too=is_left_too)
        found: list[tuple[int, str, int]] = []
        has_deleted = 1
        # Those that have ended, at the head of the queue, hold up no other.
        while has_deleted and not found:
            first = due.order_by("leased_until").values_list("session", flat=True)
            # The log locks sessions in the same order, before it touches their entries.
            sessions = Session.objects.filter(pk__in=set(first[:most])).order_by("pk")
            free = sessions.select_for_update(skip_locked=True)
            here = due.filter(session__in=list(free.values_list("pk", flat=True)))
            has_deleted, _ = here.filter(~_is_streaming()).delete()
            ordered = here.order_by("leased_until", "offset")
            found = list(ordered.values_list("pk", "session", "offset")[:most])
        if not found:
            return []
        for _, session_id, offset in found:
            entries = HistoryEntry.objects.filter(session=session_id, offset=offset)
            entries.update(node=terms.owner)
        taken = Work.objects.filter(pk__in=[pk for pk, *_ in found])
        waits = _is_blocked() if in_turn else models.Q(pk__in=[])
        # The time of an answer begins when somebody begins it.
        not_begun = taken.filter(waits | models.Q(attempts=0))
        not_begun.update(ends_at=_after(terms.timeout_seconds))
        taken.filter(~waits).update(attempts=models.F("attempts") + 1)
        taken.update(owner=terms.owner, leased_until=_after(terms.lease_seconds))
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
    rows = (
        works.order_by("pk")
        .annotate(
            is_late=models.ExpressionWrapper(
                models.Q(ends_at__lt=Now()), output_field=models.BooleanField()
            ),
            is_waiting=_awaits_approval(),
            is_blocked=models.ExpressionWrapper(
                _is_blocked(), output_field=models.BooleanField()
            ),
        )
        .values_list(
            *("session_id", "offset", "message_offset", "key", "attempts", "is_late"),
            *("is_waiting", "is_blocked", "traceparent", "metadata", "claims"),
            "session__epoch",
        )
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
            claims=claims,
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
            claims,
            epoch,
        ) in rows
    ]


def _after(seconds: float) -> models.Expression:
    """Return a moment so many seconds from now, by the clock of the database."""
    return models.ExpressionWrapper(
        Now() + timedelta(seconds=seconds), output_field=models.DateTimeField()
    )
