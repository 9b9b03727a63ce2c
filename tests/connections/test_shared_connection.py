"""A shared connection against a server on a real socket that follows a script."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connections.client import (
    ErrorReceived,
    NoticeReceived,
    RequestFailed,
    SessionClient,
    SharedConnection,
    State,
)
from connections.client.connect import Socket, open_connection
from connections.testing import FakeClock, wait_until
from connections.testing.waiting import scale
from tests.connections.scripted_server import (
    HELLO,
    Conversation,
    Scripted,
    entry,
    serve_script,
)

MANY = "/ws/sessions/many/"
GREETING = {
    "type": "hello",
    "connection": "c1",
    "limits": {"max_sessions": 20},
    "heartbeat_seconds": 3600,
}


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with serve_script("orchestra.v2") as scripted:
        yield scripted


@pytest.fixture
def waits() -> list[float]:
    """What the clients waited for, in seconds."""
    return []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shared(
    server: Scripted, waits: list[float], clock: FakeClock
) -> AsyncIterator[SharedConnection]:
    """A connection for which a wait is over at once, unless it is a heartbeat."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(seconds if seconds > 60 else 0)

    async with SharedConnection(
        server.url, get_token=str, sleep=sleep, clock=clock
    ) as connection:
        yield connection


async def accept(server: Scripted) -> Conversation:
    """Return the next connection, greeted as one of many sessions."""
    async with asyncio.timeout(scale(10)):
        conversation = await server.waiting.get()
    await conversation.send(GREETING)
    return conversation


async def attach(
    conversation: Conversation, session: str, **hello: Any
) -> dict[str, Any]:
    """Answer the next attach with a hello; return the attach."""
    asked = await conversation.receive()
    assert asked["type"] == "attach"
    greeting = {**HELLO, "session": session, "id": asked["id"], **hello}
    await conversation.send(greeting)
    return asked


async def open_two(
    server: Scripted, shared: SharedConnection
) -> tuple[Conversation, SessionClient, SessionClient]:
    first, second = shared.session("s1"), shared.session("s2")
    first.connect()
    conversation = await accept(server)
    await attach(conversation, "s1")
    second.connect()
    await attach(conversation, "s2")
    await wait_until(lambda: {first.state, second.state} == {State.OPEN})
    return conversation, first, second


async def test_two_sessions_share_a_connection_and_keep_their_positions(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    assert conversation.path == "/ws/sessions/many/"
    for session, offsets in (("s1", (1, 2)), ("s2", (1,))):
        for offset in offsets:
            await conversation.send({**entry(offset), "session": session})
    growing = {**entry(3, state="streaming", data={"text": "Hel"}), "chain": "9-1-a"}
    await conversation.send({**growing, "session": "s1"})
    asking = asyncio.create_task(first.request({"text": "hi"}))
    said = await conversation.receive()
    ack = {"type": "ack", "id": said["id"], "offset": 4, "chain": "10-4-b"}
    await conversation.send({**ack, "session": "s1"})
    await asking
    await wait_until(lambda: (len(first.entries), len(second.entries)) == (3, 1))
    conversation.cut()
    again = await accept(server)
    assert again.query == {"replaces": "c1"}
    asked = sorted(
        [await again.receive(), await again.receive()], key=lambda one: one["session"]
    )
    assert [{**one, "id": None} for one in asked] == [
        {
            "type": "attach",
            "id": None,
            "session": "s1",
            "epoch": "e1",
            "offset": 3,
            "chain": "9-1-a",
            "acked": ["10-4-b"],
            "open": [3],
        },
        {
            "type": "attach",
            "id": None,
            "session": "s2",
            "epoch": "e1",
            "offset": 1,
            "chain": None,
            "open": [],
        },
    ]


async def test_messages_name_their_session_and_pings_are_answered_at_once(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    asking = [
        asyncio.create_task(client.request({"text": "hi"}))
        for client in (first, second)
    ]
    received = [await conversation.receive() for _ in range(2)]
    assert {one["session"] for one in received} == {"s1", "s2"}
    for one in received:
        ack = {"type": "ack", "id": one["id"], "offset": 1}
        await conversation.send({**ack, "session": one["session"]})
    assert [ack.offset for ack in await asyncio.gather(*asking)] == [1, 1]


async def test_what_was_over_the_rate_is_sent_again(
    server: Scripted, shared: SharedConnection, waits: list[float]
) -> None:
    conversation, first, _ = await open_two(server, shared)
    third = shared.session("s3")
    third.connect()
    dropped = await conversation.receive()
    asking = asyncio.create_task(first.request({"text": "hi"}))
    message = await conversation.receive()
    limited = {"type": "error", "code": "rate_limited", "message": "", "id": None}
    await conversation.send({**limited, "retry_after_seconds": 7})
    repeated = [await conversation.receive() for _ in range(2)]
    assert dropped in repeated
    assert message in repeated
    assert waits.count(7) == 2
    ack = {"type": "ack", "id": message["id"], "offset": 1, "session": "s1"}
    await conversation.send(ack)
    greeting = {**HELLO, "session": "s3", "id": dropped["id"]}
    await conversation.send(greeting)
    await asking
    # The answer to the attach that was sent twice.
    refused = {**limited, "code": "already_attached", "id": dropped["id"]}
    await conversation.send({**refused, "session": "s3"})
    await conversation.send({**entry(1), "session": "s3"})
    await wait_until(lambda: len(third.entries) == 1)
    assert third.state is State.OPEN


async def test_an_error_without_a_session_is_that_of_its_message(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    seen: list[object] = []

    async def watch() -> None:
        async for event in second.events():
            if isinstance(event, ErrorReceived | NoticeReceived):
                seen.append(event)

    watching = asyncio.create_task(watch())
    asking = asyncio.create_task(first.request({"text": "hi"}))
    message = await conversation.receive()
    error = {"type": "error", "code": "invalid_message", "message": "no"}
    await conversation.send({**error, "id": message["id"]})
    with pytest.raises(RequestFailed, match="invalid_message"):
        await asking
    await conversation.send({"type": "notice", "text": "hello", "at": "now"})
    await wait_until(lambda: len(seen) == 1)
    assert isinstance(seen[0], NoticeReceived)
    watching.cancel()


@pytest.mark.parametrize(
    ("code", "closed_with"),
    [("not_found", 4004), ("forbidden", 4003), ("too_many_sessions", 1008)],
)
async def test_a_refused_attach_ends_one_session(
    server: Scripted, shared: SharedConnection, code: str, closed_with: int
) -> None:
    conversation, first, _ = await open_two(server, shared)
    third = shared.session("s3")
    third.connect()
    asked = await conversation.receive()
    error = {"type": "error", "code": code, "message": "", "session": "s3"}
    await conversation.send({**error, "id": asked["id"]})
    await wait_until(lambda: third.state is State.CLOSED)
    assert third.ended is not None
    assert (third.ended.code, third.ended.reason) == (closed_with, code)
    assert third.ended.is_final
    assert first.state is State.OPEN


async def test_an_attach_that_is_refused_for_the_moment_is_sent_again(
    server: Scripted, shared: SharedConnection, waits: list[float]
) -> None:
    conversation, _, _ = await open_two(server, shared)
    third = shared.session("s3")
    third.connect()
    asked = await conversation.receive()
    error = {"type": "error", "code": "unavailable", "message": "", "session": "s3"}
    refusal = {**error, "id": asked["id"], "retry_after_seconds": 2}
    await conversation.send(refusal)
    await attach(conversation, "s3")
    await wait_until(lambda: third.state is State.OPEN)
    assert 2 in [round(one) for one in waits]


async def test_a_session_that_ends_leaves_the_others(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    detached = {"type": "detached", "session": "s1", "after_ms": None, "ref": None}
    await conversation.send({**detached, "code": 4003, "reason": "forbidden"})
    await wait_until(lambda: first.state is State.CLOSED)
    assert first.ended is not None
    assert (first.ended.code, second.state) == (4003, State.OPEN)


async def test_a_session_whose_log_was_lost_is_attached_again(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, _ = await open_two(server, shared)
    detached = {"type": "detached", "session": "s1", "after_ms": 0, "ref": None}
    await conversation.send({**detached, "code": 4202, "reason": "asked_to_reconnect"})
    await attach(conversation, "s1", outcome="reset", epoch="e2")
    await wait_until(lambda: first.hello["epoch"] == "e2")
    assert first.state is State.OPEN


async def test_a_closed_session_is_detached_before_another_one_is_attached(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, _ = await open_two(server, shared)
    await first.close()
    shared.session("s3").connect()
    received = [await conversation.receive() for _ in range(2)]
    assert [one["type"] for one in received] == ["detach", "attach"]
    # Frames that were on their way are those of nobody.
    await conversation.send({**entry(1), "session": "s1"})
    again = shared.session("s1")
    assert again is first
    again.connect()
    detached = {"type": "detached", "session": "s1", "code": 1000, "reason": "closed"}
    await conversation.send(detached)
    await attach(conversation, "s1")
    await wait_until(lambda: again.state is State.OPEN)
    assert again.entries == []


async def open_apart(
    server: Scripted, shared: SharedConnection, code: int = 4004
) -> tuple[list[Conversation], SessionClient, SessionClient]:
    """Open two sessions with a server that knows no connection for many."""
    first, second = shared.session("s1"), shared.session("s2")
    first.connect()
    second.connect()
    async with asyncio.timeout(scale(10)):
        unknown = await server.waiting.get()
    assert unknown.path == MANY
    await unknown.end(code)
    async with asyncio.timeout(scale(10)):
        apart = [await server.waiting.get(), await server.waiting.get()]
    apart.sort(key=lambda one: one.path)
    for one, name in zip(apart, ("s1", "s2"), strict=True):
        assert one.path == f"/ws/sessions/{name}/"
        await one.send({**HELLO, "session": name})
    await wait_until(lambda: {first.state, second.state} == {State.OPEN})
    assert not shared.is_shared
    return apart, first, second


@pytest.mark.parametrize("code", [4002, 4004])
async def test_an_older_server_gets_a_connection_for_each_session(
    server: Scripted, shared: SharedConnection, code: int
) -> None:
    await open_apart(server, shared, code)


@pytest.mark.parametrize("code", [4200, 4202])
async def test_a_session_shares_again_after_a_drain_or_when_asked(
    server: Scripted, shared: SharedConnection, code: int
) -> None:
    (apart, _), first, second = await open_apart(server, shared)
    await apart.end(code)
    again = await accept(server)
    assert again.path == MANY
    await attach(again, "s1")
    await wait_until(lambda: first.state is State.OPEN)
    assert shared.is_shared
    assert second.state is State.OPEN


async def test_sessions_share_again_after_ten_minutes(
    server: Scripted, shared: SharedConnection, clock: FakeClock
) -> None:
    (apart, _), _, _ = await open_apart(server, shared)
    clock.advance(599)
    apart.cut()
    apart = await server.next()
    assert apart.path == "/ws/sessions/s1/"
    clock.advance(1)
    apart.cut()
    async with asyncio.timeout(scale(10)):
        unknown = await server.waiting.get()
    assert unknown.path == MANY
    # The server still knows none: the next ten minutes begin.
    await unknown.end(4004)
    apart = await server.next()
    assert apart.path == "/ws/sessions/s1/"


async def test_a_session_that_was_evicted_apart_returns_with_the_connection(
    server: Scripted, shared: SharedConnection
) -> None:
    """It needs no slot of its own any more."""
    apart, first, second = await open_apart(server, shared)
    await apart[0].end(4005, "evicted")
    await wait_until(lambda: first.state is State.CLOSED)
    await apart[1].end(4202)
    again = await accept(server)
    asked = [await again.receive(), await again.receive()]
    assert {one["session"] for one in asked} == {"s1", "s2"}
    for one in asked:
        await again.send({**HELLO, "session": one["session"], "id": one["id"]})
    await wait_until(lambda: {first.state, second.state} == {State.OPEN})


async def test_a_session_that_was_evicted_with_the_connection_stays_away(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    await conversation.end(4005, "evicted")
    await wait_until(lambda: {first.state, second.state} == {State.CLOSED})
    first.connect()
    again = await accept(server)
    await attach(again, "s1", outcome="nothing_missed")
    await wait_until(lambda: first.state is State.OPEN)
    asking = asyncio.create_task(first.request({"text": "alone"}))
    message = await again.receive()
    ack = {"type": "ack", "id": message["id"], "offset": 1, "session": "s1"}
    await again.send(ack)
    await asking
    assert second.state is State.CLOSED


async def test_an_attach_that_was_given_up_is_detached_after_its_hello(
    server: Scripted,
) -> None:
    async def open_slowly(*asked: Any) -> Socket:
        socket = await open_connection(*asked)
        send = socket.send

        async def send_slowly(message: str) -> None:
            await send(message)
            if '"attach"' in message:
                await asyncio.Event().wait()

        socket.send = send_slowly  # type: ignore[method-assign, assignment]
        return socket

    async with SharedConnection(server.url, open_socket=open_slowly) as shared:
        client = shared.session("s1")
        client.connect()
        conversation = await accept(server)
        asked = await conversation.receive()
        await client.close()
        await conversation.send({**HELLO, "session": "s1", "id": asked["id"]})
        assert await conversation.receive() == {"type": "detach", "session": "s1"}


async def test_each_session_closes_as_the_connection_does(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    await conversation.send({"type": "bye", "code": 4009, "reason": "kicked"})
    await conversation.end(4009, "kicked")
    await wait_until(lambda: {first.state, second.state} == {State.CLOSED})
    for client in (first, second):
        assert client.ended is not None
        assert (client.ended.code, client.ended.reason) == (4009, "kicked")


async def test_a_message_that_was_too_big_fails_alone(
    server: Scripted, shared: SharedConnection
) -> None:
    """Those of other sessions are sent again."""
    conversation, first, second = await open_two(server, shared)
    big = asyncio.create_task(second.request("x" * 130))
    await conversation.receive()
    small = asyncio.create_task(first.request("é" * 60))
    message = await conversation.receive()
    bye = {"type": "bye", "code": 4013, "reason": "message_too_big"}
    await conversation.send(bye)
    await conversation.end(4013, "message_too_big")
    with pytest.raises(RequestFailed, match="message_too_big"):
        await big
    again = await accept(server)
    for _ in ("s1", "s2"):
        asked = await again.receive()
        session = {"session": asked["session"]}
        await again.send({**HELLO, **session, "id": asked["id"]})
    assert (await again.receive())["id"] == message["id"]
    ack = {"type": "ack", "id": message["id"], "offset": 1, "session": "s1"}
    await again.send(ack)
    assert (await small).offset == 1


async def test_the_name_of_the_session_counts_for_the_size_of_a_message(
    server: Scripted, shared: SharedConnection
) -> None:
    """One over the limit would end the connection of all sessions."""
    async with shared.session("s1") as client:
        conversation = await accept(server)
        await attach(conversation, "s1", limits={"max_message_size": 100})
        for length in range(100):
            asked = asyncio.create_task(client.request("x" * length))
            sent = asyncio.create_task(conversation.receive())
            await asyncio.wait((asked, sent), return_when="FIRST_COMPLETED")
            if not sent.done():
                break
            message = await sent
            assert len(json.dumps(message)) <= 100
            ack = {"type": "ack", "id": message["id"], "offset": 1, "session": "s1"}
            await conversation.send(ack)
            await asked
        sent.cancel()
        with pytest.raises(RequestFailed, match=r"message_too_big: 101 bytes"):
            await asked
        assert client.state is State.OPEN


async def test_an_idle_connection_returns_with_the_first_message(
    server: Scripted, shared: SharedConnection
) -> None:
    conversation, first, second = await open_two(server, shared)
    await conversation.end(4300, "idle")
    await wait_until(lambda: {first.state, second.state} == {State.CLOSED})
    asking = asyncio.create_task(first.request({"text": "hi"}))
    again = await accept(server)
    await attach(again, "s1", outcome="nothing_missed")
    message = await again.receive()
    assert (message["session"], message["data"]) == ("s1", {"text": "hi"})
    ack = {"type": "ack", "id": message["id"], "offset": 1, "session": "s1"}
    await again.send(ack)
    await asking
    assert second.state is State.CLOSED


async def test_a_server_that_does_not_answer_is_left(server: Scripted) -> None:
    is_attached = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds > 60:
            await asyncio.sleep(seconds)
        await is_attached.wait()
        await asyncio.sleep(0.01)

    async with SharedConnection(server.url, sleep=sleep) as shared:
        client = shared.session("s1")
        client.connect()
        async with asyncio.timeout(scale(10)):
            conversation = await server.waiting.get()
        await conversation.send({**GREETING, "heartbeat_seconds": 1})
        await attach(conversation, "s1")
        await wait_until(lambda: client.state is State.OPEN)
        is_attached.set()
        ping = await conversation.receive()
        assert (ping["type"], "session" in ping) == ("ping", False)
        again = await accept(server)
        await attach(again, "s1", outcome="nothing_missed")
        await wait_until(lambda: client.state is State.OPEN)
