"""Test streams of sessions over HTTP: appends, producers, names, and offsets."""

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from connections.asgi import CARRIER
from connections.credentials.identity import Credential
from connections.credentials.tokens import create_access_token
from connections.exceptions import DatabaseUnavailable
from connections.node.node import Node
from connections.testing import wait_until
from connections.testing.communicators import connect_to, make_config
from sessions_history.commits import commit
from sessions_history.exceptions import AppendedBefore, EntryRefused
from sessions_history.http.live import LiveReader, make_cursor
from sessions_history.http.offsets import StreamOffset, parse_offset
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session, StreamProducer, Work
from sessions_history.session_ids import make_session_id
from sessions_history.stream_producers import ProducerStep, check_step, record_step
from tests.connections.switchable_database import SwitchableDatabase
from tests.sessions_history.asking import ROOT, add_session, ask, bearer, read_error
from tests.sessions_history.responding import Scripted

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("node")]


def step(producer: str, epoch: int, sequence: int) -> dict[str, Any]:
    names = ("producer-id", "producer-epoch", "producer-seq")
    return dict(zip(names, (producer, str(epoch), str(sequence)), strict=True))


async def read(path: str, headers: dict[str, Any]) -> list[Any]:
    response = await ask("GET", path, **headers)
    assert response.status_code == 200, response.content
    items: list[Any] = response.json()
    return items


async def test_a_session_of_a_name_is_begun_appended_to_and_read() -> None:
    headers, path = await bearer(), "notes-1/stream/"
    created = await ask("PUT", path, **headers)
    assert (created.status_code, (await read(path, headers))) == (201, [])
    assert (await ask("PUT", path, [9], **headers)).status_code == 200
    appended = await ask("POST", path, [{"n": 1}, [2]], **headers)
    assert appended.status_code == 204
    assert await read(path, headers) == [{"n": 1}, [2]]
    end = (await ask("HEAD", path, **headers))["Stream-Next-Offset"]
    assert end == appended["Stream-Next-Offset"] > created["Stream-Next-Offset"]
    assert await read(f"{path}?offset={end}", headers) == []
    message = {"type": "message", "id": "abcdefghijkl-1", "data": "three"}
    posted = await ask("POST", "notes-1/messages/", message, **headers)
    assert (posted.status_code, posted.json()["offset"]) == (200, 3)
    # The same name is another session of another client.
    other = await ask("GET", path, **await bearer("bob"))
    assert read_error(other, 404) == "not_found"
    assert (await ask("DELETE", path, **headers)).status_code == 204
    assert read_error(await ask("PUT", path, **headers), 409) == "deleted"


async def test_a_producer_appends_each_item_once() -> None:
    headers, path = await bearer(), f"{await add_session()}/stream/"
    for sequence, status in ((0, 200), (0, 204), (1, 200), (0, 204)):
        own: dict[str, Any] = {**headers, **step("p", 0, sequence)}
        response = await ask("POST", path, {"n": sequence}, **own)
        assert response.status_code == status, response.content
    assert response["Producer-Seq"] == "1"
    gap = await ask("POST", path, {"n": 5}, **headers, **step("p", 0, 5))
    assert read_error(gap, 409) == "sequence_gap"
    assert (gap["Producer-Expected-Seq"], gap["Producer-Received-Seq"]) == ("2", "5")
    unknown = await ask("POST", path, {"n": 5}, **headers, **step("q", 1, 5))
    assert read_error(unknown, 409) == "sequence_gap"
    late = await ask("POST", path, {"n": 5}, **headers, **step("p", 1, 5))
    assert read_error(late, 400) == "invalid_parameter"
    renewed = await ask("POST", path, [{"n": 2}, 3], **headers, **step("p", 1, 0))
    assert renewed.status_code == 200
    stale = await ask("POST", path, {"n": 9}, **headers, **step("p", 0, 2))
    assert (read_error(stale, 403), stale["Producer-Epoch"]) == ("stale_producer", "1")
    assert await read(path, headers) == [{"n": 0}, {"n": 1}, {"n": 2}, 3]
    assert await StreamProducer.objects.acount() == 1


def test_a_session_keeps_the_producers_that_appended_last() -> None:
    session = Session.objects.create(
        session_id=make_session_id("alice"), client_id="alice", epoch="e1"
    )
    for sequence in range(2):
        names = ["p", *(f"{sequence}-{number}" for number in range(99))]
        for name in names:
            number = sequence if name == "p" else 0
            step_taken = ProducerStep(producer=name, epoch=0, sequence=number)
            record_step(session.pk, step_taken)
    kept = StreamProducer.objects.values_list("producer", flat=True)
    assert set(kept) == set(names)
    with pytest.raises(AppendedBefore):
        check_step(session.pk, ProducerStep(producer="p", epoch=0, sequence=1))


@pytest.mark.parametrize(
    ("body", "more", "status", "code"),
    [
        ([], {}, 400, "invalid_parameter"),
        (None, {}, 400, "invalid_parameter"),
        ({"a": "\x00"}, {}, 400, "invalid_message"),
        (1, {"producer-id": "p"}, 400, "invalid_parameter"),
        (1, step("p", -1, 0), 400, "invalid_parameter"),
        (1, step("p", 0, 2**53), 400, "invalid_parameter"),
        (1, {"stream-closed": "true"}, 400, "not_supported"),
        (1, {"stream-seq": "1"}, 400, "not_supported"),
    ],
)
async def test_a_wrong_append_is_refused_with_a_sentence(
    body: Any, more: dict[str, Any], status: int, code: str
) -> None:
    headers, path = await bearer(), f"{await add_session()}/stream/"
    response = await ask("POST", path, body, **headers, **more)
    assert read_error(response, status) == code
    assert not await HistoryEntry.objects.aexists()


async def test_an_offset_of_another_log_or_of_trimmed_entries_is_gone() -> None:
    headers, session_id = await bearer(), await add_session(entries=3)
    path = f"{session_id}/stream/?offset="
    assert await read(f"{path}{StreamOffset('e1', 1)}", headers) == [{"n": 2}, {"n": 3}]
    await HistoryEntry.objects.filter(offset__lte=2).adelete()
    assert await read(f"{path}-1", headers) == [{"n": 3}]
    for offset, status, code in (
        (StreamOffset("e1", 1), 410, "gone"),
        (StreamOffset("e2", 1), 410, "gone"),
        (StreamOffset("e1", 9), 400, "invalid_parameter"),
        ("x", 400, "invalid_parameter"),
        (f"-1&offset={StreamOffset('e1', 1)}", 400, "invalid_parameter"),
    ):
        assert (
            read_error(await ask("GET", f"{path}{offset}", **headers), status) == code
        )
    await HistoryEntry.objects.all().adelete()
    response = await ask("GET", f"{path}{StreamOffset('e1', 2)}", **headers)
    assert read_error(response, 410) == "gone"
    response = await ask("GET", f"{path}-1", **headers)
    assert (response.json(), response["Stream-Up-To-Date"]) == ([], "true")
    assert response["Stream-Next-Offset"] == str(StreamOffset("e1", 3))


async def test_every_answer_of_a_stream_has_the_headers_of_the_protocol() -> None:
    headers, path = await bearer(), f"{await add_session(entries=2)}/stream/"
    first = await ask("GET", path, **headers)
    known = {**headers, "if-none-match": first["ETag"]}
    same, end = await ask("GET", path, **known), await ask("HEAD", path, **headers)
    assert [one.status_code for one in (first, same, end)] == [200, 304, 200]
    assert (same.content, end.content) == (b"", b"")
    for response in (first, same, end):
        assert response["Stream-Next-Offset"] == str(StreamOffset("e1", 2))
        assert response["Stream-Up-To-Date"] == "true"
        assert response["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in end["Cache-Control"]


async def test_a_poll_does_not_outlast_its_time_in_an_outage(node: Node) -> None:
    session_id = await add_session(entries=1)
    node.database = database = SwitchableDatabase()
    query = {"offset": str(StreamOffset("e1", 1)), "presence": "1"}
    communicator = connect_to(
        LiveReader,
        node,
        credential=Credential(client_id="alice"),
        extensions={CARRIER: "long_poll"},
        url_route={"kwargs": {"session_id": session_id}},
        query_string=urlencode(query).encode(),
    )
    assert await communicator.connect() == (True, None)
    database.is_away = True
    await get_log(node).append(session_id, "one that it cannot read")
    # The event ends the poll as its time does.
    event = {"type": "typing", "member": "bob", "connection": "x", "active": True}
    get_log(node).typing.post(session_id, event)
    assert (await communicator.receive_output())["event"] == "presence"
    bye = json.loads((await communicator.receive_output())["text"])
    assert (bye["type"], bye["reason"]) == ("bye", "unavailable")
    await communicator.wait()


async def test_now_has_no_item_that_comes_between_two_reads() -> None:
    headers, session_id = await bearer(), await add_session(entries=2)
    # As the first read found it.
    await Session.objects.aupdate(last_offset=1)
    assert await read(f"{session_id}/stream/?offset=now", headers) == []


async def test_a_message_of_the_same_id_is_appended_once() -> None:
    headers = await bearer()
    session_id = make_session_id("alice")
    path = f"{session_id}/messages/"
    message = {"type": "message", "id": "abcdefghijkl-1", "data": {"text": "hi"}}
    for _ in range(2):
        response = await ask("POST", path, message, **headers)
        chain = (await Session.objects.aget()).chain
        ack = {"type": "ack", "id": message["id"], "offset": 1, "chain": chain}
        assert (response.status_code, response.json()) == (200, ack)
    other = await ask("POST", path, {**message, "data": 2}, **headers)
    assert read_error(other, 400) == "invalid_message"
    assert (await Session.objects.aget()).last_offset == 1
    nothing = {"type": "cancel", "offset": 1}
    assert read_error(await ask("POST", path, nothing, **headers), 404) == "not_found"
    refused: list[Any] = [{}, [], {**message, "id": "x"}]
    for wrong in (*refused, {"type": "cancel", "offset": "1"}):
        assert read_error(await ask("POST", path, wrong, **headers), 400)


async def test_a_stop_is_committed_when_it_is_answered(node: Node) -> None:
    responder = get_log(node).responder = Scripted()
    headers, session_id = await bearer(), await add_session()
    path = f"{session_id}/messages/"
    message = {"type": "message", "id": "abcdefghijkl-1", "data": {"text": "hi"}}
    assert (await ask("POST", path, message, **headers)).status_code == 200
    responder.play("so far")
    await wait_until(lambda: bool(responder.asked))
    stop = {"type": "cancel", "offset": 2, "epoch": "e1"}
    assert (await ask("POST", path, stop, **headers)).status_code == 204
    entry = await HistoryEntry.objects.aget(offset=2)
    assert entry.state == "cancelled"
    assert read_error(await ask("POST", path, stop, **headers), 404) == "not_found"


def test_a_process_without_sockets_leaves_answers_to_nodes(settings: Any) -> None:
    """Under WSGI the event loop of a view ends with its request."""
    settings.SESSIONS_RESPONDER = "tests.sessions_history.responding.Scripted"
    token, _ = create_access_token("alice")
    message = {"type": "message", "id": "abcdefghijkl-1", "data": {"text": "hi"}}
    response = Client().post(
        f"{ROOT}{make_session_id('alice')}/messages/",
        message,
        "application/json",
        headers={"authorization": f"Bearer {token}"},
    )
    assert (response.status_code, response.json()["offset"]) == (200, 1)
    assert HistoryEntry.objects.get(offset=2).state == "streaming"
    assert Work.objects.get().owner == ""


async def test_a_server_without_a_responder_regenerates_nothing(node: Node) -> None:
    get_log(node).responder = None
    body = {"type": "regenerate", "id": "abcdefghijkl-1", "offset": 2}
    path = f"{await add_session(entries=2)}/messages/"
    assert (
        read_error(await ask("POST", path, body, **await bearer()), 409) == "conflict"
    )
    assert await HistoryEntry.objects.acount() == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("stream/", None, 400),
        ("stream/", [], 400),
        ("stream/", ["a", "\x00"], 400),
        ("messages/", {"type": "message", "id": "abcdefghijkl-1"}, 400),
        ("messages/", {"type": "message", "id": "abcdefghijkl-1", "data": "\x00"}, 400),
        ("messages/", {"type": "cancel", "offset": 1}, 404),
        (
            "messages/",
            {"type": "regenerate", "id": "abcdefghijkl-1", "offset": 2},
            404,
        ),
        (
            "messages/",
            {"type": "approve", "id": "abcdefghijkl-1", "offset": 2, "part": "p"},
            404,
        ),
    ],
)
async def test_a_refused_request_begins_no_session_and_takes_the_place_of_none(
    node: Node, path: str, body: Any, status: int
) -> None:
    full = {"max_sessions_per_client": 1, "when_full": "delete_unused"}
    node.config = make_config(sessions=full)
    used = await add_session(minutes=90, entries=1)
    session_id = make_session_id("alice")
    response = await ask("POST", f"{session_id}/{path}", body, **await bearer())
    read_error(response, status)
    assert (await Session.objects.aget()).pk == used


@pytest.mark.parametrize("kept", [0, 1])
async def test_a_session_is_begun_with_all_of_its_items_or_not(
    node: Node, kept: int
) -> None:
    limits = {"max_entries_per_client": 1 + kept}
    node.config = make_config(sessions=limits)
    path, headers = f"{make_session_id('alice')}/stream/", await bearer()
    response = await ask("PUT", path, [1, 2], **headers)
    assert response.status_code == (201 if kept else 409), response.content
    assert await Session.objects.acount() == kept
    again = await ask("PUT", path, [1, 2], **headers)
    assert again.status_code == (200 if kept else 409), again.content
    if kept:
        assert await read(path, headers) == [1, 2]


async def test_of_requests_at_once_one_begins_a_session() -> None:
    path, headers = f"{make_session_id('alice')}/stream/", await bearer()
    bodies: list[Any] = [[1, 2], [1, 2], [3], [1, 2]]
    asked = [ask("PUT", path, body, **headers) for body in bodies]
    responses = await asyncio.gather(*asked)
    assert sorted(one.status_code for one in responses) == [200, 200, 200, 201]
    begun = next(number for number, one in enumerate(responses) if "Location" in one)
    assert await read(path, headers) == bodies[begun]


async def test_the_items_of_a_request_are_bounded_and_count_for_the_rate(
    node: Node,
) -> None:
    rates = {"messages_per_second": 0.01, "burst_messages": 7}
    node.config = make_config(rate_limit=rates)
    path, headers = f"{make_session_id('alice')}/stream/", await bearer()
    for method in ("PUT", "POST"):
        refused = await ask(method, path, [0] * 101, **headers)
        assert read_error(refused, 400) == "invalid_parameter"
    assert (await ask("PUT", path, list(range(100)), **headers)).status_code == 201
    assert await HistoryEntry.objects.acount() == 100
    refused = await ask("POST", path, 1, **headers)
    assert read_error(refused, 429) == "rate_limited"
    assert int(refused["Retry-After"]) > 100


@pytest.mark.parametrize("cause", ["away", "deleted"])
async def test_what_is_committed_is_answered_so_whatever_follows(
    node: Node, cause: str
) -> None:
    """A client that is told otherwise sends it again."""
    path, headers = f"{make_session_id('alice')}/stream/", await bearer()
    database = node.database = SwitchableDatabase()

    def take_away(work: Any) -> Any:
        if work.__name__ == "read_page" and cause == "away":
            raise DatabaseUnavailable("away")
        if work.__name__ == "read_page":

            def delete_before(*args: Any) -> Any:
                Session.objects.all().delete()
                return work(*args)

            return delete_before
        return work

    database.around_read = take_away
    for method, body, status in (("PUT", [1], 201), ("POST", 2, 204)):
        response = await ask(method, path, body, **headers)
        assert response.status_code == status, response.content
        assert "Stream-Next-Offset" not in response


async def test_an_item_that_the_database_refuses_is_no_conflict(node: Node) -> None:
    path, headers = f"{await add_session()}/stream/", await bearer()

    class Refusing(SwitchableDatabase):
        async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
            if work is commit:
                return [EntryRefused()]
            return await super().write_urgently(work, *args, **kwargs)

    node.database = Refusing()
    assert read_error(await ask("POST", path, 1, **headers), 500) == "internal"


async def test_a_foreign_session_takes_nothing() -> None:
    path, headers = await add_session("bob"), await bearer()
    message = {"type": "message", "id": "abcdefghijkl-1", "data": 1}
    for method, rest, body in (
        ("POST", "stream/", 1),
        ("PUT", "stream/", None),
        ("POST", "messages/", message),
    ):
        response = await ask(method, f"{path}/{rest}", body, **headers)
        assert read_error(response, 404) == "not_found"


def test_offsets_sort_as_their_texts() -> None:
    offsets = [StreamOffset("abc", number) for number in (0, 9, 10, 123)]
    assert sorted(map(str, offsets)) == [str(one) for one in offsets]
    assert parse_offset(str(offsets[2])) == offsets[2]


def test_a_cursor_goes_on_from_that_of_the_client() -> None:
    now = 1_728_432_000 + 20 * 50
    assert make_cursor("", now) == make_cursor("49", now) == "50"
    assert int(make_cursor("50", now)) > 50
    assert int(make_cursor("999", now)) > 999
