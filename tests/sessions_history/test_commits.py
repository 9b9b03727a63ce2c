"""One commit of the log, against a model of it that fits on a page."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from django.db import DataError, OperationalError, connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_history.commits import commit, is_transient
from sessions_history.entries import (
    Committed,
    Request,
    Rewrite,
    Touch,
)
from sessions_history.exceptions import (
    EntryRefused,
    KeyReused,
    SessionNotFound,
    StreamEnded,
    TooManyStreams,
)
from sessions_history.limits import LogLimits
from sessions_history.models import HistoryEntry, Session
from tests.sessions_history.appends import LIMITS, make_append, make_session

pytestmark = pytest.mark.django_db


def make_touch(session_id: str) -> Touch:
    return Touch(session_id=session_id)


def commit_one(request: Request) -> Committed:
    (result,) = commit([request], LIMITS)
    assert isinstance(result, Committed), result
    return result


def read_log(session_id: str) -> list[tuple[int, str, str]]:
    rows = HistoryEntry.objects.filter(session=session_id).order_by("offset")
    return list(rows.values_list("offset", "data", "state"))


def test_offsets_count_from_one_in_every_session() -> None:
    first, second = make_session(), make_session()
    batch = [make_append(one) for one in (first, second, first, first)]
    results = commit(batch, LIMITS)
    assert [one.offset for one in results if isinstance(one, Committed)] == [1, 1, 2, 3]
    assert Session.objects.get(session_id=first).last_offset == 3


def test_the_cap_holds_in_the_same_transaction() -> None:
    session_id = make_session()
    commit([make_append(session_id, data=str(n)) for n in range(1, 13)], LIMITS)
    assert [offset for offset, *_ in read_log(session_id)] == [8, 9, 10, 11, 12]


def test_the_same_id_gets_the_same_answer() -> None:
    """In the same batch, in a later one, and after the entry was trimmed."""
    session_id = make_session()
    first, again = commit([make_append(session_id, "k")] * 2, LIMITS)
    assert isinstance(first, Committed) and isinstance(again, Committed)
    assert (first.offset, again.offset, again.entries) == (1, 1, ())
    commit([make_append(session_id)] * 10, LIMITS)
    late = commit_one(make_append(session_id, "k"))
    assert (late.offset, late.entries) == (1, ())
    assert min(offset for offset, *_ in read_log(session_id)) > 1
    (reused,) = commit([make_append(session_id, "k", data="2")], LIMITS)
    assert isinstance(reused, KeyReused)


def test_the_same_id_in_two_sessions_are_two_messages() -> None:
    for session_id in (make_session(), make_session()):
        assert commit_one(make_append(session_id, "k")).entries


def test_a_session_that_is_not_there_fails_by_itself() -> None:
    session_id = make_session()
    lost, kept, touched = commit(
        [make_append("0" * 32), make_append(session_id), Touch(session_id="0" * 32)],
        LIMITS,
    )
    assert isinstance(lost, SessionNotFound)
    assert isinstance(kept, Committed)
    assert isinstance(touched, SessionNotFound)


@pytest.mark.parametrize("make_request", [make_append, make_touch])
def test_when_a_session_was_seen_is_known_to_a_few_seconds(
    make_request: Callable[[str], Request],
) -> None:
    """Each change of it is one in three indexes, so it lags behind a little."""
    session_id = make_session()
    for ago_seconds, is_written in ((60, True), (2, False)):
        moment = timezone.now() - timedelta(seconds=ago_seconds)
        Session.objects.update(last_seen_at=moment)
        commit_one(make_request(session_id))
        seen_at = Session.objects.get().last_seen_at
        assert (seen_at > moment) is is_written


def test_an_entry_that_streams_is_not_trimmed() -> None:
    """And it counts: what is kept is at most the cap, whatever streams."""
    session_id = make_session()
    opened = commit_one(make_append(session_id, state="streaming"))
    commit([make_append(session_id) for _ in range(12)], LIMITS)
    offsets = [offset for offset, *_ in read_log(session_id)]
    assert offsets == [1, 10, 11, 12, 13]
    rewrite = Rewrite(session_id=session_id, offset=1, state="done", data="2")
    assert commit_one(rewrite).offset == opened.offset == 1
    commit_one(make_append(session_id))
    assert [offset for offset, *_ in read_log(session_id)] == [10, 11, 12, 13, 14]


def test_more_streams_than_the_cap_are_trimmed_as_they_end() -> None:
    """While they stream all are kept; no append has to follow."""
    session_id = make_session()
    limits = replace(LIMITS, max_open_streams=8)
    commit([make_append(session_id, state="streaming")] * 8, limits)
    assert len(read_log(session_id)) == 8
    for offset in range(1, 9):
        end = Rewrite(session_id=session_id, offset=offset, state="done", data="2")
        (ended,) = commit([end], limits)
        assert isinstance(ended, Committed)
        assert len(read_log(session_id)) == max(5, 8 - offset)
    assert [offset for offset, *_ in read_log(session_id)] == [4, 5, 6, 7, 8]


def test_only_so_many_stream() -> None:
    session_id = make_session()
    open_one = make_append(session_id, state="streaming")
    results = commit([open_one, open_one, open_one], LIMITS)
    assert [type(one) for one in results] == [Committed, Committed, TooManyStreams]
    assert len(read_log(session_id)) == 2
    commit_one(Rewrite(session_id=session_id, offset=1, state="cancelled"))
    assert commit_one(open_one).offset == 3


def test_only_its_node_writes_a_stream_and_only_while_it_streams() -> None:
    session_id = make_session()
    commit_one(make_append(session_id, state="streaming"))
    other = LogLimits(node_id="o" * 32, history_limit=5, max_open_streams=2)
    growth = Rewrite(session_id=session_id, offset=1, state="streaming", data="2")
    (refused,) = commit([growth], other)
    assert isinstance(refused, StreamEnded)
    commit_one(growth)
    (cancelled,) = commit(
        [Rewrite(session_id=session_id, offset=1, state="cancelled", is_owner=False)],
        other,
    )
    assert isinstance(cancelled, Committed)
    (late,) = commit([growth], LIMITS)
    assert isinstance(late, StreamEnded)
    assert read_log(session_id) == [(1, "2", "cancelled")]


def test_one_bad_entry_fails_alone() -> None:
    """The database refuses a lone surrogate that no check found."""
    session_id = make_session()
    batch = [make_append(session_id, data=str(n)) for n in range(20)]
    batch[13] = make_append(session_id, data="\ud83d")
    limits = LogLimits(node_id="n" * 32, history_limit=50, max_open_streams=2)
    results = commit(batch, limits)
    assert isinstance(results.pop(13), EntryRefused)
    offsets = [one.offset for one in results if isinstance(one, Committed)]
    assert offsets == list(range(1, 20))
    assert [data for _, data, _ in read_log(session_id)] == [
        str(n) for n in range(20) if n != 13
    ]


def test_what_may_work_the_next_time_is_known() -> None:
    assert not is_transient(OperationalError("disk I/O error"))
    if connection.vendor == "sqlite":
        assert is_transient(OperationalError("database is locked"))
        return
    deadlock = OperationalError("deadlock detected")
    deadlock.__cause__ = DataError()
    deadlock.__cause__.sqlstate = "40P01"  # type: ignore[attr-defined]
    assert is_transient(deadlock)


@dataclass
class Model:
    """The log of one session, held in memory."""

    entries: dict[int, tuple[str, str]] = field(default_factory=dict)
    keys: dict[str, tuple[str, int]] = field(default_factory=dict)
    last_offset: int = 0

    def append(self, key: str, data: str, state: str) -> int | type[Exception]:
        if key and key in self.keys:
            known, offset = self.keys[key]
            return offset if known == data else KeyReused
        streaming = self.streaming()
        if state == "streaming" and len(streaming) >= LIMITS.max_open_streams:
            return TooManyStreams
        self.last_offset += 1
        self.entries[self.last_offset] = (data, state)
        if key:
            self.keys[key] = (data, self.last_offset)
        return self.last_offset

    def end(self, offset: int) -> int | type[Exception]:
        if offset not in self.streaming():
            return StreamEnded
        self.entries[offset] = (self.entries[offset][0], "done")
        return offset

    def trim(self) -> None:
        finished = sorted(self.entries.keys() - self.streaming())
        excess = len(self.entries) - LIMITS.history_limit
        for offset in finished[: max(0, excess)]:
            del self.entries[offset]

    def streaming(self) -> set[int]:
        return {n for n, (_, state) in self.entries.items() if state == "streaming"}


APPENDS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["", "", "k1", "k2"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["done", "done", "streaming"]),
)
ROUNDS = st.lists(
    st.tuples(
        st.lists(APPENDS, min_size=1, max_size=8),
        st.tuples(st.integers(0, 1), st.integers(1, 6)),
    ),
    max_size=4,
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(ROUNDS)
def test_whatever_is_asked_leaves_what_the_model_says(
    rounds: list[tuple[list[tuple[int, str, str, str]], tuple[int, int]]],
) -> None:
    """Batches of appends to two sessions, each followed by the end of a stream."""
    ids, models = (make_session(), make_session()), (Model(), Model())
    for appends, (ended_in, ended_at) in rounds:
        requests = [
            make_append(ids[place], key, data, state=state)
            for place, key, data, state in appends
        ]
        for result, (place, key, data, state) in zip(
            commit(requests, LIMITS), appends, strict=True
        ):
            assert summarise(result) == models[place].append(key, data, state)
        end = Rewrite(session_id=ids[ended_in], offset=ended_at, state="done")
        models[0].trim()
        models[1].trim()
        (result,) = commit([end], LIMITS)
        assert summarise(result) == models[ended_in].end(ended_at)
        for session_id, model in zip(ids, models, strict=True):
            assert read_log(session_id) == [
                (offset, *model.entries[offset]) for offset in sorted(model.entries)
            ]
            assert len(model.entries) <= LIMITS.history_limit


def summarise(result: object) -> int | type[object]:
    return result.offset if isinstance(result, Committed) else type(result)
