"""Test the lists and items of the operators' API."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_database
from django.utils import timezone

from connections.api.routes import list_operations
from connections.credentials.tokens import create_access_token
from connections.models import Alert, Ban, Connection, ErrorEvent, MinuteRollup
from connections.node.current import get_node
from sessions_history.models import Session
from tests.connections.operator import Operator, get_code, make_operator
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.connections.operators_urls"),
]

VIEWS = (
    "view_connection",
    "view_node",
    "view_ban",
    "view_accesstoken",
    "view_alert",
    "view_livedashboard",
    "view_errorevent",
    "view_auditentry",
    "view_session",
)


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    node = get_node()
    yield await make_operator(*VIEWS)
    await node.stop()


async def list_all(operator: Operator, path: str, limit: int) -> list[Any]:
    """Return the items of all pages."""
    items: list[Any] = []
    cursor = ""
    while True:
        page = await operator.get(f"{path}limit={limit}{cursor}")
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def test_every_list_and_item_is_read(operator: Operator) -> None:
    await in_database(fill)()
    for one in list_operations():
        if one.method != "GET" or "{id}" in one.path or one.scope != "api:read":
            continue
        content = await operator.get(one.path)
        if one.name == "read_usage_now":
            assert content["open_connections"] == 0
            continue
        items = content["items"]
        assert items, one.path
        key = "minute" if one.path == "usage" else "id"
        item = await operator.get(f"{one.path}/{items[0][key]}")
        assert items[0].items() <= item.items()
        assert (await operator.get(f"{one.path}/"))["items"] == items


def fill() -> None:
    """Create a row of every list."""
    node = make_node_row("n1")
    make_connection_row("c1", client_id="a/b", flight={"x": 1})
    ErrorEvent.objects.create(
        error_id="e1",
        connection_id="c1",
        node=node,
        at=timezone.now(),
        exception_class="ValueError",
        where="x.py:1",
        traceback="secret-traceback",
    )
    Ban.objects.create(target="client", value="eve")
    Session.objects.create(session_id="s1", client_id="alice", epoch="1")
    MinuteRollup.objects.create(node=node, minute=29_000_000, opened=3)
    now = timezone.now()
    Alert.objects.create(
        rule="errors",
        severity="page",
        state="firing",
        value=2,
        peak=2,
        threshold=1,
        since=now,
    )


async def test_pages_hold_every_row_once_and_in_order(operator: Operator) -> None:
    """Rows of the same moment are neither repeated nor left out."""
    now = timezone.now()

    def create() -> None:
        for number in range(7):
            opened_at = now - timedelta(minutes=number // 3)
            make_connection_row(f"c{number}", opened_at=opened_at)

    await in_database(create)()
    found = [one["id"] for one in await list_all(operator, "connections?", 2)]
    assert found == ["c2", "c1", "c0", "c5", "c4", "c3", "c6"]
    whole = await operator.get("connections")
    assert [one["id"] for one in whole["items"]] == found
    assert whole["next_cursor"] is None


async def test_a_row_that_comes_between_two_pages_moves_none(
    operator: Operator,
) -> None:
    now = timezone.now()
    for name in ("old", "new"):
        moment = now - timedelta(seconds=1 if name == "new" else 2)
        await in_database(make_connection_row)(name, opened_at=moment)
    page = await operator.get("connections?limit=1")
    await in_database(make_connection_row)("newest", opened_at=now)
    rest = await operator.get(f"connections?limit=1&cursor={page['next_cursor']}")
    assert [one["id"] for one in rest["items"]] == ["old"]
    assert rest["next_cursor"] is None


async def test_the_filters_select(operator: Operator) -> None:
    def create() -> None:
        make_connection_row("a", client_id="alice", user=operator.user)
        make_connection_row("b", client_id="bob", node_id="n2")
        make_connection_row(
            "gone", closed_at=timezone.now(), close_code=4009, reason="kicked"
        )
        Ban.objects.create(target="client", value="eve")
        past = timezone.now() - timedelta(days=1)
        Ban.objects.create(target="client", value="over", until=past)
        create_access_token("other", expires_at=past)

    await in_database(create)()

    async def select(path: str, name: str = "id") -> list[Any]:
        return sorted(one[name] for one in (await operator.get(path))["items"])

    assert await select("connections") == ["a", "b"]
    assert await select("connections?state=all") == ["a", "b", "gone"]
    assert await select("connections?state=closed&reason=kicked") == ["gone"]
    assert await select("connections?client=bob") == ["b"]
    assert await select("connections?node=n2") == ["b"]
    assert await select("connections?user=operator") == ["a"]
    assert await select(f"connections?user={operator.user.pk}") == ["a"]
    assert await select("bans?in_force=true", "value") == ["eve"]
    assert await select("bans?in_force=false", "value") == ["over"]
    assert await select("tokens?state=expired", "client") == ["other"]
    assert await select("tokens?state=valid", "client") == ["script"]
    assert await select("tokens?state=revoked") == []


async def test_clients_are_counted_over_their_open_connections(
    operator: Operator,
) -> None:
    def create() -> None:
        for name, client in (("a", "x/y"), ("b", "x/y"), ("c", "z")):
            make_connection_row(name, client_id=client, messages_in=2, node_id=name)
        make_connection_row("d", client_id="x/y", closed_at=timezone.now())

    await in_database(create)()
    first, second = await list_all(operator, "clients?", 1)
    assert (first["id"], first["connections"], first["nodes"]) == ("x/y", 2, 2)
    assert first["messages_in"] == 4
    assert second["id"] == "z"
    assert await operator.get("clients/x%2Fy") == first
    assert get_code(await operator.get("clients/unknown", 404)) == "not_found"


async def test_minutes_are_summed_over_nodes(operator: Operator) -> None:
    def create() -> None:
        for name in ("n1", "n2"):
            make_node_row(name)
            for minute in (29_000_000, 29_000_001):
                MinuteRollup.objects.create(
                    node_id=name, minute=minute, opened=3, open_connections=5
                )

    await in_database(create)()
    newest, older = await list_all(operator, "usage?", 1)
    assert (newest["opened"], newest["open_connections"]) == (6, 10)
    assert older["at"] == "2025-02-19T21:20:00+00:00"
    since = "since=2025-02-19T21:21:00Z"
    assert (await operator.get(f"usage?{since}&node=n1"))["items"][0]["opened"] == 3
    assert (await operator.get("usage?until=2025-02-19T21:20:00Z"))["items"] == []


async def test_no_answer_holds_a_secret(operator: Operator) -> None:
    await in_database(fill)()
    for one in list_operations():
        if one.scope == "api:read" and "{id}" not in one.path:
            text = str(await operator.get(one.path))
            for secret in (operator.token, operator.row.digest, "secret-traceback"):
                assert secret not in text


WRONG_PATHS = [
    ("connections?limit=0", 400, "invalid_parameter"),
    ("connections?limit=201", 400, "invalid_parameter"),
    ("connections?limit=x", 400, "invalid_parameter"),
    ("connections?limit=%D9%A3", 400, "invalid_parameter"),
    ("connections?limit=1&limit=2", 400, "repeated_parameter"),
    ("connections?colour=red", 400, "unknown_parameter"),
    ("connections?client__gt=a", 400, "unknown_parameter"),
    ("connections?state=odd", 400, "invalid_parameter"),
    ("connections?client=%00", 400, "invalid_parameter"),
    (f"connections?client={'x' * 256}", 400, "invalid_parameter"),
    ("connections?client=", 400, "invalid_parameter"),
    ("connections?cursor=abc", 400, "invalid_cursor"),
    ("connections?cursor=%C3%A9:a:b", 400, "invalid_cursor"),
    ("connections?user=nobody", 404, "not_found"),
    ("connections?user=99999999999999999999999", 404, "not_found"),
    ("connections/unknown", 404, "not_found"),
    ("connections/%00", 404, "not_found"),
    ("connections/a%0Ab", 404, "not_found"),
    (f"connections/{'x' * 300}", 404, "not_found"),
    ("bans/99999999999999999999999", 404, "not_found"),
    ("bans/999999999999999999", 404, "not_found"),
    ("bans/-1", 404, "not_found"),
    ("bans/1/2", 404, "not_found"),
    ("bans?in_force=1", 400, "invalid_parameter"),
    ("usage/x", 404, "not_found"),
    ("usage?since=2030-01-31", 400, "invalid_parameter"),
    ("usage?since=2030-01-31T12:00:00", 400, "invalid_parameter"),
    ("usage?since=9999-12-31T23:59:59-12:00", 400, "invalid_parameter"),
    ("nowhere", 404, "not_found"),
    ("", 404, "not_found"),
    ("connections/../nodes", 404, "not_found"),
]


async def test_a_wrong_request_gets_a_sentence(operator: Operator) -> None:
    for path, status, code in WRONG_PATHS:
        assert get_code(await operator.get(path, status)) == code, path


async def test_the_cursor_after_the_longest_client_id_is_taken(
    operator: Operator,
) -> None:
    ids = ["\U0001f600" * 254 + last for last in "\U0001f600\U0001f601"]
    for number, client_id in enumerate(ids):
        await in_database(make_connection_row)(f"c{number}", client_id=client_id)
    found = []
    query = "clients?limit=1"
    page = await operator.get(query)
    while page["next_cursor"] is not None:
        found += page["items"]
        page = await operator.get(f"{query}&cursor={page['next_cursor']}")
    assert [one["id"] for one in (*found, *page["items"])] == ids


async def test_a_cursor_is_of_one_list(operator: Operator) -> None:
    for name in ("a", "b"):
        await in_database(make_connection_row)(name, client_id=name)
    page = await operator.get("connections?limit=1")
    cursor = page["next_cursor"]
    assert get_code(await operator.get(f"clients?cursor={cursor}", 400)) == (
        "invalid_cursor"
    )
    wrong = f"{cursor[:-1]}{'A' if cursor[-1] != 'A' else 'B'}"
    assert get_code(await operator.get(f"connections?cursor={wrong}", 400)) == (
        "invalid_cursor"
    )


async def test_a_deleted_row_before_the_next_page_loses_none(
    operator: Operator,
) -> None:
    now = timezone.now()
    for number in range(3):
        moment = now - timedelta(seconds=number)
        await in_database(make_connection_row)(f"c{number}", opened_at=moment)
    page = await operator.get("connections?limit=1")
    await Connection.objects.filter(pk="c0").adelete()
    rest = await operator.get(f"connections?cursor={page['next_cursor']}")
    assert [one["id"] for one in rest["items"]] == ["c1", "c2"]
