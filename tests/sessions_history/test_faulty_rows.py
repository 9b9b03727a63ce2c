"""One faulty row keeps no other row from a sweep, and is named in the log."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from connections.models.sweep import delete_some
from connections.sweeper.sweeper import Sweeper
from connections.testing.communicators import make_config
from sessions_history.models import AppendKey, EntryChunk, HistoryEntry, Session
from sessions_history.pruning import prune_empty, prune_sessions

pytestmark = pytest.mark.django_db(transaction=True)

LONG_AGO = timezone.now() - timedelta(days=200)


def make_session(name: str) -> Session:
    return Session.objects.create(
        session_id=name, client_id=name, epoch="e", last_seen_at=LONG_AGO
    )


def make_stream(name: str, data: str, state: str) -> HistoryEntry:
    """Make an entry with one chunk, whose node is gone."""
    entry = HistoryEntry.objects.create(
        session=make_session(name),
        offset=1,
        kind="message",
        sender="server",
        data=data,
        state=state,
        at=LONG_AGO,
    )
    EntryChunk.objects.create(entry=entry, sequence=1, text="a chunk", owner="gone")
    return entry


def make_empty_with_key(name: str) -> None:
    AppendKey.objects.create(session=make_session(name), key="k", offset=1)


@contextmanager
def referring(session_id: str) -> Iterator[None]:
    """Let a table that Django does not know refer to a session."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE foreign_row (session_id varchar(32)"
            " REFERENCES sessions_history_session (session_id))"
        )
        try:
            cursor.execute("INSERT INTO foreign_row VALUES (%s)", [session_id])
            yield
        finally:
            cursor.execute("DROP TABLE foreign_row")


def named(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages about rows that were left as they are."""
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", "") == "row_refused"
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_a_session_that_only_looks_empty_keeps_no_other(
    batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the oldest, so it comes first in each batch."""
    make_empty_with_key("bad")
    for name in ("first", "second", "third"):
        make_session(name)
    while prune_empty(batch_size):
        continue
    assert [one.pk for one in Session.objects.all()] == ["bad"]
    message = "The sweep left the row bad of Session as it is: "
    assert all(one.startswith(message) for one in named(caplog))
    assert named(caplog)


def test_faulty_rows_in_a_whole_batch_keep_no_later_one() -> None:
    for name in ("bad-1", "bad-2"):
        make_empty_with_key(name)
    make_session("good")
    empty = Session.objects.empty().order_by("session_id")
    assert delete_some(empty, 2) == 1
    assert not Session.objects.filter(pk="good").exists()


@pytest.mark.parametrize("state", ["streaming", "done"])
def test_a_stream_that_cannot_be_read_keeps_no_other(
    state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweep ends the streams of a node that is gone, and folds their chunks."""
    bad = make_stream("a", "no JSON", state)
    good = make_stream("b", '{"text":""}', state)
    Session.objects.update(last_seen_at=timezone.now())
    swept = Sweeper(make_config()).sweep_once()
    task = "streams_interrupted" if state == "streaming" else "chunks_folded"
    assert swept.tasks[task] == 1
    good.refresh_from_db()
    assert good.data == '{"text":"a chunk"}'
    (message,) = named(caplog)
    assert f"({bad.pk}, 'a') of HistoryEntry" in message


def test_an_old_session_that_cannot_be_deleted_keeps_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("bad", "good"):
        make_session(name)
    with referring("bad"):
        assert prune_sessions(timezone.now(), 10) == 1
        assert [one.pk for one in Session.objects.all()] == ["bad"]
        assert prune_sessions(timezone.now(), 10) == 0
    assert all("the row bad of Session" in one for one in named(caplog))


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a trigger of SQLite")
def test_a_full_step_of_sessions_that_cannot_be_deleted_ends() -> None:
    """The sweep repeats a step as long as it does something."""
    for number in range(50):
        make_session(f"bad-{number}")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER kept BEFORE DELETE ON sessions_history_session"
            " BEGIN SELECT RAISE(ABORT, 'kept'); END"
        )
        try:
            assert prune_sessions(timezone.now(), 100) == 0
        finally:
            cursor.execute("DROP TRIGGER kept")
