"""Test actions of staff: confirmation, permission, effect and audit log."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django.utils.http import urlencode

from connections.actions.registry import MOST_VALUES
from connections.dashboard.admin import LiveDashboardAdmin
from connections.dashboard.cache import SnapshotCache
from connections.dashboard.snapshot import make_key
from connections.models import (
    AccessToken,
    Ban,
    CloseRequest,
    Node,
    NodeCommand,
    NodePicture,
)
from connections.testing.communicators import make_config
from tests.connections.dashboard_pages import EVIL, URL, make_staff
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.usefixtures("dashboard")

ALICE = make_state("alice", connection_id="a" * 32, user_id="5", address="192.0.2.1")
BOB = make_state("bob", connection_id="b" * 32, token_id="9", address="198.51.100.1")

ALL_PERMISSIONS = (
    "end_connection",
    "end_all",
    "add_ban",
    "change_accesstoken",
    "send_notice",
    "drain_node",
)


@pytest.fixture
def node(db: None) -> Node:
    node = make_node_row(host="web-1", pid=77)
    store_states(node, ALICE, BOB)
    return node


@pytest.fixture
def ipv6(node: Node) -> Node:
    one, two = (
        make_state("carol", connection_id=word * 32, address=f"2001:db8::{word}")
        for word in "cd"
    )
    store_states(node, one, two, make_state("dave", address="unix"))
    return node


@pytest.fixture
def operator(client: Client, node: Node) -> Client:
    client.force_login(make_staff("operator", "view_livedashboard", *ALL_PERMISSIONS))
    return client


def url_of(name: str, target: str, *values: str) -> str:
    pairs = [("target", target), *(("value", value) for value in values)]
    return f"{URL}action/{name}/?{urlencode(pairs)}"


def do(client: Client, url: str, **form: Any) -> str:
    """Confirm an action; return the result page."""
    answer = client.post(url, {"reason": "a test", **form}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_confirmation_names_the_count(operator: Client) -> None:
    page = operator.get(url_of("end-all", "node", "n1")).content.decode()
    assert "<b>2 connections</b> of node web-1:77" in page
    assert "alice, bob" in page
    assert CloseRequest.objects.count() == 0


def test_ending_posts_requests_and_leaves_an_audit_entry(operator: Client) -> None:
    page = do(operator, url_of("end", "connection", "a" * 32, "b" * 32))
    assert "<b>0 of 2</b> connections ended" in page
    assert "Still open: 2 on web-1:77" in page
    requests = CloseRequest.objects.order_by("value")
    found = [(one.target, one.value, one.reason, one.author) for one in requests]
    assert found == [
        ("connection", "a" * 32, "kicked", "operator"),
        ("connection", "b" * 32, "kicked", "operator"),
    ]
    entries = LogEntry.objects.order_by("object_id")
    assert [one.object_id for one in entries] == ["a" * 32, "b" * 32]
    assert entries[0].get_change_message() == "End: a test"
    assert str(entries[0].user) == "operator"


def test_the_result_lists_unreached_connections(
    operator: Client, node: Node, dashboard: LiveDashboardAdmin
) -> None:
    do(operator, url_of("end", "connection", "a" * 32, "b" * 32))
    keys = [("key", key) for key in CloseRequest.objects.values_list("pk", flat=True)]
    url = f"{URL}result/?{urlencode([('action', 'end'), ('asked', 2), *keys])}"
    store_states(node, BOB)
    CloseRequest.objects.update(created_at=timezone.now() - timedelta(hours=1))
    later = make_state("bob", connection_id="b" * 32)
    store_states(node, later._replace(opened_at=0.0))
    dashboard.shared = SnapshotCache()
    page = operator.get(url).content.decode()
    assert "<b>1 of 2</b> connections ended" in page
    assert "Not reached: 1 on web-1:77" in page
    assert "http-equiv" not in page


@pytest.mark.parametrize("name", ["end", "drain"])
def test_the_result_is_that_of_an_own_action(operator: Client, name: str) -> None:
    """To anybody else it would claim success, or reload for ever."""
    target = ("connection", "a" * 32) if name == "end" else ("node", "n1")
    answer = operator.post(url_of(name, *target), {"reason": "a test"})
    result = answer.headers["Location"]
    assert operator.get(result).status_code == 200
    operator.force_login(make_staff("other", "view_livedashboard", *ALL_PERMISSIONS))
    assert operator.get(result).status_code == 404


def test_all_of_a_client_may_return_spread_over_time(operator: Client) -> None:
    url = url_of("end-all", "client", "alice")
    do(operator, url, may_return="on", spread_seconds="60")
    (request,) = CloseRequest.objects.all()
    assert (request.reason, request.spread_seconds) == ("asked_to_reconnect", 60)
    (entry,) = LogEntry.objects.all()
    assert entry.get_change_message() == ("End all: a test (may return) (within 60 s)")
    assert entry.object_repr == "client alice"


def test_a_ban_closes_connections_and_refuses_new_ones(operator: Client) -> None:
    url = url_of("ban", "address", "192.0.2.1")
    assert "<b>1 open connection</b>" in operator.get(url).content.decode()
    do(operator, url, ban_for="3600")
    (ban,) = Ban.objects.all()
    assert (ban.target, ban.value, ban.reason) == ("address", "192.0.2.1", "a test")
    assert ban.until is not None
    assert CloseRequest.objects.get().reason == "banned"


def test_a_revoked_token_stays_invalid(operator: Client) -> None:
    token = AccessToken.objects.create(pk=9, digest="d", hint="h", client_id="bob")
    do(operator, url_of("revoke", "token", "9"))
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert set(CloseRequest.objects.values_list("target", "value")) == {("token", "9")}


def test_a_drain_and_the_return_to_service(operator: Client, node: Node) -> None:
    page = operator.get(url_of("drain", "node", "n1")).content.decode()
    assert "no client will be able to connect" in page
    assert "0 of 1 node have applied" in do(operator, url_of("drain", "node", "n1"))
    do(operator, url_of("serve", "node", "n1"))
    kinds = NodeCommand.objects.order_by("pk").values_list("kind", "value")
    assert list(kinds) == [("drain", "n1"), ("serve", "n1")]


def follow(operator: Client, dashboard: LiveDashboardAdmin, command: Any) -> str:
    """Return the result page of a command, from a snapshot of its own."""
    dashboard.shared = SnapshotCache()
    query = urlencode({"action": command.kind, "key": command.pk})
    return operator.get(f"{URL}result/?{query}").content.decode()


def test_a_result_follows_the_drain_to_its_end(
    operator: Client, node: Node, dashboard: LiveDashboardAdmin
) -> None:
    """Every node has applied the command long before the drain is over."""
    do(operator, url_of("drain", "node", "n1"))
    command = NodeCommand.objects.get()
    NodeCommand.objects.update(nodes=1)
    page = follow(operator, dashboard, command)
    assert "still accepts connections" in page and "http-equiv" in page
    Node.objects.update(state="draining")
    page = follow(operator, dashboard, command)
    assert "is draining, 2 connections left" in page and "http-equiv" in page
    NodePicture.objects.all().delete()
    page = follow(operator, dashboard, command)
    assert "has drained" in page and "http-equiv" not in page
    serve = NodeCommand.objects.create(
        kind="serve", target="node", value="n1", author="operator", nodes=1
    )
    assert "asked later: serve" in follow(operator, dashboard, command)
    page = follow(operator, dashboard, serve)
    assert "still draining" in page and "http-equiv" in page
    Node.objects.update(state="serving")
    page = follow(operator, dashboard, serve)
    assert "is now serving" in page and "http-equiv" not in page


def test_a_notice_is_a_node_command_with_its_text(operator: Client) -> None:
    url = url_of("notice", "all")
    assert "everybody" in operator.get(url).content.decode()
    do(operator, url, text=EVIL)
    order = NodeCommand.objects.get()
    assert (order.kind, order.target, order.text) == ("notice", "all", EVIL)


@pytest.mark.parametrize("name", ["end", "end-all"])
def test_a_reason_is_required(operator: Client, name: str) -> None:
    target = ("connection", "a" * 32) if name == "end" else ("client", "alice")
    answer = operator.post(url_of(name, *target), {"reason": ""})
    assert "This field is required" in answer.content.decode()
    assert CloseRequest.objects.count() == 0


@pytest.mark.parametrize(
    ("name", "target", "value", "permission"),
    [
        ("end", "connection", "a" * 32, "end_connection"),
        ("end-all", "client", "alice", "end_all"),
        ("ban", "client", "alice", "add_ban"),
        ("revoke", "token", "9", "change_accesstoken"),
        ("notice", "client", "alice", "send_notice"),
        ("drain", "node", "n1", "drain_node"),
        ("serve", "node", "n1", "drain_node"),
    ],
)
@pytest.mark.usefixtures("node")
def test_each_action_needs_its_own_permission(
    client: Client, name: str, target: str, value: str, permission: str
) -> None:
    others = [one for one in ALL_PERMISSIONS if one != permission]
    client.force_login(make_staff("other", "view_livedashboard", *others))
    url = url_of(name, target, value)
    assert client.get(url).status_code == 403
    assert client.post(url, {"reason": "x", "text": "x"}).status_code == 403
    client.force_login(make_staff("right", "view_livedashboard", permission))
    assert client.get(url).status_code == 200


def test_read_only_mode_forbids_all_actions(operator: Client, settings: Any) -> None:
    settings.WEBSOCKET = make_config(dashboard={"read_only": True})
    assert operator.post(url_of("end", "connection", "a" * 32)).status_code == 403
    assert "action/drain" not in operator.get(URL).content.decode()
    operator.force_login(make_staff("root", "view_ban", "add_ban", "add_accesstoken"))
    assert operator.get("/admin/connections/ban/").status_code == 200
    assert operator.get("/admin/connections/ban/add/").status_code == 403
    assert operator.get("/admin/connections/accesstoken/add/").status_code == 403


def test_the_page_offers_permitted_actions(operator: Client, client: Client) -> None:
    assert "action/drain" in operator.get(URL).content.decode()
    details = operator.get(f"{URL}details/", {"client": "alice"}).content.decode()
    assert "action/end-all" in details and "action/ban" in details
    client.force_login(make_staff("viewer", "view_livedashboard"))
    assert "action/" not in client.get(URL).content.decode()
    assert (
        "action/"
        not in client.get(f"{URL}details/", {"client": "alice"}).content.decode()
    )


@pytest.mark.parametrize(
    "url",
    [
        f"{URL}action/nothing/?target=client&value=x",
        url_of("end", "client", "alice"),
        url_of("end", "connection"),
        url_of(
            "end", "connection", *(str(number) for number in range(MOST_VALUES + 1))
        ),
        f"{URL}result/?action=end",
    ],
)
def test_invalid_targets_are_not_found(operator: Client, url: str) -> None:
    assert operator.get(url).status_code == 404


@pytest.mark.usefixtures("ipv6")
def test_the_ban_of_an_ipv6_address_offers_its_network_first(operator: Client) -> None:
    details = operator.get(f"{URL}details/", {"key": make_key("c" * 32)})
    page = details.content.decode()
    network, single = "value=2001%3Adb8%3A%3A%2F64", "value=2001%3Adb8%3A%3Ac%2F128"
    assert page.index(network) < page.index(single)
    assert "Ban network 2001:db8::/64…" in page
    for value, banned, count in (
        ("2001:db8::c", "2001:db8::/64", "2 open connections"),
        ("2001:db8::c/128", "2001:db8::c/128", "1 open connection"),
    ):
        url = url_of("ban", "address", value)
        assert f"<b>{count}</b>" in operator.get(url).content.decode()
        do(operator, url, ban_for="3600")
        assert Ban.objects.get().value == banned
        Ban.objects.all().delete()
    assert operator.get(url_of("ban", "address", "nowhere")).status_code == 404


def test_a_ban_of_an_unknown_user_is_an_error(operator: Client) -> None:
    answer = operator.post(
        url_of("ban", "user", "999999999"), {"reason": "x", "ban_for": "3600"}
    )
    assert "there is no user" in answer.content.decode()
    assert Ban.objects.count() == 0 and LogEntry.objects.count() == 0
