"""The Python client against a server on a real socket that follows a script."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from connections.client import (
    Attached,
    EntryArrived,
    EntryCompleted,
    EntryGrew,
    Event,
    MembersChanged,
    NoticeReceived,
    RequestFailed,
    SessionClient,
    SharedConnection,
    State,
    TypingChanged,
    UnauthorizedError,
)
from connections.client.connect import read_failure
from connections.client.reconnect import decide, read_end
from connections.client.transcript import Transcript
from connections.testing import wait_until
from tests.connections.scripted_server import HELLO, Scripted, entry, serve_script
from tests.connections.virtual_loop import VirtualTime
from tests.pages import DOCS, read_blocks

CASES = json.loads(
    (Path(__file__).parents[1] / "js" / "decisions.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_decisions_are_those_of_the_browser(case: dict[str, Any]) -> None:
    ended = read_end(case["code"], "", case.get("bye"))
    delay = decide(
        ended,
        failures=case.get("failures", 0),
        random=lambda: case.get("random", 0.5),
        elapsed_seconds=case.get("elapsed_ms", 0) / 1000,
        since_drain_seconds=case.get("since_drain_ms", 3_600_000) / 1000,
    )
    wanted = case["delay_ms"]
    assert delay == (None if wanted is None else pytest.approx(wanted / 1000))


def refuse(status: int, retry_after: str | None = None) -> InvalidStatus:
    headers = (
        Headers() if retry_after is None else Headers({"Retry-After": retry_after})
    )
    return InvalidStatus(Response(status, "", headers, b""))


@pytest.mark.parametrize("status", [429, 503, 504])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7),
        ("999999", 3600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", 0),
        (None, 0),
    ],
)
def test_a_refusal_is_followed_by_a_backoff_behind_retry_after(
    status: int, retry_after: str | None, seconds: float
) -> None:
    """The backoff is added, because all clients of a proxy get the same seconds."""
    ended = read_failure(refuse(status, retry_after))
    assert decide(ended, failures=0, random=lambda: 0) == seconds + 0.5
    assert decide(ended, failures=3, random=lambda: 1) == seconds + 8


def test_the_lines_of_the_page_let_plain_websockets_retry_after_429() -> None:
    (block,) = read_blocks((DOCS / "topics" / "close_codes.md").read_text(), "python")
    names: dict[str, Any] = {}
    exec(block.partition("async for")[0], names)
    retry_if_busy = names["retry_if_busy"]
    assert retry_if_busy(refuse(429)) is None
    assert retry_if_busy(refuse(503)) is None
    assert isinstance(retry_if_busy(refuse(403)), InvalidStatus)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with serve_script("orchestra.v1") as scripted:
        yield scripted


@pytest.fixture
def waits() -> list[float]:
    """What the client waited for, in seconds."""
    return []


@pytest.fixture
async def make_client(
    server: Scripted, waits: list[float]
) -> AsyncIterator[Callable[..., SessionClient]]:
    """Makes clients for which a wait is over at once, unless it is a heartbeat."""
    async with contextlib.AsyncExitStack() as stack:

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(seconds if seconds > 60 else 0)

        def make(**options: Any) -> SessionClient:
            client = SessionClient(server.url, **{"sleep": sleep, **options})
            stack.push_async_callback(client.close)
            client.connect()
            return client

        yield make


Make = Callable[..., SessionClient]


def listen(client: SessionClient) -> tuple[list[Event], asyncio.Task[None]]:
    """Collect what a client tells."""
    seen: list[Event] = []

    async def collect() -> None:
        async for event in client.events():
            seen.append(event)

    return seen, asyncio.create_task(collect())


async def test_a_request_is_acknowledged(server: Scripted, make_client: Make) -> None:
    client = make_client(token="T")
    asked = asyncio.create_task(client.request({"text": "hello"}))
    conversation = await server.next()
    assert conversation.path == "/ws/sessions/new/"
    assert conversation.authorization == "Bearer T"
    received = await conversation.acknowledge(7)
    assert (received["type"], received["data"]) == ("message", {"text": "hello"})
    assert len(received["id"].partition("-")[0]) >= 12
    assert (await asked).offset == 7
    assert (client.session, client.pending) == ("s1", 0)


async def test_a_message_names_the_trace_of_its_sender(
    server: Scripted, make_client: Make
) -> None:
    traces = ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""]
    client = make_client(get_traceparent=iter(traces).__next__)
    asked = [asyncio.create_task(client.request("x")) for _ in traces]
    conversation = await server.next()
    received = [await conversation.acknowledge(1), await conversation.acknowledge(2)]
    assert received[0]["traceparent"] == traces[0]
    assert "traceparent" not in received[1]
    await asyncio.gather(*asked)


async def test_a_message_has_its_options_and_a_plain_one_has_none(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    asked = [
        asyncio.create_task(client.request("x", answer=False, metadata={"a": [1]})),
        asyncio.create_task(client.request("y")),
    ]
    conversation = await server.next()
    received = [await conversation.acknowledge(1), await conversation.acknowledge(2)]
    assert (received[0]["answer"], received[0]["metadata"]) == (False, {"a": [1]})
    assert set(received[1]) == {"type", "id", "data"}
    await asyncio.gather(*asked)


async def test_what_is_not_settled_is_sent_again_in_order(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    asked = [asyncio.create_task(client.request(text)) for text in "abc"]
    first = await server.next()
    message_id = (await first.receive())["id"]
    first.cut()
    second = await server.next()
    assert second.path == "/ws/sessions/s1/"
    assert second.query["replaces"] == "c1"
    received = [await second.acknowledge(offset) for offset in (1, 2, 3)]
    assert received[0]["id"] == message_id
    assert [one["data"] for one in received] == ["a", "b", "c"]
    assert [ack.offset for ack in await asyncio.gather(*asked)] == [1, 2, 3]


async def test_a_returning_client_names_what_it_holds(
    server: Scripted, make_client: Make
) -> None:
    """And misses nothing of an entry that went on growing meanwhile."""
    client = make_client()
    seen, collecting = listen(client)
    first = await server.next()
    await first.send(entry(1))
    streaming = {"from": "server", "state": "streaming"}
    await first.send(entry(2, data={"text": ""}, **streaming))
    await first.send({"type": "delta", "offset": 2, "at_char": 0, "text": "👩‍👧 "})
    await wait_until(lambda: any(isinstance(one, EntryGrew) for one in seen))
    first.cut()
    second = await server.next({"outcome": "resumed", "offset": 2})
    assert second.query["epoch"] == "e1"
    assert (second.query["offset"], second.query["open"]) == ("2", "2")
    await second.send(entry(2, data={"text": "👩‍👧 and"}, **streaming))
    await second.send({"type": "delta", "offset": 2, "at_char": 7, "text": " more"})
    await second.send({"type": "state", "offset": 2, "state": "done"})
    await wait_until(lambda: any(isinstance(one, EntryCompleted) for one in seen))
    assert [one.text for one in client.entries] == ["text 1", "👩‍👧 and more"]
    await client.close()
    await collecting
    outcomes = [one.outcome for one in seen if isinstance(one, Attached)]
    assert outcomes == ["new", "resumed"]
    arrived = [one for one in seen if isinstance(one, EntryArrived)]
    assert [one.is_replay for one in arrived] == [False, False, True]


@pytest.mark.parametrize(
    "message", [entry(5), {"type": "delta", "offset": 1, "at_char": 9, "text": "x"}]
)
async def test_a_hole_makes_a_client_come_back(
    server: Scripted, make_client: Make, message: dict[str, Any]
) -> None:
    make_client()
    first = await server.next()
    await first.send(entry(1, state="streaming"))
    await first.send(message)
    assert (await server.next()).query["open"] == "1"


async def test_an_error_settles_a_message(server: Scripted, make_client: Make) -> None:
    client = make_client()
    asked = asyncio.create_task(client.request("x"))
    conversation = await server.next()
    received = await conversation.receive()
    refusal = {"type": "error", "code": "invalid_message", "message": "no", "ref": "r"}
    await conversation.send({**refusal, "id": received["id"]})
    with pytest.raises(RequestFailed, match="invalid_message: no") as caught:
        await asked
    assert (caught.value.code, caught.value.ref) == ("invalid_message", "r")


async def test_a_notice_of_staff_is_told(server: Scripted, make_client: Make) -> None:
    client = make_client()
    conversation = await server.next()
    at = "2026-11-25T08:00:00+00:00"
    await conversation.send({"type": "notice", "text": "Back at noon.", "at": at})
    async for event in client.events():
        if isinstance(event, NoticeReceived):
            assert event == NoticeReceived(text="Back at noon.", at=at)
            break


async def test_a_message_refused_for_the_moment_is_sent_again(
    server: Scripted, make_client: Make, waits: list[float]
) -> None:
    client = make_client()
    asked = [asyncio.create_task(client.request(text)) for text in "ab"]
    conversation = await server.next()
    first = await conversation.receive()
    busy = {"type": "error", "code": "rate_limited", "message": "", "id": None}
    await conversation.send({**busy, "retry_after_seconds": 2.5})
    received = [await conversation.acknowledge(offset) for offset in (1, 2)]
    assert [one["data"] for one in received] == ["a", "b"]
    assert received[0]["id"] == first["id"]
    assert 2.5 in waits
    await asyncio.gather(*asked)


async def test_a_decision_overtakes_messages_that_are_refused_until_it_is_made(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    asked = [asyncio.create_task(client.request(text)) for text in "ab"]
    conversation = await server.next()
    first = await conversation.receive()
    asked.append(asyncio.create_task(client.approve(2, "c1")))
    await wait_until(lambda: client.pending == 3)
    busy = {"type": "error", "code": "rate_limited", "message": ""}
    await conversation.send({**busy, "id": first["id"]})
    received = [await conversation.acknowledge(offset) for offset in (2, 3, 4)]
    assert [one["type"] for one in received] == ["approve", "message", "message"]
    assert [one.get("data") for one in received] == [None, "a", "b"]
    await asyncio.gather(*asked)


async def test_an_answer_that_never_comes_is_given_up_in_the_end(
    server: Scripted, make_client: Make
) -> None:
    client = make_client(ack_timeout_seconds=0.02)
    asked = asyncio.create_task(client.request("x"))
    conversation = await server.next()
    ids = {(await conversation.receive())["id"] for _ in range(5)}
    assert len(ids) == 1
    with pytest.raises(RequestFailed, match="timeout"):
        await asked


async def test_the_message_that_was_too_big_is_not_sent_again(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    big = asyncio.create_task(client.request("x" * 100))
    small = asyncio.create_task(client.request("y"))
    first = await server.next()
    await first.receive()
    await first.end(4013, "message_too_big")
    with pytest.raises(RequestFailed, match="message_too_big"):
        await big
    second = await server.next()
    assert (await second.acknowledge(1))["data"] == "y"
    assert (await small).offset == 1


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    conversation = await server.next({"limits": {"max_message_size": 100}})
    await wait_until(lambda: client.state is State.OPEN)
    with pytest.raises(RequestFailed, match="message_too_big"):
        await client.request("x" * 100)
    asked = asyncio.create_task(client.request("small"))
    assert (await conversation.acknowledge(1))["data"] == "small"
    await asked


async def test_the_queue_is_bounded(make_client: Make) -> None:
    client = make_client(queue_limit=1)
    asked = asyncio.create_task(client.request("x"))
    await asyncio.sleep(0)
    with pytest.raises(RequestFailed, match="queue_full"):
        await client.request("y")
    await client.close()
    with pytest.raises(RequestFailed, match="closed"):
        await asked


async def test_what_is_no_json_is_refused_at_once(make_client: Make) -> None:
    client = make_client()
    with pytest.raises(ValueError, match="JSON"):
        await client.request(float("nan"))
    assert client.pending == 0


async def test_a_kicked_client_stays_away_and_says_so(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    asked = asyncio.create_task(client.request("x"))
    conversation = await server.next()
    await conversation.receive()
    await conversation.end(4009, "kicked")
    with pytest.raises(RequestFailed, match="kicked"):
        await asked
    with pytest.raises(RequestFailed, match="kicked"):
        await client.request("y")
    assert client.state is State.CLOSED


async def test_an_evicted_client_returns_when_it_is_told_to(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    asked = asyncio.create_task(client.request("x"))
    await (await server.next()).end(4005, "evicted")
    await wait_until(lambda: client.state is State.CLOSED)
    assert server.waiting.empty()
    client.connect()
    await (await server.next()).acknowledge(3)
    assert (await asked).offset == 3


@pytest.mark.parametrize(("code", "reason"), [(4300, "idle"), (4005, "evicted")])
async def test_a_message_wakes_a_client_that_stays_away(
    server: Scripted, make_client: Make, code: int, reason: str
) -> None:
    client = make_client()
    await (await server.next()).end(code, reason)
    await wait_until(lambda: client.state is State.CLOSED)
    asked = asyncio.create_task(client.request("x"))
    await (await server.next()).acknowledge(1)
    assert (await asked).offset == 1


async def test_a_drained_client_keeps_to_the_moment_named(
    server: Scripted, make_client: Make, waits: list[float]
) -> None:
    client = make_client(clock=lambda: 1000.0)
    first = await server.next()
    bye = {"type": "bye", "code": 4200, "reason": "draining", "reconnect": "now"}
    await first.send({**bye, "after_ms": 1840})
    await first.end(4200, "draining")
    await server.next()
    assert 1.84 in waits
    await wait_until(lambda: client.state is State.OPEN)


async def test_an_expired_token_is_renewed_at_once(
    server: Scripted, make_client: Make
) -> None:
    asked: list[bool] = []

    async def get_token(is_expired: bool) -> str:
        asked.append(is_expired)
        return f"T{len(asked)}"

    make_client(get_token=get_token)
    await (await server.next()).end(4100, "token_expired")
    second = await server.next()
    assert second.authorization == "Bearer T2"
    assert asked == [False, True]
    await second.send({"type": "expiring", "expires_at": "2026-01-01T00:00:00Z"})
    assert await second.receive() == {"type": "refresh", "token": "T3"}


async def test_a_half_open_connection_is_found(
    server: Scripted, make_client: Make
) -> None:
    make_client()
    first = await server.next({"heartbeat_seconds": 0.01})
    assert (await first.receive())["type"] == "ping"
    await server.next()


async def test_a_log_that_stays_ahead_makes_a_client_come_back(
    server: Scripted, make_client: Make
) -> None:
    now = 1000.0
    client = make_client(clock=lambda: now)
    first = await server.next()
    seen, _ = listen(client)
    await first.send(entry(1))
    await first.send({"type": "pong", "t": 0, "offset": 2})
    # The client has taken the pong once it tells of what came behind it.
    await first.send({"type": "notice", "text": "x", "at": "2026-01-01T00:00:00Z"})
    await wait_until(lambda: any(isinstance(one, NoticeReceived) for one in seen))
    now += 6
    await first.send({"type": "pong", "t": 0, "offset": 2})
    assert (await server.next()).query["offset"] == "1"


async def test_a_server_of_another_protocol_fails_waiting_messages(
    server: Scripted,
) -> None:
    client = SessionClient(server.url)
    client.connect()
    asked = asyncio.create_task(client.request("x"))
    conversation = await server.next()
    await conversation.send({"type": "entry"})
    with pytest.raises(RequestFailed, match="protocol_error"):
        await asked
    client.connect()
    again = asyncio.create_task(client.request("x"))
    await (await server.next()).acknowledge(1)
    assert (await again).offset == 1
    await client.close()


def fail_first(*errors: BaseException) -> Callable[[bool], str]:
    """Return a source of tokens that raises errors before its first token."""
    left = list(errors)

    def get_token(is_expired: bool) -> str:
        if left:
            raise left.pop(0)
        return "T"

    return get_token


async def test_a_failing_token_source_is_asked_again(
    server: Scripted, make_client: Make, waits: list[float]
) -> None:
    # What it awaited was cancelled, and not the client.
    errors = (OSError("away"), KeyError("token"), asyncio.CancelledError())
    client = make_client(get_token=fail_first(*errors))
    assert (await server.next()).authorization == "Bearer T"
    await wait_until(lambda: client.state is State.OPEN)
    assert len([seconds for seconds in waits if seconds < 60]) == 3


@pytest.mark.parametrize("token", [UnauthorizedError("signed out"), "two words", "ä"])
async def test_a_token_source_can_stop_a_client(
    make_client: Make, token: str | Exception
) -> None:
    def get_token(is_expired: bool) -> str:
        if isinstance(token, Exception):
            raise token
        return token

    client = make_client(get_token=get_token)
    with pytest.raises(RequestFailed, match="unauthenticated"):
        await client.request("x")
    assert client.ended is not None
    assert (client.ended.code, client.ended.is_final) == (4001, True)


async def test_a_client_that_waits_for_its_token_is_closed(make_client: Make) -> None:
    is_asked, is_left = asyncio.Event(), asyncio.Event()

    async def get_token(is_expired: bool) -> str:
        is_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_left.set()
        return "T"

    client = make_client(get_token=get_token)
    await is_asked.wait()
    await client.close()
    assert client.state is State.CLOSED
    assert is_left.is_set()


async def test_a_renewal_that_fails_is_tried_again(
    server: Scripted, make_client: Make
) -> None:
    errors = [OSError("away"), asyncio.CancelledError()]
    tokens: list[str | BaseException] = ["T1", *errors, "T2", "T3"]

    def get_token(is_expired: bool) -> str:
        token = tokens.pop(0)
        if isinstance(token, BaseException):
            raise token
        return token

    client = make_client(get_token=get_token, ack_timeout_seconds=0.05)
    conversation = await server.next()
    await conversation.send({"type": "expiring", "after_ms": 70_000})
    assert await conversation.receive() == {"type": "refresh", "token": "T2"}
    # The server refuses it, which names no token.
    assert await conversation.receive() == {"type": "refresh", "token": "T3"}
    await conversation.send({"type": "refreshed", "expires_at": None})
    await conversation.send(entry(1))
    await wait_until(lambda: len(client.entries) == 1)
    assert tokens == []


async def test_events_begin_at_the_call(server: Scripted, make_client: Make) -> None:
    client = make_client()
    events = client.events()
    conversation = await server.next()
    await conversation.send(entry(1))
    await wait_until(lambda: len(client.entries) == 1)
    await client.close()
    seen = [event async for event in events]
    assert any(isinstance(event, EntryArrived) for event in seen)


async def test_unread_events_are_missed_with_an_error(
    server: Scripted, make_client: Make
) -> None:
    client = make_client(entry_limit=1)
    events = client.events()
    conversation = await server.next()
    for offset in range(1, 10_010):
        await conversation.send(entry(offset))
    await wait_until(lambda: client.entries and client.entries[0].offset == 10_009)
    await client.close()
    with pytest.raises(RequestFailed, match="events_missed"):
        async for _ in events:
            pass


async def test_sizes_are_counted_as_utf_8(server: Scripted, make_client: Make) -> None:
    client = make_client()
    conversation = await server.next({"limits": {"max_message_size": 200}})
    await wait_until(lambda: client.state is State.OPEN)
    asked = asyncio.create_task(client.request("ü" * 60))
    assert (await conversation.acknowledge(1))["data"] == "ü" * 60
    await asked
    with pytest.raises(RequestFailed, match="message_too_big"):
        await client.request("👩" * 40)
    with pytest.raises(ValueError, match="surrogate"):
        await client.request("\ud800")
    assert client.pending == 0


@pytest.mark.parametrize("make", [SessionClient, SharedConnection])
def test_a_token_that_is_renewed_has_ten_seconds(make: Any) -> None:
    async def get_token(is_expired: bool) -> str:
        await asyncio.Event().wait()
        return "late"

    with VirtualTime() as now:
        client = make("ws://host/ws/", get_token=get_token)
        with pytest.raises(TimeoutError):
            now.run(client.refresh())
        assert now() == 10


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_query_of_a_url_is_kept(server: Scripted, slash: str) -> None:
    url = f"{server.url.rstrip('/')}{slash}?ticket=a%2Bb&epoch=x&flag"
    async with SessionClient(url) as client:
        first = await server.next()
        assert first.socket.request is not None
        assert first.socket.request.path == "/ws/sessions/new/?ticket=a%2Bb&flag"
        await wait_until(lambda: client.state is State.OPEN)
        client.drop()
        second = await server.next()
        assert second.query["ticket"] == "a+b"
        assert (second.query["epoch"], second.query["replaces"]) == ("e1", "c1")


@pytest.mark.parametrize(
    "url", ["", "host/ws/", "http://host/ws/", "ws:///ws/", "ws://host/ws/#part"]
)
def test_a_url_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ws://host/path or wss://host/path"):
        SessionClient(f"{url}")


async def test_a_stop_is_sent_until_the_stream_ends(
    server: Scripted, make_client: Make, waits: list[float]
) -> None:
    """A stop survives a lost connection and a refusal."""
    client = make_client()
    first = await server.next()
    await first.send(entry(1, state="streaming"))
    await wait_until(lambda: len(client.entries) == 1)
    first.cut()
    await wait_until(lambda: client.state is not State.OPEN)
    await client.cancel(1)
    second = await server.next({"outcome": "resumed", "offset": 1})
    stop = {"type": "cancel", "offset": 1, "epoch": "e1"}
    assert await second.receive() == stop
    refusal = {"type": "error", "code": "unavailable", "message": "", "id": None}
    await second.send({**refusal, "offset": 1, "retry_after_seconds": 3})
    assert await second.receive() == stop
    assert 3 in waits
    await second.send({"type": "state", "offset": 1, "state": "cancelled"})
    await wait_until(lambda: client.entries[0].state == "cancelled")
    second.cut()
    third = await server.next({"outcome": "resumed", "offset": 1})
    asked = asyncio.create_task(client.request("x"))
    assert (await third.acknowledge(2))["type"] == "message"
    await asked


async def test_a_stream_whose_end_was_lost_in_a_gap_completes(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    seen, collecting = listen(client)
    first = await server.next()
    await first.send(entry(1, state="streaming"))
    await wait_until(lambda: len(client.entries) == 1)
    first.cut()
    await server.next({"outcome": "gap", "gap": [1, 3], "offset": 4})
    await wait_until(lambda: any(isinstance(one, EntryCompleted) for one in seen))
    await client.close()
    await collecting
    (ended,) = [one.entry for one in seen if isinstance(one, EntryCompleted)]
    assert (ended.offset, ended.state) == (1, "interrupted")


async def test_a_client_deletes_its_session(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    conversation = await server.next()
    await wait_until(lambda: client.state is State.OPEN)
    await client.delete()
    assert await conversation.receive() == {"type": "delete"}
    await conversation.end(4004, "not_found")
    await wait_until(lambda: client.state is State.CLOSED)


def test_entries_of_a_transcript_are_bounded() -> None:
    """The oldest go first, but not what still grows."""
    transcript = Transcript(2)
    transcript.begin(HELLO)
    transcript.put(entry(1, state="streaming"))
    for offset in (2, 3, 4):
        transcript.put(entry(offset))
    assert [one.offset for one in transcript.entries] == [1, 4]


def test_a_gap_moves_on_and_a_reset_begins_anew() -> None:
    transcript = Transcript(10)
    assert transcript.position == ""
    transcript.begin(HELLO)
    transcript.put(entry(1, state="streaming"))
    gap = {"outcome": "gap", "offset": 10}
    assert not transcript.begin({**HELLO, **gap, "gap": [3, 9]})
    assert transcript.position == "epoch=e1&offset=1&open=1"
    assert transcript.put(entry(2))
    assert transcript.put(entry(10))
    assert not transcript.begin({**HELLO, **gap, "gap": [1, 10]})
    assert transcript.position == "epoch=e1&offset=10"
    assert transcript.begin({**HELLO, "outcome": "reset", "epoch": "e2", "offset": 7})
    assert transcript.entries == []
    # 3 still grew when those after it were trimmed.
    assert transcript.put(entry(3))
    assert transcript.put(entry(7))
    assert transcript.put(entry(9)) is None


def test_an_answer_that_a_gap_has_ended_does_not_end_again() -> None:
    transcript = Transcript(10)
    transcript.begin(HELLO)
    transcript.put(entry(1, state="streaming"))
    transcript.begin({**HELLO, "outcome": "gap", "offset": 2, "gap": [1, 2]})
    assert [one.state for one in transcript.lost] == ["interrupted"]
    end = {"offset": 1, "state": "interrupted", "chain": "3-1-c"}
    assert transcript.settle(end) is None
    assert transcript.position == "epoch=e1&offset=2&chain=3-1-c"


def test_a_transcript_names_the_newest_commit_that_it_was_told_of() -> None:
    """Servers of the first release name none, and a reset forgets it."""
    transcript = Transcript(10)
    transcript.begin({**HELLO, "chain": "1-1-a"})
    assert transcript.position == "epoch=e1&offset=0&chain=1-1-a"
    transcript.put({**entry(1, state="streaming"), "chain": "2-1-b"})
    transcript.put(entry(2))
    assert transcript.position == "epoch=e1&offset=2&chain=2-1-b&open=1"
    transcript.settle({"offset": 1, "state": "done", "chain": "3-1-c"})
    assert not transcript.begin({**HELLO, "outcome": "resumed"})
    assert transcript.position == "epoch=e1&offset=2&chain=3-1-c"
    # A hole: the client does not have this commit.
    assert transcript.put({**entry(9), "chain": "9-9-d"}) is None
    for offset in (1, 3, 4):
        transcript.confirm({"offset": offset, "chain": f"5-{offset}-e"})
    known = "epoch=e1&offset=2&chain=3-1-c&acked=5-3-e%2C5-4-e"
    assert transcript.position == known
    transcript.put(entry(3))
    assert transcript.position == "epoch=e1&offset=3&chain=3-1-c&acked=5-4-e"
    assert transcript.begin({**HELLO, "outcome": "reset"})
    assert transcript.position == "epoch=e1&offset=0"


async def test_a_client_that_was_refused_for_a_time_returns_after_it(
    waits: list[float],
) -> None:
    """The seconds count from the refusal, although there was no bye."""
    scripted = Scripted()
    statuses = [429, 503]

    def answer(socket: ServerConnection, request: Request) -> Response | None:
        if not statuses:
            return None
        headers = Headers({"Retry-After": "30", "Content-Length": "0"})
        return Response(statuses.pop(0), "", headers, b"")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(seconds if seconds > 60 else 0)

    async with serve(scripted.serve_one, "127.0.0.1", 0, process_request=answer) as own:
        url = f"ws://127.0.0.1:{own.sockets[0].getsockname()[1]}/"
        async with SessionClient(url, sleep=sleep):
            await scripted.next()
    assert [30.5 <= seconds <= 32 for seconds in waits[:2]] == [True, True]


ALICE = {"member": "user:1", "data": {"name": "alice"}}
BOB = {"member": "user:2", "data": {}}


async def test_a_client_that_asks_keeps_who_is_present(
    server: Scripted, make_client: Make
) -> None:
    client = make_client(presence=True)
    seen, collecting = listen(client)
    conversation = await server.next({"member": "user:1"})
    assert conversation.query["presence"] == "1"
    assert await conversation.receive() == {"type": "present"}
    await conversation.send({"type": "present", "members": None})
    assert await conversation.receive() == {"type": "present"}
    await conversation.send({"type": "present", "members": [ALICE]})
    room = {"room": "session:s1"}
    joined = {"type": "presence.joined", **room, "members": [ALICE, BOB]}
    await conversation.send(joined)
    await conversation.send({"type": "presence.left", **room, "members": [ALICE]})
    await conversation.send({"type": "presence.gap", **room})
    assert await conversation.receive() == {"type": "present"}
    assert client.presence.members == {"user:2": {}}
    changes = [one for one in seen if isinstance(one, MembersChanged)]
    assert [list(one.members) for one in changes] == [
        ["user:1"],
        ["user:1", "user:2"],
        ["user:2"],
    ]
    await client.close()
    await collecting


async def test_a_client_hears_who_types_and_forgets_it(
    server: Scripted, make_client: Make
) -> None:
    """A wait is over at once here, so that no end has to come."""
    client = make_client(presence=True)
    seen, collecting = listen(client)
    conversation = await server.next({"member": "user:1"})
    assert await conversation.receive() == {"type": "present"}
    await client.presence.set_typing(True)
    assert await conversation.receive() == {"type": "typing", "active": True}
    other = {"member": "user:2", "connection": "c2"}
    await conversation.send({"type": "typing", **other, "active": True})
    wanted = [TypingChanged(**other, is_typing=one) for one in (True, False)]
    await wait_until(
        lambda: [one for one in seen if isinstance(one, TypingChanged)] == wanted
    )
    await client.close()
    await collecting


@pytest.mark.parametrize("options", [{}, {"presence": True}])
async def test_a_client_that_does_not_ask_or_an_old_server_has_no_presence(
    server: Scripted, make_client: Make, options: dict[str, Any]
) -> None:
    client = make_client(**options)
    conversation = await server.next()
    await wait_until(lambda: client.state is State.OPEN)
    await client.presence.set_typing(True)
    asked = asyncio.create_task(client.request("x"))
    assert (await conversation.acknowledge(1))["data"] == "x"
    await asked
    assert client.presence.members == {}


async def test_a_wish_for_another_answer_is_sent_until_its_ack(
    server: Scripted, make_client: Make
) -> None:
    client = make_client()
    first = await server.next({"offset": 1})
    await first.send(entry(1))
    await wait_until(lambda: len(client.entries) == 1)
    asked = asyncio.create_task(client.regenerate(1, metadata={"mood": "short"}))
    wish = await first.receive()
    first.cut()
    second = await server.next({"outcome": "resumed", "offset": 1})
    assert await second.acknowledge(2) == wish
    assert (await asked).offset == 2
    assert (wish["type"], wish["offset"], wish["epoch"]) == ("regenerate", 1, "e1")
    assert wish["metadata"] == {"mood": "short"}
    await second.send({**entry(2), "from": "server", "replaces": 1})
    await wait_until(lambda: len(client.entries) == 2)
    assert [one.replaces for one in client.entries] == [None, 1]
