"""Test the actions of the operators' API, and their entries in the audit stream."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from channels.layers import get_channel_layer
from django.contrib.auth import get_user_model
from django.test import override_settings
from django.utils import timezone

from connections.credentials.identity import API_SCOPES
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.layers.broadcast import read_broadcast
from connections.models import AccessToken, AuditEntry, Ban, CloseRequest, NodeCommand
from connections.node.current import get_node
from tests.connections.operator import Operator, get_code, make_operator
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.connections.operators_urls"),
]

PERMISSIONS = (
    "end_connection",
    "end_all",
    "add_ban",
    "delete_ban",
    "add_accesstoken",
    "change_accesstoken",
    "send_notice",
    "drain_node",
    "publish_to_group",
)


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    node = get_node()
    yield await make_operator(*PERMISSIONS, scopes=tuple(API_SCOPES))
    await node.stop()


async def read_audit(operator: Operator, action: str) -> AuditEntry:
    """Return the entry of the only action of a name, which is the operator's."""
    entry = await AuditEntry.objects.aget(action=action, via="api")
    assert entry.actor == "operator"
    assert entry.facts["token"] == operator.row.pk
    return entry


async def test_a_connection_is_kicked(operator: Operator) -> None:
    await in_database(make_connection_row)("c1")
    answer = await operator.post(
        "kick", 202, target="connection", value="c1", reason="a test"
    )
    assert answer == {
        "target": "connection",
        "value": "c1",
        "open_connections": 1,
        "close_code": 4009,
        "close_reason": "kicked",
    }
    request = await CloseRequest.objects.aget()
    assert (request.target, request.value, request.reason, request.author) == (
        "connection",
        "c1",
        "kicked",
        "operator",
    )
    entry = await read_audit(operator, "end")
    assert (entry.target, entry.value, entry.reason) == ("connection", "c1", "a test")


async def test_the_connections_of_a_client_user_or_node_are_kicked(
    operator: Operator,
) -> None:
    def create() -> None:
        make_node_row("n1")
        make_connection_row("a", client_id="x/y", user=operator.user)
        make_connection_row("b", client_id="x/y")

    await in_database(create)()
    key = str(operator.user.pk)
    for target, value, stored, count in (
        ("client", "x/y", "x/y", 2),
        ("user", "operator", key, 1),
        ("user", key, key, 1),
        ("node", "n1", "n1", 2),
        ("client", "unknown", "unknown", 0),
    ):
        answer = await operator.post(
            "kick",
            202,
            target=target,
            value=value,
            reason="a test",
            may_return=True,
            spread_seconds=2.5,
        )
        assert (answer["value"], answer["open_connections"]) == (stored, count)
        assert answer["close_code"] == 4202
        request = await CloseRequest.objects.afirst()
        assert request is not None
        assert (request.target, request.value) == (target, stored)
        assert request.spread_seconds == 2.5


async def test_a_kick_of_what_is_unknown_is_404(operator: Operator) -> None:
    for target in ("connection", "user", "node"):
        for value in ("unknown", "9" * 30, "\u00e9"):
            code = await operator.refused(
                "kick", 404, target=target, value=value, reason="a test"
            )
            assert code == "not_found"
    assert not await CloseRequest.objects.aexists()


async def test_a_ban_is_imposed_and_lifted(operator: Operator) -> None:
    ban = await operator.post(
        "bans", 201, target="address", value="2001:db8::7", reason="abuse", seconds=60
    )
    assert (ban["value"], ban["author"]) == ("2001:db8::/64", "operator")
    assert ban["until"] is not None
    await read_audit(operator, "ban")
    response = await operator.send("DELETE", f"bans/{ban['id']}")
    assert response.status_code == 200
    assert response.json() == ban
    assert not await Ban.objects.aexists()
    await read_audit(operator, "unban")
    response = await operator.send("DELETE", f"bans/{ban['id']}")
    assert response.status_code == 404
    assert get_code(response.json()) == "not_found"


async def test_a_ban_of_what_is_invalid_is_400(operator: Operator) -> None:
    code = await operator.refused(
        "bans", 400, target="address", value="nowhere", reason="abuse"
    )
    assert code == "invalid_field"
    code = await operator.refused(
        "bans", 404, target="user", value="nobody", reason="abuse"
    )
    assert code == "not_found"
    assert not await AuditEntry.objects.filter(action="ban").aexists()


async def test_a_token_is_created_and_revoked(operator: Operator) -> None:
    created = await operator.post("tokens", 201, client="x", scopes=["/ws/chat/"])
    token = created["token"]
    credential = await in_database(verify_access_token)(token)
    assert (credential.client_id, credential.user) == ("x", None)
    await read_audit(operator, "issue")
    revoked = await operator.post(
        f"tokens/{created['id']}/revoke", 200, reason="a test"
    )
    assert revoked["revoked_at"] is not None
    assert "token" not in revoked
    assert (await read_audit(operator, "revoke")).reason == "a test"
    again = await operator.post(f"tokens/{created['id']}/revoke", 200, reason="again")
    assert again == revoked
    await read_audit(operator, "revoke")


async def test_a_token_gives_no_other_one_more_than_it_has(operator: Operator) -> None:
    def create() -> Operator:
        end = timezone.now() + timedelta(hours=1)
        value, row = create_access_token(
            "weak", user=operator.user, scopes=["api:tokens"], expires_at=end
        )
        return Operator(operator.user, value, row)

    weak: Operator = await in_database(create)()
    code = await weak.refused("tokens", 403, client="x", scopes=["api:kick"])
    assert code == "missing_scope"
    code = await weak.refused("tokens", 403, client="x", scopes=["api:tokens"])
    assert code == "expires_too_late"
    await weak.post("tokens", 201, client="x", scopes=["/ws/"])
    await weak.post(
        "tokens",
        201,
        client="x",
        scopes=["api:tokens"],
        expires_at=(timezone.now() + timedelta(minutes=5)).isoformat(),
    )


async def test_a_token_for_another_user_needs_the_users_rights(
    operator: Operator,
) -> None:
    users: Any = get_user_model().objects
    await users.acreate_user("root", is_superuser=True)
    code = await operator.refused("tokens", 403, client="x", user="root")
    assert code == "missing_permission"
    own = await operator.post("tokens", 201, client="x", user="operator")
    assert own["user"] == str(operator.user.pk)


WRONG_TOKENS: list[dict[str, Any]] = [
    {"client": ""},
    {"client": "user:1"},
    {"client": "x", "scopes": ["api:everything"]},
    {"client": "x", "scopes": ["a b"]},
    {"client": "x", "scopes": "/ws/"},
    {"client": "x", "scopes": [1]},
    {"client": "x", "expires_at": "2000-01-01T00:00:00Z"},
    {"client": "x", "expires_at": "9999-12-31T23:59:59-12:00"},
]


async def test_a_token_that_cannot_be_is_400(operator: Operator) -> None:
    for body in WRONG_TOKENS:
        assert await operator.refused("tokens", 400, **body) == "invalid_field"
    assert await AccessToken.objects.acount() == 1


async def test_a_notice_is_sent(operator: Operator) -> None:
    await operator.post("notice", 202, target="all", text="Soon.")
    await operator.post("notice", 202, target="client", value="x", text="Hear!")
    second, first = [one async for one in NodeCommand.objects.all()]
    assert (first.target, first.value, first.text) == ("all", "", "Soon.")
    assert (second.target, second.value, second.author) == ("client", "x", "operator")
    entry = await AuditEntry.objects.filter(action="notice").afirst()
    assert entry is not None
    assert entry.facts == {"text": "Hear!", "token": operator.row.pk}
    for body in ({"target": "client"}, {"target": "all", "value": "x"}):
        code = await operator.refused("notice", 400, text="x", **body)
        assert code == "invalid_field"


async def test_a_node_is_drained_and_returned_to_service(operator: Operator) -> None:
    await in_database(make_node_row)("n1")
    await in_database(make_node_row)("n2", state="stopped")
    for verb in ("drain", "serve"):
        answer = await operator.post(f"nodes/n1/{verb}", 202, reason="a test")
        assert answer == {"node": "n1", "state": "serving"}
        assert (await read_audit(operator, verb)).value == "n1"
    assert [one.kind async for one in NodeCommand.objects.all()] == ["serve", "drain"]
    code = await operator.refused("nodes/n2/drain", 409, reason="a test")
    assert code == "node_has_ended"
    code = await operator.refused("nodes/n3/drain", 404, reason="a test")
    assert code == "not_found"


@override_settings(WEBSOCKET={"api": {"publish_groups": ["news", "chat.*"]}})
async def test_a_message_is_published_to_groups_that_match(operator: Operator) -> None:
    layer: Any = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("chat.1", channel)
    answer = await operator.post("publish", 202, group="chat.1", content={"a": [1]})
    assert answer == {"group": "chat.1"}
    message = await layer.receive_any(channel)
    published = read_broadcast(message)
    assert published is not None
    assert published.payload == b'{"a": [1]}'
    entry = await read_audit(operator, "publish")
    assert (entry.target, entry.value) == ("group", "chat.1")
    for group in ("chat", "newsx", "NEWS", "other"):
        code = await operator.refused("publish", 403, group=group, content="x")
        assert code == "group_not_allowed"
    for body in (
        {"group": "a b", "content": "x"},
        {"group": "chat.\u00e9", "content": "x"},
        {"group": "news", "content": "\ud800"},
    ):
        assert await operator.refused("publish", 400, **body) == "invalid_field"
    for number in (b"1e999", b"-1e999", b"Infinity", b"NaN"):
        raw = b'{"group": "news", "content": [' + number + b"]}"
        response = await operator.send("POST", "publish", raw)
        assert response.status_code == 400, number
        assert get_code(response.json()) == "invalid_json"
    assert await AuditEntry.objects.filter(action="publish").acount() == 1


async def test_no_group_is_published_to_without_configuration(
    operator: Operator,
) -> None:
    code = await operator.refused("publish", 403, group="news", content="x")
    assert code == "group_not_allowed"


@override_settings(WEBSOCKET={"dashboard": {"read_only": True}})
async def test_read_only_mode_permits_no_action(operator: Operator) -> None:
    await in_database(make_node_row)("n1")
    ban = await Ban.objects.acreate(target="client", value="eve")
    for method, path in (
        ("POST", "kick"),
        ("POST", "bans"),
        ("DELETE", f"bans/{ban.pk}"),
        ("POST", "tokens"),
        ("POST", f"tokens/{operator.row.pk}/revoke"),
        ("POST", "notice"),
        ("POST", "nodes/n1/drain"),
        ("POST", "nodes/n1/serve"),
        ("POST", "publish"),
    ):
        response = await operator.send(method, path, {})
        assert response.status_code == 403, path
        assert get_code(response.json()) == "read_only"
