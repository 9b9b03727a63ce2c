"""Staff can read sessions and find them by client; nobody changes them there."""

import pytest
from django.test import Client
from django.urls import reverse

from sessions_history.models import HistoryEntry, Session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session() -> Session:
    session = Session.objects.create(session_id="s1", client_id="alice", epoch="e")
    HistoryEntry.objects.create(
        session=session,
        offset=1,
        kind="message",
        sender="client",
        data='{"text":"<b>hello</b>"}',
    )
    Session.objects.create(session_id="s2", client_id="bob", epoch="e")
    return session


@pytest.mark.parametrize("model", ["session", "historyentry"])
def test_a_list_is_searched_by_client(
    admin_client: Client, session: Session, model: str
) -> None:
    url = reverse(f"admin:sessions_history_{model}_changelist")
    page = admin_client.get(url, {"q": "ali"}).content.decode()
    assert "alice" in page
    assert "bob" not in page
    assert "max_session_history" in page
    assert "retention.sessions_days" in page


def test_the_entries_of_one_session(admin_client: Client, session: Session) -> None:
    url = reverse("admin:sessions_history_session_changelist")
    page = admin_client.get(url).content.decode()
    link = reverse("admin:sessions_history_historyentry_changelist")
    link += "?session__session_id__exact=s1"
    assert link in page
    entries = admin_client.get(link).content.decode()
    assert "&lt;b&gt;hello&lt;/b&gt;" in entries
    assert "<b>hello" not in entries


def test_nothing_is_changed(admin_client: Client, session: Session) -> None:
    for name in ("add", "delete", "change"):
        arguments = [] if name == "add" else [session.pk]
        url = reverse(f"admin:sessions_history_session_{name}", args=arguments)
        assert admin_client.post(url, {"post": "yes"}).status_code == 403
    assert Session.objects.count() == 2
