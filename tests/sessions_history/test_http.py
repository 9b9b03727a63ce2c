"""Test the sessions of a client over HTTP: who may, and what is answered."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient
from django.utils import timezone

from connections.models import AccessToken, Ban
from connections.node.current import get_node
from connections.node.node import Node
from sessions_history.models import DeletedSession, EntryChunk, HistoryEntry, Session
from tests.connections.conversations import receive_close
from tests.connections.switchable_database import (
    SwitchableDatabase as ReadableDatabase,
)
from tests.sessions_history.asking import (
    PAGE,
    ROOT,
    add_session,
    ask,
    bearer,
    read_error,
)
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

# Reading


@pytest.mark.usefixtures("node")
async def test_a_list_has_ones_own_sessions_page_by_page() -> None:
    mine = [await add_session(minutes=minutes) for minutes in range(5)]
    await add_session("bob")
    headers, found, cursor = await bearer(), [], ""
    for count in (2, 2, 1):
        page = (await ask("GET", f"?limit=2{cursor}", **headers)).json()
        assert len(page["items"]) == count
        found += [one["id"] for one in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert (found, page["next_cursor"]) == (mine, None)
    assert page["items"][0]["title"] == ""


@pytest.mark.usefixtures("node")
async def test_an_answer_that_the_client_has_is_304() -> None:
    session_id = await add_session(entries=3)
    headers = await bearer()
    for path in ("", f"{session_id}/", f"{session_id}/entries/"):
        first = await ask("GET", path, **headers)
        assert first.status_code == 200
        assert "private" in first["Cache-Control"]
        again = await ask("GET", path, **headers, **{"if-none-match": first["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    await ask("PATCH", f"{session_id}/", {"title": "x"}, **headers)
    changed = await ask("GET", f"{session_id}/", **headers)
    assert changed["ETag"] != first["ETag"]


@pytest.mark.usefixtures("node")
async def test_the_history_is_read_from_its_end_in_pages() -> None:
    session_id = await add_session(entries=5)
    headers, offsets, cursor = await bearer(), [], ""
    for _ in range(3):
        path = f"{session_id}/entries/?limit=2{cursor}"
        page = (await ask("GET", path, **headers)).json()
        offsets.append([one["offset"] for one in page["items"]])
        cursor = f"&cursor={page['next_cursor']}"
    assert (offsets, page["next_cursor"]) == ([[4, 5], [2, 3], [1]], None)
    assert page["items"][0]["data"] == {"n": 1}
    assert (page["epoch"], page["last_offset"]) == ("e1", 5)


@pytest.mark.usefixtures("node")
async def test_a_page_of_a_log_that_began_anew_is_409() -> None:
    session_id = await add_session(entries=3)
    headers, path = await bearer(), f"{session_id}/entries/?limit=1"
    cursor = (await ask("GET", path, **headers)).json()["next_cursor"]
    await Session.objects.aupdate(epoch="e2")
    response = await ask("GET", f"{path}&cursor={cursor}", **headers)
    assert read_error(response, 409) == "reset"


@pytest.mark.usefixtures("node")
async def test_a_stream_is_read_with_its_text_so_far() -> None:
    session_id = await add_session(entries=1)
    entry = await HistoryEntry.objects.aget()
    await HistoryEntry.objects.aupdate(state="streaming", data='{"text":""}')
    await EntryChunk.objects.acreate(entry=entry, sequence=1, text="so far", owner="x")
    page = (await ask("GET", f"{session_id}/entries/", **await bearer())).json()
    assert page["items"][0]["data"] == {"text": "so far"}
    assert page["items"][0]["state"] == "streaming"


@pytest.mark.usefixtures("node")
async def test_the_history_has_the_parts_of_answers() -> None:
    session_id = await add_session(entries=2)
    part = {"id": "u1", "type": "usage", "input_tokens": 3}
    answer = HistoryEntry.objects.filter(offset=2)
    await answer.aupdate(parts=f"{json.dumps(part)}\n")
    page = (await ask("GET", f"{session_id}/entries/", **await bearer())).json()
    message, answered = page["items"]
    assert (answered["parts"], answered["changes"]) == ([part], 1)
    assert "parts" not in message


# Changing


@pytest.mark.usefixtures("node")
async def test_a_title_is_set_and_removed() -> None:
    session_id = await add_session()
    path, headers = f"{session_id}/", await bearer()
    for title in ("Über 👩‍👩‍👧", "می\u200cشود", ""):
        response = await ask("PATCH", path, {"title": title}, **headers)
        assert (response.status_code, response.json()["title"]) == (200, title)
        assert (await Session.objects.aget()).title == title
    again = await ask("GET", path, **headers)
    assert again["ETag"] == response["ETag"]


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_if_match_refuses_to_change_what_has_changed(method: str) -> None:
    path, headers = f"{await add_session()}/", await bearer()
    etag = (await ask("GET", path, **headers))["ETag"]
    matching = {**headers, "if-match": etag}
    assert (await ask("PATCH", path, {"title": "a"}, **matching)).status_code == 200
    body = {"title": "b"} if method == "PATCH" else None
    for given in (etag, '"x"', "x"):
        refused = await ask(method, path, body, **{**headers, "if-match": given})
        assert read_error(refused, 412) == "changed"
    assert (await Session.objects.aget()).title == "a"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("make_weak", [False, True])
async def test_if_match_bears_that_the_session_was_used(make_weak: bool) -> None:
    """A proxy that compresses an answer makes its ETag weak."""
    path, headers = f"{await add_session(minutes=9)}/", await bearer()
    first = await ask("GET", path, **headers)
    assert (await ask("POST", f"{path}stream/", 1, **headers)).status_code == 204
    await Session.objects.aupdate(last_seen_at=timezone.now())
    known = {**headers, "if-none-match": first["ETag"]}
    used = await ask("GET", path, **known)
    assert (used.status_code, used.json()["last_offset"]) == (200, 1)
    etag = f"W/{first['ETag']}" if make_weak else first["ETag"]
    matching = {**headers, "if-match": etag}
    renamed = await ask("PATCH", path, {"title": "a"}, **matching)
    assert (renamed.status_code, renamed.json()["title"]) == (200, "a")
    matching["if-match"] = renamed["ETag"]
    assert (await ask("POST", f"{path}stream/", 2, **headers)).status_code == 204
    assert (await ask("DELETE", path, **matching)).status_code == 204
    assert not await Session.objects.aexists()


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"title": None}, "missing_field"),
        ({}, "missing_field"),
        ({"title": 7}, "invalid_field"),
        ({"title": "a\x00b"}, "invalid_field"),
        ({"title": "\ud800"}, "invalid_field"),
        *[({"title": f"a{one}b"}, "invalid_field") for one in "\n\x1b\x7f\x9b\u2028"],
        *[({"title": f"a{one}b"}, "invalid_field") for one in "\u202a\u202e\u2066"],
        ({"title": "x" * 201}, "invalid_field"),
        ({"title": "x", "epoch": "y"}, "unknown_field"),
        ([], "invalid_json"),
    ],
)
async def test_a_wrong_title_is_refused_with_a_sentence(body: Any, code: str) -> None:
    session_id = await add_session()
    response = await ask("PATCH", f"{session_id}/", body, **await bearer())
    assert read_error(response, 400) == code


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("?limit=0", "invalid_parameter"),
        ("?limit=201", "invalid_parameter"),
        ("?limit=two", "invalid_parameter"),
        ("?cursor=x", "invalid_cursor"),
        ("?client=bob", "unknown_parameter"),
        ("?limit=1&limit=2", "repeated_parameter"),
    ],
)
async def test_a_wrong_query_is_refused(path: str, code: str) -> None:
    headers = await bearer()
    session_id = await add_session()
    for prefix in ("", f"{session_id}/entries/"):
        assert read_error(await ask("GET", prefix + path, **headers), 400) == code


async def test_a_deleted_session_is_gone_and_its_sockets_end(node: Node) -> None:
    async with talk(node) as one, talk(node, one.session_id) as other:
        await one.say_and_wait("first")
        client_id = (await Session.objects.aget()).client_id
        path, headers = f"{one.session_id}/", await bearer(client_id)
        assert (await ask("DELETE", path, **headers)).status_code == 204
        for each in (one, other):
            assert (await receive_close(each.communicator))["code"] == 4202
    assert not await Session.objects.aexists()
    assert not await HistoryEntry.objects.aexists()
    assert await DeletedSession.objects.filter(pk=one.session_id).aexists()
    assert read_error(await ask("GET", path, **headers), 404) == "not_found"


# Who may


@pytest.mark.usefixtures("node")
async def test_a_session_of_another_client_does_not_exist() -> None:
    session_id, headers = await add_session("bob", entries=1), await bearer("alice")
    for method, path, body in (
        ("GET", "", None),
        ("GET", "entries/", None),
        ("PATCH", "", {"title": "mine"}),
        ("DELETE", "", None),
    ):
        response = await ask(method, f"{session_id}/{path}", body, **headers)
        assert read_error(response, 404) == "not_found"
    assert (await Session.objects.aget()).title == ""


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("session_id", ["x", "new", "a" * 33, "A" * 32, "é"])
async def test_what_is_no_id_is_404(session_id: str) -> None:
    response = await ask("GET", f"{session_id}/", **await bearer())
    assert read_error(response, 404) == "not_found"


@pytest.mark.usefixtures("node")
async def test_a_client_without_a_credential_is_401_also_where_sockets_admit_it() -> (
    None
):
    wrong: list[dict[str, Any]] = [
        {},
        {"authorization": "Bearer wrong"},
        {"cookie": "sessionid=x"},
    ]
    for headers in wrong:
        response = await ask("GET", **headers)
        assert read_error(response, 401) == "unauthenticated"
        assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.usefixtures("node")
async def test_a_cookie_changes_something_with_the_csrf_token_alone() -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    user = await User.objects.acreate_user("alice")
    await client.aforce_login(user)
    session_id = await add_session(f"user:{user.pk}")
    own = {"origin": "http://testserver"}
    path = f"{session_id}/"
    assert len((await ask("GET", client=client)).json()["items"]) == 1
    response = await ask("DELETE", path, client=client, **own)
    assert read_error(response, 403) == "csrf"
    response = await ask("GET", client=client, origin="https://evil.example")
    assert read_error(response, 403) == "forbidden"
    response = await ask("DELETE", path, client=client)
    assert read_error(response, 403) == "forbidden"
    client.cookies["csrftoken"] = "a" * 32
    token = {"x-csrftoken": "a" * 32}
    response = await ask("PATCH", path, {"title": "x"}, client, **own, **token)
    assert response.json()["title"] == "x"
    response = await ask("DELETE", path, client=client, **own, **token)
    assert response.status_code == 204


async def test_a_sandboxed_page_cannot_use_the_cookie_by_a_ticket_of_no_worth(
    node: Node, settings: Any
) -> None:
    """A ticket needs no CSRF token, so the cookie must not count beside it."""
    await node.stop()
    backends = [
        f"connections.credentials.{one}" for one in ("AccessTokens", "Sessions")
    ]
    settings.WEBSOCKET = {"allowed_origins": ["null"], "credential_backends": backends}
    client = AsyncClient(enforce_csrf_checks=True)
    user = await User.objects.acreate_user("alice")
    await client.aforce_login(user)
    session_id = await add_session(f"user:{user.pk}")
    path = f"{session_id}/?ticket=x"
    response = await ask("DELETE", path, client=client, origin="null")
    assert read_error(response, 401) == "unauthenticated"
    assert await Session.objects.filter(session_id=session_id).aexists()


@pytest.mark.usefixtures("node")
async def test_a_ticket_serves_one_request() -> None:
    headers = {**await bearer(), "origin": PAGE}
    issued = await AsyncClient().post("/api/tickets/", headers=headers)
    path = f"?limit=5&ticket={issued.json()['ticket']}"
    assert (await ask("GET", path, origin=PAGE)).status_code == 200
    assert read_error(await ask("GET", path, origin=PAGE), 401) == "unauthenticated"


@pytest.mark.usefixtures("node")
async def test_a_token_for_other_paths_is_403() -> None:
    response = await ask("GET", **await bearer(scopes=["/ws/chat/"]))
    assert read_error(response, 403) == "missing_scope"
    response = await ask("GET", **await bearer("bob", scopes=[ROOT]))
    assert response.status_code == 200


async def test_bans_and_revocations_hold(node: Node) -> None:
    headers = await bearer()
    await AccessToken.objects.aupdate(revoked_at=timezone.now())
    assert read_error(await ask("GET", **headers), 401) == "unauthenticated"
    headers = await bearer("bob")
    await Ban.objects.acreate(target="client", value="bob", reason="test")
    await node.gate.refresh()
    assert read_error(await ask("GET", **headers), 403) == "banned"


async def test_a_client_has_the_rate_of_a_connection(settings: Any) -> None:
    settings.WEBSOCKET = {
        "rate_limit": {"messages_per_second": 0.01, "burst_messages": 2}
    }
    node = get_node()
    try:
        headers, others = await bearer("carol"), await bearer("dave")
        statuses = [(await ask("GET", **headers)).status_code for _ in range(2)]
        response = await ask("GET", **headers)
        assert (statuses, read_error(response, 429)) == ([200] * 2, "rate_limited")
        assert int(response["Retry-After"]) > 1
        assert (await ask("GET", **others)).status_code == 200
    finally:
        await node.stop()


@pytest.mark.usefixtures("node")
async def test_another_method_is_405_with_those_allowed() -> None:
    response = await ask("POST", **await bearer())
    assert read_error(response, 405) == "method_not_allowed"
    assert response["Allow"] == "GET, HEAD"


async def test_a_database_that_is_away_is_503(node: Node) -> None:
    headers = await bearer()
    assert (await ask("GET", **headers)).status_code == 200
    node.database = database = ReadableDatabase()
    database.is_away = True
    response = await ask("GET", **headers)
    assert read_error(response, 503) == "unavailable"
    assert response["Retry-After"]
