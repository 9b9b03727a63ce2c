"""The server replays what a client missed, or reports a gap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.asgi import Message
from sessions_history.chain import Mark
from sessions_history.claims import read_claim
from sessions_history.reads import Claim, Position, Snapshot
from sessions_history.resume import Outcome, decide


def snapshot_of(
    left: set[int], last_offset: int, claim: Claim, epoch: str = "e"
) -> Snapshot:
    """Return what read_snapshot() reads of a log with these entries left."""
    position = Position(session_id="s", epoch=epoch, last_offset=last_offset)
    after = claim.offset if claim.continues(position) else 0
    reopened = [
        offset for offset in sorted(left & set(claim.open_offsets)) if offset <= after
    ]
    return Snapshot(
        position=position,
        offsets=sorted(offset for offset in left if offset > after),
        reopened=reopened,
    )


@given(st.data())
def test_nothing_is_lost_silently(data: st.DataObject) -> None:
    """What was neither held nor is sent lies within the gap that is named."""
    last_offset = data.draw(st.integers(0, 12))
    trimmed_to = data.draw(st.integers(0, last_offset))
    kept_open = data.draw(st.sets(st.integers(1, 12), max_size=3))
    left = {n for n in range(1, last_offset + 1) if n > trimmed_to or n in kept_open}
    offset = data.draw(st.integers(0, last_offset))
    open_offsets = data.draw(st.sets(st.integers(1, 14), max_size=3))
    claim = Claim(epoch="e", offset=offset, open_offsets=tuple(open_offsets))
    found = decide(claim, snapshot_of(left, last_offset, claim))

    held = set(range(1, offset + 1)) - open_offsets
    sent = {n for n in left if n > found.position}
    sent |= set(found.reopened)
    lost = set(range(1, last_offset + 1)) - held - sent
    assert (found.outcome is Outcome.GAP) == bool(lost) == (found.gap is not None)
    if found.gap is not None:
        assert found.gap == (min(lost), max(lost))
    if found.outcome is Outcome.NOTHING_MISSED:
        assert not sent
    # What is sent in order never passes over what nobody was told of.
    unannounced = {n for n in lost if n > max(found.missing_to, offset)}
    assert not unannounced


@given(st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_another_log_is_a_reset(last_offset: int, offset: int, is_same: bool) -> None:
    claim = Claim(epoch="e", offset=offset, open_offsets=(1,))
    left = set(range(1, last_offset + 1))
    epoch = "e" if is_same else "f"
    found = decide(claim, snapshot_of(left, last_offset, claim, epoch))
    if not is_same or offset > last_offset:
        assert (found.outcome, found.position) == (Outcome.RESET, 0)
        assert (found.gap, list(found.reopened)) == (None, [])
    else:
        assert found.outcome is not Outcome.RESET


def test_a_first_visit_gets_what_is_there() -> None:
    claim = Claim()
    assert decide(claim, snapshot_of(set(), 0, claim)).outcome is Outcome.NOTHING_MISSED
    found = decide(claim, snapshot_of({3, 4}, 4, claim))
    assert (found.outcome, found.gap, found.missing_to) == (Outcome.RESUMED, None, 2)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("epoch=e", "epoch and offset belong together"),
        ("epoch=e&offset=1&offset=2", "offset is given twice"),
        ("epoch=e&offset=-1", "an offset is a whole number"),
        ("epoch=e&offset=1&open=" + ",".join(["1"] * 101), "too many open entries"),
        ("epoch=e&offset=1&acked=" + ",".join(["1-1-a"] * 21), "more than 20 commits"),
    ],
)
def test_a_malformed_claim_is_refused(query: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_claim(make_scope(query))


def test_commits_of_another_release_are_not_compared() -> None:
    mark = Mark(7, 3, "a" * 12)
    query = f"epoch=e&offset=1&chain=v2:x&acked={mark},v2:y"
    assert read_claim(make_scope(query))[1] == Claim(epoch="e", offset=1, acked=(mark,))


def make_scope(query: str) -> Message:
    kwargs = {"session_id": "s"}
    return {"url_route": {"kwargs": kwargs}, "query_string": query.encode()}
