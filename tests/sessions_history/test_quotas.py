"""Answers under way are counted; what a client stores is read now and then."""

import asyncio
from contextlib import ExitStack

import pytest

from sessions_history.entries import NewEntry
from sessions_history.exceptions import TooManyStreams
from sessions_history.models import HistoryEntry
from sessions_history.quotas import StorageQuota, StreamQuota
from sessions_history.reads import read_usage
from tests.sessions_history.appends import make_session

pytestmark = pytest.mark.django_db

ENTRY = NewEntry(sender="client", data='"ü"')


def store(session_id: str, *offsets: int) -> None:
    for offset in offsets:
        HistoryEntry.objects.create(
            session_id=session_id, offset=offset, sender="client", data='"ü"'
        )


def begin(quota: StreamQuota, client_id: str, count: int = 1) -> None:
    """Begin some answers that do not end."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        quota.require_room(client_id)
        quota.count_until(loop.create_future(), client_id)


async def test_an_answer_that_waits_for_several_persons_is_left_out_once() -> None:
    quota = StreamQuota(10, 3)
    begin(quota, "alice")
    with quota.without("alice", "an answer"):
        with quota.without("alice", "an answer"):
            begin(quota, "bob", 3)
            with pytest.raises(TooManyStreams):
                quota.require_room("bob")
        # It waits for the other person still.
        with pytest.raises(TooManyStreams):
            quota.require_room("")
    with pytest.raises(TooManyStreams):
        quota.require_room("bob")


async def test_of_the_answers_that_wait_a_node_leaves_some_out() -> None:
    quota = StreamQuota(3, 4)
    with ExitStack() as waits:
        for number in range(4):
            begin(quota, "alice")
            waits.enter_context(quota.without("alice", number))
        for number in range(4, 7):
            begin(quota, "alice")
            waits.enter_context(quota.without("alice", number))
        with pytest.raises(TooManyStreams):
            quota.require_room("alice")
        begin(quota, "bob")
        with pytest.raises(TooManyStreams):
            quota.require_room("")


def test_the_usage_is_of_all_sessions_in_bytes() -> None:
    store(make_session(), 1, 2)
    store(make_session(), 1)
    store(make_session("bob"), 1)
    assert read_usage("alice") == (3, 12)
    assert read_usage("nobody") == (0, 0)


def test_a_full_client_has_room_again_after_it_deleted_something() -> None:
    now = 0.0
    quota = StorageQuota(3, 0, clock=lambda: now)
    session_id = make_session()
    store(session_id, 1)
    assert quota.take("alice", [ENTRY, ENTRY])
    store(session_id, 2, 3)
    assert not quota.take("alice", [ENTRY])
    HistoryEntry.objects.all().delete()
    assert not quota.take("alice", [ENTRY])
    now = 5.0
    assert quota.take("alice", [ENTRY])


def test_without_limits_nothing_is_read(
    django_assert_num_queries: pytest.FixtureRequest,
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert StorageQuota(0, 0).take("alice", [ENTRY] * 100)
        assert StorageQuota(1, 1).take("", [ENTRY] * 100)
