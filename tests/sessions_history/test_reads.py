"""A client creates sessions up to its limit."""

import pytest

from sessions_history.exceptions import TooManySessions
from sessions_history.models import Session
from sessions_history.reads import create_session

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("limit", [2, 102])
def test_sessions_of_a_client_end_at_the_limit(limit: int) -> None:
    """Whether one statement is enough for the first, or there is no room for it."""
    rows = [
        Session(session_id=f"{number:032}", client_id="alice", epoch="e")
        for number in range(limit - 2)
    ]
    Session.objects.bulk_create(rows)
    for _ in range(2):
        made = create_session("alice", None, limit)
    row = Session.objects.get(pk=made.session_id)
    assert (row.client_id, row.epoch, row.last_offset) == ("alice", made.epoch, 0)
    assert row.last_seen_at >= row.created_at
    with pytest.raises(TooManySessions):
        create_session("alice", None, limit)
    create_session("bob", None, limit)
    create_session("alice", None)
    assert Session.objects.filter(client_id="alice").count() == limit + 1
