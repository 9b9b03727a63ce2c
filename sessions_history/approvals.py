"""Ask for approvals of tool calls and decide on them; it runs in a database thread."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from connections.models.alias import atomic
from sessions_history.approval_models import Approval
from sessions_history.decisions import INTERRUPTED, Decision
from sessions_history.exceptions import (
    ApprovalDecided,
    ApprovalNotFound,
    StreamEnded,
)
from sessions_history.models import HistoryEntry, Session, Work
from sessions_history.parts import erase_decisions

_WAITING = Approval.State.WAITING.value
_DECIDED = (Approval.State.APPROVED.value, Approval.State.DENIED.value)


class Call(NamedTuple):
    """A tool call in a session."""

    session_id: str
    offset: int
    part_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, as the database has it."""

    decision: Decision | None
    """None while it waits."""
    seconds_left: float
    is_taken: bool = False
    """The responder has the decision, or had it before its node died."""


def ask(call: Call, digest: str, seconds: float, attempt: str) -> Asked:
    """
    Insert a question, or return the one that was asked before about the same call.

    A call that differs from what a person was shown is asked anew. An approval that
    another attempt at the answer has taken is returned as interrupted.
    """
    now = timezone.now()
    with atomic():
        # The answer has come this far: it is no attempt that fails.
        work = Work.objects.filter(session=call.session_id, offset=call.offset)
        work.update(attempts=1)
        known = _find(call).select_for_update().first()
        if known is not None and known.digest == digest:
            return _read(known, attempt)
        _find(call).delete()
        made = Approval.objects.create(
            session_id=call.session_id,
            offset=call.offset,
            part_id=call.part_id,
            digest=digest,
            expires_at=now + timedelta(seconds=seconds),
        )
        return _read(made)


def decide(
    call: Call, *, is_approved: bool, by: str, note: str = "", epoch: str = ""
) -> str:
    """
    Record a decision, and return the epoch of the log.

    The same decision again changes nothing, whoever made it.

    Raises:
        ApprovalNotFound: no such call waits, or its answer has ended.
        ApprovalDecided: it was decided otherwise, or is expired.
    """
    state = Approval.State.APPROVED if is_approved else Approval.State.DENIED
    with atomic():
        session = Session.objects.select_for_update().filter(pk=call.session_id).first()
        row = _find(call).select_for_update().first()
        if session is None or row is None or epoch not in ("", session.epoch):
            raise ApprovalNotFound
        if row.state == state:
            return session.epoch
        if row.state != _WAITING:
            raise ApprovalDecided(row.state, row.decided_by)
        now = timezone.now()
        if row.expires_at <= now:
            raise ApprovalDecided(Approval.State.EXPIRED.value, "")
        entries = HistoryEntry.objects.streaming().filter(session=session)
        if not entries.filter(offset=call.offset).exists():
            raise ApprovalNotFound
        row.state, row.decided_by, row.note, row.decided_at = state, by, note, now
        row.save()
        return session.epoch


def expire(call: Call) -> Asked:
    """End a wait, unless it was decided meanwhile."""
    now = timezone.now()
    waiting = _find(call).filter(state=_WAITING)
    waiting.update(state=Approval.State.EXPIRED, decided_at=now)
    return read(call)


def read(call: Call) -> Asked:
    """
    Read a question.

    Raises:
        StreamEnded: its session is deleted.
    """
    row = _find(call).first()
    if row is None:
        raise StreamEnded("its session is deleted")
    return _read(row)


def take(call: Call, owner: str, attempt: str) -> None:
    """
    Record that an attempt at the answer has the decision: nobody else gets it.

    The same attempt may take it again, after a reply that was lost.

    Raises:
        StreamEnded: another attempt took it, or the work has another owner.
    """
    with atomic():
        # Whoever takes the work over locks the session too.
        Session.objects.select_for_update().filter(pk=call.session_id).first()
        work = Work.objects.filter(session=call.session_id, offset=call.offset)
        free = _find(call).filter(Q(is_open=True) | Q(taken_by=attempt))
        if not work.filter(owner=owner).exists() or not free.update(
            is_open=False, taken_by=attempt
        ):
            raise StreamEnded("another node goes on with it")


def find_decided(calls: Collection[Call]) -> list[Call]:
    """Return those of some waiting calls that were decided."""
    wanted = {one.session_id for one in calls}
    rows = Approval.objects.filter(session__in=wanted, is_open=True)
    found = rows.exclude(state=_WAITING).values_list("session", "offset", "part_id")
    return [call for call in map(Call._make, found) if call in calls]


def erase_forgotten(session_id: str, offset: int, changes: str) -> str:
    """
    Return the parts of an entry without who decided and was forgotten since.

    Whoever writes an answer has the decisions in its memory until the end.
    """
    if '"approval":' not in changes:
        return changes
    rows = Approval.objects.filter(session=session_id, offset=offset, decided_by="")
    calls = rows.filter(state__in=_DECIDED).values_list("part_id", flat=True)
    return erase_decisions(changes, calls=set(calls))


def find_orphans() -> Q:
    """Return the condition that nothing is left of the entry of an approval."""
    entries = HistoryEntry.objects.filter(
        session=OuterRef("session"), offset=OuterRef("offset")
    )
    return ~Q(Exists(entries))


def _find(call: Call) -> QuerySet[Approval]:
    return Approval.objects.filter(
        session=call.session_id, offset=call.offset, part_id=call.part_id
    )


def _read(row: Approval, attempt: str = "") -> Asked:
    left = (row.expires_at - timezone.now()).total_seconds()
    if row.state == _WAITING:
        return Asked(decision=None, seconds_left=max(0.0, left))
    state, is_taken = str(row.state), not row.is_open
    if is_taken and state == Approval.State.APPROVED and row.taken_by != attempt:
        state = INTERRUPTED
    decision = Decision(state=state, by=row.decided_by, note=row.note)
    return Asked(decision=decision, seconds_left=0.0, is_taken=is_taken)
