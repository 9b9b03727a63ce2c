"""Test access tokens in the admin: creation, scopes and revocation."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from connections.credentials.tokens import create_access_token, verify_access_token
from connections.models import AccessToken, CloseRequest
from tests.connections.failing_database import statement_failing

pytestmark = pytest.mark.django_db

URL = "/admin/connections/accesstoken/"


def add(client: Client, **values: Any) -> Any:
    values = {"client_id": "alice", "expires_at_0": "", "expires_at_1": "", **values}
    return client.post(f"{URL}add/", values)


def read_token(response: Any) -> str:
    found = re.search(
        r'<code id="token"[^>]*>([^<]+)</code>', response.content.decode()
    )
    assert found, response.content.decode()
    return found[1]


def requests() -> list[tuple[str, str, str, str]]:
    fields = ("target", "value", "reason", "author")
    return list(CloseRequest.objects.order_by("id").values_list(*fields))


def test_a_token_is_shown_once_and_works(admin_client: Client) -> None:
    response = add(admin_client, scopes="/ws/chat/\n\n  ws/echo/  \n")
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    token = read_token(response)
    credential = verify_access_token(token)
    assert credential.client_id == "alice"
    assert credential.scopes == ("/ws/chat/", "ws/echo/")


def test_a_token_is_never_shown_again(admin_client: Client) -> None:
    token = read_token(add(admin_client))
    row = AccessToken.objects.get()
    for page in (URL, f"{URL}{row.pk}/change/", f"{URL}{row.pk}/history/", "/admin/"):
        response = admin_client.get(page)
        assert response.status_code == 200
        assert token not in response.content.decode()
    stored = str([*AccessToken.objects.values(), *LogEntry.objects.values()])
    assert token not in stored
    assert token not in str(dict(admin_client.session))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"client_id": ""}, "required"),
        ({"scopes": "/ws/chat/?x=1"}, "no scope"),
        ({"expires_at_0": "2001-01-01", "expires_at_1": "00:00"}, "in the future"),
        ({"user": "999999999"}, "valid choice"),
        ({"client_id": "user:1"}, "reserved"),
        ({"client_id": "jwt:alice"}, "reserved"),
    ],
)
def test_invalid_input_is_reported_and_creates_no_token(
    admin_client: Client, values: dict[str, str], problem: str
) -> None:
    assert problem in add(admin_client, **values).content.decode()
    assert not AccessToken.objects.exists()


def test_the_action_revokes_and_ends_connections(admin_client: Client) -> None:
    rows = [create_access_token(name)[1] for name in ("alice", "bob", "carol")]
    AccessToken.objects.filter(pk=rows[2].pk).revoke()
    keys = [row.pk for row in rows]
    admin_client.post(URL, {"action": "revoke", "_selected_action": keys})
    assert not AccessToken.objects.filter(revoked_at=None).exists()
    assert sorted(requests()) == [
        ("token", key, "revoked", "admin") for key in sorted(map(str, keys[:2]))
    ]


def test_the_button_revokes_one(admin_client: Client) -> None:
    token, row = create_access_token("alice")
    page = admin_client.get(f"{URL}{row.pk}/change/").content.decode()
    assert f"{URL}{row.pk}/revoke/" in page
    assert "_save" not in page
    assert admin_client.get(f"{URL}{row.pk}/revoke/").status_code == 405
    assert admin_client.post(f"{URL}{row.pk}/revoke/").status_code == 302
    assert requests() == [("token", str(row.pk), "revoked", "admin")]
    page = admin_client.get(f"{URL}{row.pk}/change/").content.decode()
    assert "/revoke/" not in page
    assert token not in page


@pytest.mark.parametrize("action", ["revoke", "delete_selected"])
def test_a_token_stays_if_its_connections_cannot_be_ended(
    admin_client: Client, action: str
) -> None:
    _, row = create_access_token("alice")
    data = {"action": action, "_selected_action": [row.pk], "post": "yes"}
    with statement_failing('INSERT INTO "connections_closerequest"'):
        assert admin_client.post(URL, data).status_code == 503
    assert AccessToken.objects.get().revoked_at is None


def test_a_deleted_token_ends_its_connections_too(admin_client: Client) -> None:
    keys = [create_access_token("alice")[1].pk for _ in range(3)]
    admin_client.post(f"{URL}{keys[0]}/delete/", {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": keys[1:], "post": "yes"}
    admin_client.post(URL, chosen)
    assert not AccessToken.objects.exists()
    assert {value for _, value, _, _ in requests()} == {str(key) for key in keys}


@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        (["view_accesstoken"], (403, 403)),
        (["view_accesstoken", "add_accesstoken"], (200, 403)),
        (["view_accesstoken", "change_accesstoken"], (403, 302)),
    ],
)
def test_staff_actions_follow_their_permissions(
    client: Client, permissions: list[str], statuses: tuple[int, int]
) -> None:
    staff = User.objects.create_user("staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(staff)
    row = create_access_token("alice")[1]
    assert client.get(f"{URL}add/").status_code == statuses[0]
    assert client.post(f"{URL}{row.pk}/revoke/").status_code == statuses[1]
    assert client.get(URL).status_code == 200


def add_as_staff(
    client: Client, permissions: list[str], user: User | None, staff: User
) -> bool:
    """Create a token for a user as a staff user; return True if it was created."""
    staff.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(staff)
    add(client, user=user.pk if user else "")
    return AccessToken.objects.filter(user=user).exists()


@pytest.mark.parametrize(
    ("owner", "permissions", "is_created"),
    [
        ("staff", ["add_accesstoken"], True),
        ("alice", ["add_accesstoken"], False),
        ("admin", ["add_accesstoken"], False),
        ("alice", ["add_accesstoken", "impersonate_accesstoken"], True),
        ("inactive", ["add_accesstoken", "impersonate_accesstoken"], False),
        ("moderator", ["add_accesstoken", "impersonate_accesstoken"], False),
        ("moderator", ["add_accesstoken", "impersonate_accesstoken", "add_ban"], True),
        ("admin", ["add_accesstoken", "impersonate_accesstoken", "add_ban"], False),
    ],
)
def test_staff_create_tokens_for_users_only_within_their_rights(
    client: Client, owner: str, permissions: list[str], is_created: bool
) -> None:
    staff = User.objects.create_user("staff", is_staff=True)
    User.objects.create_user("alice")
    User.objects.create_user("inactive", is_active=False)
    User.objects.create_superuser("admin")
    moderator = User.objects.create_user("moderator")
    moderator.user_permissions.set(Permission.objects.filter(codename="add_ban"))
    user = User.objects.get(username=owner)
    assert add_as_staff(client, permissions, user, staff) is is_created


def test_a_token_without_a_user_needs_no_other_right(client: Client) -> None:
    staff = User.objects.create_user("staff", is_staff=True)
    assert add_as_staff(client, ["add_accesstoken"], None, staff)


def test_a_token_cannot_be_changed(admin_client: Client) -> None:
    row = create_access_token("alice")[1]
    values = {"client_id": "mallory", "expires_at_0": "", "expires_at_1": ""}
    assert admin_client.post(f"{URL}{row.pk}/change/", values).status_code == 403
    row.refresh_from_db()
    assert row.client_id == "alice"


def test_the_list_shows_state_and_scopes_of_tokens(admin_client: Client) -> None:
    create_access_token("alice", scopes=["/ws/chat/"])
    expired = timezone.now() - timedelta(days=1)
    create_access_token("bob", expires_at=expired)
    page = admin_client.get(URL, {"q": "alice"}).content.decode()
    assert "/ws/chat/" in page
    assert "valid" in page
    page = admin_client.get(URL, {"q": "bob"}).content.decode()
    assert "everywhere" in page
    assert "expired" in page


def test_tokens_are_filtered_by_state(admin_client: Client) -> None:
    now = timezone.now()
    create_access_token("lasting")
    create_access_token("fresh", expires_at=now + timedelta(hours=1))
    create_access_token("stale", expires_at=now - timedelta(hours=1))
    create_access_token("withdrawn")
    AccessToken.objects.filter(client_id="withdrawn").revoke()
    for state, expected in {
        "valid": {"lasting", "fresh"},
        "expired": {"stale"},
        "revoked": {"withdrawn"},
    }.items():
        found = admin_client.get(URL, {"state": state}).context["cl"].queryset
        assert {row.client_id for row in found} == expected
