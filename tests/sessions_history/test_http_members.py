"""Test members and invitations of sessions over HTTP."""

from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient

from connections.node.node import Node
from connections.storage.database import Database
from sessions_history import members
from sessions_history.models import (
    DeletedSession,
    Session,
    SessionInvitation,
    SessionMember,
)
from tests.sessions_history.asking import add_session, ask, bearer, read_error

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def bob() -> User:
    return await User.objects.acreate(username="bob")


async def as_user(user: User) -> dict[str, Any]:
    return await bearer(f"user:{user.pk}", user=user)


async def test_a_session_is_shared_by_a_link(node: Node, bob: User) -> None:
    session_id, alice, guest = await add_session(), await bearer(), await as_user(bob)
    body = {"role": "writer"}
    made = await ask("POST", f"{session_id}/invitations/", body, **alice)
    assert made.status_code == 201
    invitation = made.json()
    assert invitation["single_use"] is True
    joined = await ask("POST", "join/", {"token": invitation["token"]}, **guest)
    assert joined.json() == {"session": session_id, "role": "writer"}
    listed = (await ask("GET", **guest)).json()["items"]
    assert [(one["id"], one["role"]) for one in listed] == [(session_id, "writer")]
    assert (await ask("GET", f"{session_id}/", **alice)).json()["role"] == "owner"
    assert (await ask("GET", f"{session_id}/entries/", **guest)).status_code == 200
    found = (await ask("GET", f"{session_id}/members/", **guest)).json()
    assert found["role"] == "writer"
    assert [one["role"] for one in found["items"]] == ["owner", "writer"]
    assert found["items"][1]["author"] == f"user:{bob.pk}"
    (listed,) = (await ask("GET", f"{session_id}/invitations/", **alice)).json()[
        "items"
    ]
    assert listed["used_at"] is not None
    assert "token" not in listed


async def test_only_the_owner_changes_members_and_the_session(
    node: Node, bob: User
) -> None:
    session_id, guest = await add_session(), await as_user(bob)
    await in_database(members.add)(session_id, bob, "writer")
    for method, path, body in (
        ("PATCH", "", {"title": "mine"}),
        ("DELETE", "", None),
        ("POST", "invitations/", {"role": "reader"}),
        ("GET", "invitations/", None),
        ("DELETE", "invitations/x/", None),
        ("PATCH", f"members/{bob.pk}/", {"role": "owner"}),
    ):
        refused = await ask(method, f"{session_id}/{path}", body, **guest)
        assert read_error(refused, 403) == "not_owner"
    stranger = await bearer("mallory")
    for path in ("members/", "invitations/", ""):
        refused = await ask("GET", f"{session_id}/{path}", **stranger)
        assert read_error(refused, 404) == "not_found"
    left = await ask("DELETE", f"{session_id}/members/{bob.pk}/", **guest)
    assert left.status_code == 204
    assert not await SessionMember.objects.aexists()


async def test_the_owner_changes_removes_and_hands_over(node: Node, bob: User) -> None:
    session_id, alice = await add_session(), await bearer()
    path = f"{session_id}/members/{bob.pk}/"
    refused = await ask("PATCH", path, {"role": "reader"}, **alice)
    assert read_error(refused, 404) == "not_found"
    await in_database(members.add)(session_id, bob, "writer")
    changed = await ask("PATCH", path, {"role": "reader"}, **alice)
    assert changed.status_code == 204
    assert (await SessionMember.objects.aget()).role == "reader"
    refused = await ask("PATCH", path, {"role": "king"}, **alice)
    assert read_error(refused, 400) == "invalid_field"
    assert (await ask("DELETE", path, **alice)).status_code == 204
    await in_database(members.add)(session_id, bob, "writer")
    handed = await ask("PATCH", path, {"role": "owner"}, **alice)
    assert handed.status_code == 204
    assert (await Session.objects.aget()).client_id == f"user:{bob.pk}"
    for method in ("GET", "DELETE"):
        refused = await ask(method, f"{session_id}/", **alice)
        assert read_error(refused, 404) == "not_found"
    assert not await DeletedSession.objects.aexists()
    # The owner may come with another client id.
    phone = await bearer("phone", user=bob)
    left = await ask("DELETE", path, **phone)
    assert read_error(left, 409) == "owner_stays"
    read = await ask("GET", f"{session_id}/", **phone)
    assert read.json()["role"] == "owner"
    unchanged = {**phone, "if-match": read["ETag"]}
    named = await ask("PATCH", f"{session_id}/", {"title": "Ours"}, **unchanged)
    assert named.status_code == 200
    assert (await ask("DELETE", f"{session_id}/", **phone)).status_code == 204


async def test_a_revoked_or_used_link_and_one_without_a_user_are_refused(
    node: Node, bob: User
) -> None:
    session_id, alice, guest = await add_session(), await bearer(), await as_user(bob)
    path = f"{session_id}/invitations/"
    made = (await ask("POST", path, {"role": "reader"}, **alice)).json()
    body = {"token": made["token"]}
    assert read_error(await ask("POST", "join/", body, **alice), 403) == "no_user"
    assert (await ask("DELETE", f"{path}{made['id']}/", **alice)).status_code == 204
    refused = await ask("POST", "join/", body, **guest)
    assert read_error(refused, 410) == "invitation_revoked"
    refused = await ask("POST", "join/", {"token": "x"}, **guest)
    assert read_error(refused, 404) == "invitation_unknown"
    for named in ("none", "%00"):
        refused = await ask("DELETE", f"{path}{named}/", **alice)
        assert read_error(refused, 404) == "invitation_unknown"
    for lifetime in (0, -1, "soon"):
        body = {"role": "reader", "lifetime_seconds": lifetime}
        refused = await ask("POST", path, body, **alice)
        assert read_error(refused, 400) == "invalid_field"


async def test_an_owner_that_hands_over_meanwhile_invites_nobody(
    node: Node, bob: User
) -> None:
    """The right is checked once the members cannot change any more."""
    session_id, alice = await add_session(), await bearer()
    await in_database(members.add)(session_id, bob, "writer")
    is_handed_over = False

    def hand_over_first(execute: Any, sql: str, *rest: Any) -> Any:
        nonlocal is_handed_over
        if not is_handed_over and sql.startswith("UPDATE"):
            is_handed_over = True
            members.hand_over(session_id, bob)
        return execute(sql, *rest)

    class Meanwhile(Database):
        async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
            def run() -> Any:
                with connection.execute_wrapper(hand_over_first):
                    return work(*args)

            return await super().write_urgently(run, **kwargs)

    node.database = Meanwhile()
    path = f"{session_id}/invitations/"
    refused = await ask("POST", path, {"role": "reader"}, **alice)
    assert is_handed_over
    assert read_error(refused, 404) == "not_found"
    assert not await SessionInvitation.objects.aexists()


async def test_a_link_is_not_redeemed_by_get_nor_without_a_csrf_token(
    node: Node, bob: User
) -> None:
    session_id = await add_session()
    _, token = await in_database(members.invite)(session_id, "reader")
    refused = await ask("GET", f"join/?token={token}", **await as_user(bob))
    assert read_error(refused, 405) == "method_not_allowed"
    page = AsyncClient(enforce_csrf_checks=True)
    await page.aforce_login(bob)
    refused = await ask(
        "POST", "join/", {"token": token}, page, origin="http://testserver"
    )
    assert read_error(refused, 403) == "csrf"
    assert (await SessionInvitation.objects.aget()).used_at is None
