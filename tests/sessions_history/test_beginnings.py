"""A session begins with its first entry, up to the limit of its client."""

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from connections.models.alias import atomic
from connections.sweeper.sweeper import Sweeper
from connections.testing.clock import FakeClock
from connections.testing.communicators import make_config
from connections.testing.waiting import scale
from sessions_history.beginnings import begin_session, delete_session
from sessions_history.commits import commit
from sessions_history.entries import Committed
from sessions_history.exceptions import (
    AppendedBefore,
    SessionNotFound,
    StorageFull,
    TooManySessions,
    TooManyStreams,
)
from sessions_history.models import DeletedSession, HistoryEntry, Session
from sessions_history.quotas import StorageQuota
from sessions_history.reads import Claim, read_snapshot
from sessions_history.session_ids import KNOWN_SECONDS, is_recent_id, make_session_id
from sessions_history.signals import session_created
from sessions_history.stream_producers import ProducerStep
from sessions_history.transaction import Result
from tests.sessions_history.appends import (
    LIMITS,
    in_thread,
    make_append,
    make_beginning,
    make_session,
    wait_for_rival,
)

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("limit", [2, 102])
def test_sessions_of_a_client_end_at_the_limit(limit: int) -> None:
    rows = [
        Session(session_id=f"{number:032}", client_id="alice", epoch="e")
        for number in range(limit - 2)
    ]
    Session.objects.bulk_create(rows)
    for _ in range(2):
        begun = make_beginning()
        begin_session(begun, limit)
    row = Session.objects.get(pk=begun.session_id)
    assert (row.client_id, row.epoch, row.last_offset) == ("alice", begun.epoch, 0)
    assert row.last_seen_at >= row.created_at
    with pytest.raises(TooManySessions):
        begin_session(make_beginning(), limit)
    begin_session(begun, limit)
    begin_session(make_beginning("bob"), limit)
    begin_session(make_beginning())
    assert Session.objects.filter(client_id="alice").count() == limit + 1


def test_the_first_entry_inserts_the_session() -> None:
    """The same message again, in the same batch and later, begins nothing."""
    new = make_beginning()
    append = make_append(new.session_id, "k", beginning=new)
    results = [*commit([append] * 2, LIMITS), *commit([append], LIMITS)]
    assert [one.offset for one in results if isinstance(one, Committed)] == [1] * 3
    assert {one.epoch for one in results if isinstance(one, Committed)} == {new.epoch}
    assert Session.objects.get().last_offset == 1
    assert HistoryEntry.objects.count() == 1


def test_a_session_that_another_node_has_begun_goes_on() -> None:
    """Its epoch stays, and a message that was appended there gets its offset."""
    here = make_beginning()
    there = replace(here, epoch="there")
    commit([make_append(here.session_id, "k", beginning=there)], LIMITS)
    again, more = commit(
        [make_append(here.session_id, key, beginning=here) for key in ("k", "more")],
        LIMITS,
    )
    assert isinstance(again, Committed) and isinstance(more, Committed)
    assert (again.epoch, again.offset) == (more.epoch, 1) == ("there", 1)
    assert more.offset == 2


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_open_streams": 0}, TooManyStreams),
        ({"storage": StorageQuota(1, 1)}, StorageFull),
        ({"max_sessions": 1}, TooManySessions),
    ],
)
def test_a_refused_first_entry_leaves_no_session(
    limits: dict[str, Any], error: type[Exception]
) -> None:
    """The others of the batch are committed."""
    Session.objects.create(session_id="s", client_id="alice", epoch="e")
    new = make_beginning()
    append = make_append(new.session_id, state="streaming", count=2, beginning=new)
    refused, other = commit(
        [replace(append, client_id="alice"), make_append("s")],
        replace(LIMITS, **limits),
    )
    assert isinstance(refused, error)
    assert isinstance(other, Committed)
    assert Session.objects.get().session_id == "s"


def test_a_deleted_session_is_not_begun_again() -> None:
    new = make_beginning()
    append = make_append(new.session_id, beginning=new)
    commit([append], LIMITS)
    delete_session(new.session_id, "alice")
    (result,) = commit([append], LIMITS)
    assert isinstance(result, SessionNotFound)
    with pytest.raises(SessionNotFound):
        read_snapshot(new.session_id, "alice", Claim())
    assert not Session.objects.exists()


def test_a_session_of_another_client_is_not_deleted() -> None:
    new = make_beginning()
    commit([make_append(new.session_id, beginning=new)], LIMITS)
    for session_id in (new.session_id, "0" * 32, "no id"):
        with pytest.raises(SessionNotFound):
            delete_session(session_id, "bob")
    assert Session.objects.exists()
    assert not DeletedSession.objects.exists()


def test_a_former_owner_does_not_delete_a_session_that_was_handed_over() -> None:
    new = make_beginning()
    commit([make_append(new.session_id, beginning=new)], LIMITS)
    Session.objects.update(client_id="bob")
    with pytest.raises(SessionNotFound):
        delete_session(new.session_id, "alice")
    with pytest.raises(SessionNotFound):
        begin_session(new, 1, replaces_unused=True)
    assert Session.objects.exists()
    assert not DeletedSession.objects.exists()


@pytest.mark.parametrize("replaces_unused", [False, True])
def test_the_oldest_session_makes_room(replaces_unused: bool) -> None:
    """An empty one before all; by configuration the one unused for longest."""
    last_offset = 1 if replaces_unused else 0
    for hours, offset in ((3, 1), (1, last_offset), (2, last_offset)):
        seen_at = timezone.now() - timedelta(hours=hours)
        Session.objects.create(
            session_id=f"{hours:032}",
            client_id="alice",
            last_offset=offset,
            last_seen_at=seen_at,
        )
    begin_session(make_beginning(), 3, replaces_unused=replaces_unused)
    gone = 3 if replaces_unused else 2
    assert [one.session_id for one in DeletedSession.objects.all()] == [f"{gone:032}"]


def test_a_session_that_finds_no_room_takes_that_of_no_other() -> None:
    """The limit was lowered: one session less is still too many."""
    day_ago = timezone.now() - timedelta(days=1)
    for number in range(3):
        Session.objects.create(
            session_id=f"{number:032}", client_id="alice", last_seen_at=day_ago
        )
    new = make_beginning()
    append = make_append(new.session_id, beginning=new)
    limits = replace(LIMITS, max_sessions=2, replaces_unused=True)
    (refused,) = commit([append], limits)
    assert isinstance(refused, TooManySessions)
    assert Session.objects.count() == 3
    assert not DeletedSession.objects.exists()


@pytest.mark.parametrize("altered", ["f" * 32, "", "no id", "00"])
def test_an_id_belongs_to_one_client(altered: str) -> None:
    session_id = make_session_id("alice")
    assert len(session_id) == 32
    assert session_id != make_session_id("alice")
    assert is_recent_id(session_id, "alice")
    assert not is_recent_id(session_id, "bob")
    assert not is_recent_id(altered, "alice")


def test_an_id_is_known_for_a_day_and_across_keys(settings: Any) -> None:
    clock = FakeClock(1_000_000_000)
    session_id = make_session_id("alice", clock)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    clock.advance(KNOWN_SECONDS - 60)
    assert is_recent_id(session_id, "alice", clock)
    clock.advance(120)
    assert not is_recent_id(session_id, "alice", clock)
    settings.SECRET_KEY_FALLBACKS = []
    assert not is_recent_id(session_id, "alice", FakeClock(1_000_000_000))


def test_old_ids_of_deleted_sessions_are_pruned() -> None:
    for age_seconds in (KNOWN_SECONDS + 60, 60):
        deleted_at = timezone.now() - timedelta(seconds=age_seconds)
        DeletedSession.objects.create(session_id=age_seconds, deleted_at=deleted_at)
    swept = Sweeper(make_config()).sweep_once()
    assert swept.tasks["deleted_sessions_pruned"] == 1
    assert DeletedSession.objects.get().session_id == "60"


@pytest.mark.django_db(transaction=True)
def test_a_session_is_sent_once_after_its_commit() -> None:
    created: list[tuple[Session, ...]] = []

    def receive(sender: type[Session], sessions: Any, **kwargs: Any) -> None:
        assert Session.objects.filter(pk=sessions[0].pk).exists()
        created.append(sessions)

    session_created.connect(receive)
    new = make_beginning()
    append = make_append(new.session_id, "k", beginning=new)
    commit([append], LIMITS)
    commit([append], LIMITS)
    session_created.disconnect(receive)
    assert [(one.pk, one.client_id) for (one,) in created] == [
        (new.session_id, "alice")
    ]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes")
@pytest.mark.django_db(transaction=True)
async def test_an_append_at_the_same_time_does_not_keep_a_session() -> None:
    session_id, is_locked = await in_thread(make_session), threading.Event()

    def append() -> None:
        with atomic():
            commit([make_append(session_id)], LIMITS)
            is_locked.set()
            wait_for_rival()

    def delete() -> None:
        is_locked.wait(scale(10))
        delete_session(session_id, "alice")

    await asyncio.gather(in_thread(append), in_thread(delete))
    assert not await Session.objects.aexists()
    assert not await HistoryEntry.objects.aexists()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes")
@pytest.mark.django_db(transaction=True)
async def test_a_producer_begins_a_session_once_on_two_nodes() -> None:
    step, is_locked = ProducerStep(producer="p", epoch=0, sequence=0), threading.Event()
    beginning = make_beginning()
    append = make_append(beginning.session_id, beginning=beginning)
    request = replace(append, step=step)

    def append_first() -> None:
        with atomic():
            commit([request], LIMITS)
            is_locked.set()
            wait_for_rival()

    def append_again() -> Result:
        is_locked.wait(scale(10))
        return commit([request], LIMITS)[0]

    first, again = in_thread(append_first), in_thread(append_again)
    _, result = await asyncio.gather(first, again)
    assert isinstance(result, AppendedBefore)
    assert await HistoryEntry.objects.acount() == 1
