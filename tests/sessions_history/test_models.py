"""Sessions and their entries, as the database holds them."""

import pytest
from django.db import IntegrityError, transaction

from sessions_history.models import HistoryEntry, Session

pytestmark = pytest.mark.django_db


def make_session() -> Session:
    return Session.objects.create(session_id="s1", client_id="alice", epoch="e1")


def make_entry(session: Session, offset: int) -> HistoryEntry:
    return HistoryEntry.objects.create(
        session=session, offset=offset, kind="message", sender="client", data='{"n":1}'
    )


def test_an_offset_is_taken_once_in_a_session() -> None:
    session = make_session()
    make_entry(session, 1)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_entry(session, 1)
    assert make_entry(session, 2).state == "done"


def test_entries_go_with_their_session() -> None:
    session = make_session()
    make_entry(session, 1)
    session.delete()
    assert not HistoryEntry.objects.exists()
