"""Decide how a client resumes: the outcome, and where sending begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sessions_history.reads import Claim, Snapshot


class Outcome(StrEnum):
    """How much of the missed entries can be sent."""

    NEW = "new"
    RESUMED = "resumed"
    NOTHING_MISSED = "nothing_missed"
    GAP = "gap"
    RESET = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """The outcome for a client, and the position where sending begins."""

    outcome: Outcome
    gap: tuple[int, int] | None = None
    position: int = 0
    missing_to: int = 0
    """Entries after the position and up to here may be missing."""

    reopened: Sequence[int] = ()


def decide(claim: Claim, snapshot: Snapshot) -> Resumption:
    """Return how a client with a claim resumes from the log's current state."""
    last_offset = snapshot.position.last_offset
    is_first = claim.epoch is None
    if is_first and snapshot.position.is_provisional:
        return Resumption(outcome=Outcome.NEW)
    is_same_log = claim.continues(snapshot.position) and snapshot.is_same_log
    if is_first or not is_same_log:
        has_entries = bool(snapshot.offsets)
        outcome = Outcome.RESUMED if has_entries else Outcome.NOTHING_MISSED
        return Resumption(
            outcome=outcome if is_first else Outcome.RESET,
            missing_to=_find_missing_end(0, last_offset, snapshot.offsets),
        )
    missing_to = _find_missing_end(claim.offset, last_offset, snapshot.offsets)
    held_open = {offset for offset in claim.open_offsets if offset <= claim.offset}
    lost = held_open - set(snapshot.reopened)
    gap = None
    if missing_to:
        first = _find_first_missing(claim.offset, snapshot.offsets)
        gap = (min(first, *lost) if lost else first, missing_to)
    elif lost:
        gap = (min(lost), max(lost))
    if gap is not None:
        outcome = Outcome.GAP
    elif snapshot.offsets or snapshot.reopened:
        outcome = Outcome.RESUMED
    else:
        outcome = Outcome.NOTHING_MISSED
    return Resumption(
        outcome=outcome,
        gap=gap,
        position=claim.offset,
        missing_to=missing_to,
        reopened=snapshot.reopened,
    )


def _find_first_missing(after: int, offsets: Sequence[int]) -> int:
    for expected, offset in enumerate(offsets, after + 1):
        if offset != expected:
            return expected
    return after + len(offsets) + 1


def _find_missing_end(after: int, last_offset: int, offsets: Sequence[int]) -> int:
    """Return the last missing offset in (after, last_offset]; 0 if none is missing."""
    expected = last_offset
    for offset in reversed(offsets):
        if offset != expected:
            break
        expected -= 1
    return expected if expected > after else 0
