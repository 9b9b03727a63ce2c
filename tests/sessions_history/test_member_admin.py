"""Staff see members and invitations, change roles, remove and revoke, audited."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.urls import reverse

from connections.models import AuditEntry
from sessions_history import members
from sessions_history.models import Session, SessionInvitation, SessionMember
from tests.sessions_history.appends import make_session

pytestmark = pytest.mark.django_db

MEMBERS = "admin:sessions_history_sessionmember_changelist"
INVITATIONS = "admin:sessions_history_sessioninvitation_changelist"


@pytest.fixture
def bob() -> User:
    return User.objects.create(username="bob")


def act(client: Client, page: str, action: str, *rows: Any) -> str:
    """Carry out an action on some rows; return the page with its message."""
    fields = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(reverse(page), fields, follow=True).content.decode()


def test_members_are_found_by_session_and_user(admin_client: Client, bob: User) -> None:
    first, second = make_session(), make_session("carol")
    members.add(first, bob, "writer")
    members.add(second, User.objects.create(username="dora"), "reader")
    for term in (first, "bob", "BOB"):
        page = admin_client.get(reverse(MEMBERS), {"q": term}).content.decode()
        assert first in page
        assert second not in page


def test_a_role_is_changed_and_a_member_removed(
    admin_client: Client, bob: User
) -> None:
    session_id = make_session()
    members.add(session_id, bob, "writer")
    row = SessionMember.objects.get()
    assert "1 member: role reader." in act(admin_client, MEMBERS, "make_readers", row)
    row.refresh_from_db()
    assert row.role == "reader"
    act(admin_client, MEMBERS, "make_writers", row)
    assert "1 member: removed." in act(admin_client, MEMBERS, "remove", row)
    assert not SessionMember.objects.exists()
    entries = AuditEntry.objects.filter(action="member").order_by("id")
    outcomes = ["role reader", "role writer", "removed"]
    assert [one.facts["outcome"] for one in entries] == outcomes
    assert {(one.target, one.value) for one in entries} == {("user", str(bob.pk))}
    assert {(one.via, one.actor) for one in entries} == {("admin", "admin")}
    assert {one.facts["session"] for one in entries} == {session_id}


def test_a_member_whose_user_is_gone_is_removed(
    admin_client: Client, bob: User
) -> None:
    members.add(make_session(), bob, "writer")
    row = SessionMember.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM auth_user WHERE id = %s", [bob.pk])
    page = act(admin_client, MEMBERS, "make_readers", row)
    assert "The user is gone: remove the member." in page
    assert "0 members: role reader." in page
    assert SessionMember.objects.get().role == "writer"
    assert "1 member: removed." in act(admin_client, MEMBERS, "remove", row)
    assert not SessionMember.objects.exists()
    entry = AuditEntry.objects.get(action="member")
    assert (entry.value, entry.facts["outcome"]) == (str(bob.pk), "removed")


def test_the_owner_stays(admin_client: Client, bob: User) -> None:
    session_id = make_session()
    members.add(session_id, bob, "writer")
    members.hand_over(session_id, bob)
    row = SessionMember.objects.get(user=bob)
    page = act(admin_client, MEMBERS, "remove", row)
    assert "The owner keeps the role" in page
    assert SessionMember.objects.filter(user=bob, role="owner").exists()
    assert not AuditEntry.objects.filter(action="member").exists()
    assert Session.objects.get().client_id == f"user:{bob.pk}"


def test_a_member_goes_with_the_user_alone(
    admin_client: Client, client: Client, bob: User
) -> None:
    members.add(make_session(), bob, "writer")
    row, url = SessionMember.objects.get(), f"/admin/auth/user/{bob.pk}/delete/"
    own = reverse("admin:sessions_history_sessionmember_delete", args=[row.pk])
    assert admin_client.post(own, {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin_client.get(reverse(MEMBERS)).content.decode()
    staff = User.objects.create(username="staff", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="delete_user"))
    client.force_login(staff)
    assert client.post(url, {"post": "yes"}).status_code == 403
    assert admin_client.post(url, {"post": "yes"}).status_code == 302
    assert not SessionMember.objects.exists()


def test_an_invitation_is_revoked_once(admin_client: Client) -> None:
    invitation, _ = members.invite(make_session(), "reader")
    page = act(admin_client, INVITATIONS, "revoke", invitation)
    assert "1 invitation revoked" in page
    act(admin_client, INVITATIONS, "revoke", invitation)
    assert SessionInvitation.objects.get().revoked_at is not None
    entry = AuditEntry.objects.get(action="revoke")
    assert (entry.target, entry.value) == ("invitation", invitation.pk)
    assert (entry.via, entry.actor) == ("admin", "admin")


def test_who_may_only_view_changes_nothing(client: Client, bob: User) -> None:
    members.add(make_session(), bob, "writer")
    viewer = User.objects.create(username="viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_sessionmember"))
    client.force_login(viewer)
    row = SessionMember.objects.get()
    assert "bob" in client.get(reverse(MEMBERS)).content.decode()
    act(client, MEMBERS, "remove", row)
    assert SessionMember.objects.exists()
    for name in ("add", "delete", "change"):
        arguments = [] if name == "add" else [row.pk]
        url = reverse(f"admin:sessions_history_sessionmember_{name}", args=arguments)
        assert client.post(url, {"post": "yes"}).status_code == 403


def test_nothing_is_changed_in_read_only_mode(
    admin_client: Client, bob: User, settings: Any
) -> None:
    members.add(make_session(), bob, "writer")
    settings.WEBSOCKET = {"dashboard": {"read_only": True}}
    act(admin_client, MEMBERS, "remove", SessionMember.objects.get())
    assert SessionMember.objects.exists()
