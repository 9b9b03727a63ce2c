"""Who is in a conversation, and the page on which one joins it."""

from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client

from sessions_history import members
from sessions_history.member_models import SessionMember
from sessions_history.models import Session

pytestmark = pytest.mark.django_db

SESSION_ID = "5" * 32


@pytest.fixture
def alice() -> User:
    """A user with a session."""
    user = User.objects.create_user("alice")
    Session.objects.create(
        session_id=SESSION_ID, client_id=f"user:{user.pk}", user=user, epoch="e"
    )
    return user


@pytest.fixture
def sign_in(client: Client) -> Callable[[str], Client]:
    def sign_in(name: str) -> Client:
        client.force_login(User.objects.get_or_create(username=name)[0])
        return client

    return sign_in


def make_path(token: str) -> str:
    return f"/join/?{urlencode({'token': token})}"


def read_people(client: Client) -> list[tuple[str, str]]:
    found = client.get(f"/people/{SESSION_ID}/").json()["people"]
    return [(one["name"], one["role"]) for one in found]


def test_members_learn_the_names_of_each_other(
    alice: User, sign_in: Callable[[str], Client]
) -> None:
    assert read_people(sign_in("alice")) == [("alice", "owner")]
    members.add(SESSION_ID, User.objects.create_user("bob"), "reader")
    everybody = [("alice", "owner"), ("bob", "reader")]
    assert read_people(sign_in("alice")) == everybody
    assert read_people(sign_in("bob")) == everybody


def test_strangers_learn_no_name(
    alice: User, client: Client, sign_in: Callable[[str], Client]
) -> None:
    assert client.get(f"/people/{SESSION_ID}/").status_code == 302
    assert read_people(sign_in("eve")) == []
    assert sign_in("eve").get("/people/unknown/").json() == {"people": []}


def test_a_session_that_was_handed_over_names_each_person_once(
    alice: User, sign_in: Callable[[str], Client]
) -> None:
    bob = User.objects.create_user("bob")
    members.add(SESSION_ID, bob, "writer")
    members.hand_over(SESSION_ID, bob)
    assert read_people(sign_in("bob")) == [("bob", "owner"), ("alice", "writer")]


def test_a_link_leads_to_the_conversation_after_sign_in(
    alice: User, client: Client, sign_in: Callable[[str], Client]
) -> None:
    """Opening it changes nothing; the button joins."""
    _, token = members.invite(SESSION_ID, "writer", author=alice)
    path = make_path(token)
    asked = client.get(path)
    assert asked["Location"].startswith("/sign-in/?next=/join/%3Ftoken%3D")
    page = sign_in("bob").get(path)
    assert "as <strong>bob</strong>" in page.content.decode()
    assert read_people(client) == []
    assert client.post(path)["Location"] == f"/?session={SESSION_ID}"
    assert read_people(client) == [("alice", "owner"), ("bob", "writer")]


def test_a_link_works_once(alice: User, sign_in: Callable[[str], Client]) -> None:
    _, token = members.invite(SESSION_ID, "writer", author=alice)
    sign_in("bob").post(make_path(token))
    refused = sign_in("eve").post(make_path(token))
    assert refused.status_code == 410
    assert "Somebody has joined by this link." in refused.content.decode()


@pytest.mark.parametrize("token", ["", "x", "a:b:c", "<script>", "é" * 900])
def test_a_link_that_is_not_complete_is_refused(
    alice: User, sign_in: Callable[[str], Client], token: str
) -> None:
    refused = sign_in("bob").post(make_path(token))
    assert refused.status_code == 404
    assert "This link is not complete" in refused.content.decode()


def test_a_link_that_was_withdrawn_is_refused(
    alice: User, sign_in: Callable[[str], Client]
) -> None:
    invitation, token = members.invite(SESSION_ID, "writer", author=alice)
    members.revoke(SESSION_ID, invitation.pk)
    assert sign_in("bob").post(make_path(token)).status_code == 410


def test_a_full_conversation_takes_nobody(
    alice: User, sign_in: Callable[[str], Client]
) -> None:
    _, token = members.invite(SESSION_ID, "writer", author=alice)
    users = User.objects.bulk_create(
        User(username=f"user {number}") for number in range(members.MOST_MEMBERS)
    )
    SessionMember.objects.bulk_create(
        SessionMember(session_id=SESSION_ID, user=one, role="reader") for one in users
    )
    assert sign_in("bob").post(make_path(token)).status_code == 409


def test_a_shared_conversation_is_in_the_list_without_what_owners_do(
    alice: User, sign_in: Callable[[str], Client]
) -> None:
    Session.objects.filter(pk=SESSION_ID).update(title="Plans", last_offset=1)
    assert "Plans" not in sign_in("bob").get("/").content.decode()
    members.add(SESSION_ID, User.objects.get(username="bob"), "writer")
    listed = sign_in("bob").get("/").content.decode()
    (item,) = listed.split("<template")[0].split("<li ")[1:]
    assert "Plans" in item
    assert "shared with you" in item
    assert 'data-act="delete"' not in item
    own = sign_in("alice").get("/").content.decode()
    (item,) = own.split("<template")[0].split("<li ")[1:]
    assert 'data-act="delete"' in item
