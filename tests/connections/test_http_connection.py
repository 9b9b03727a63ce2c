"""Test one request over plain HTTP that is a connection, without its server."""

import asyncio
import json
import re
from typing import Any

import pytest

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.close_codes import CloseReason
from connections.http_connection import HttpConnection
from connections.testing.communicators import make_node

NOTICE = {"type": "websocket.send", "text": '{"type": "notice", "text": "Soon"}'}


Answer = tuple[int, dict[bytes, bytes], bytes]


async def poll(*sent: Message) -> Answer:
    """Return the answer to a long poll whose consumer sends some messages."""
    return await request("long_poll", *sent)


async def request(carrier: str, *sent: Message) -> Answer:
    answered: list[Message] = []

    async def receive() -> Message:
        message: Message = await asyncio.get_running_loop().create_future()
        return message

    async def send(message: Message) -> None:
        answered.append(message)

    async def consume(scope: Message, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        for message in ({"type": "websocket.accept"}, *sent):
            await send(message)
        assert (await receive())["type"] == "websocket.disconnect"

    scope = {"type": "http", "query_string": b"", "headers": [], "node": make_node()}
    connection = HttpConnection(scope, receive, send, carrier)
    await connection.run(consume)
    start, *bodies = answered
    body = b"".join(one["body"] for one in bodies)
    return start["status"], dict(start["headers"]), body


def make_end(close_reason: CloseReason) -> tuple[Message, Message]:
    """Return the two messages with which a connection ends."""
    bye = {"type": "websocket.send", "text": json.dumps(close_reason.bye())}
    close = {"code": close_reason.code, "reason": close_reason.reason}
    return bye, {"type": "websocket.close", **close}


@pytest.mark.parametrize(
    ("close_reason", "status"),
    [
        (close_codes.EVICTED, 409),
        (close_codes.TOKEN_EXPIRED, 401),
        (close_codes.DRAINING, 503),
        (close_codes.SLOW_CONSUMER, 503),
    ],
)
async def test_a_poll_that_got_a_notice_is_told_its_end(
    close_reason: CloseReason, status: int
) -> None:
    answer = await poll(NOTICE, *make_end(close_reason))
    assert answer[0] == status
    assert json.loads(answer[2])["error"]["close_code"] == close_reason.code
    assert (b"retry-after" in answer[1]) == (status == 503)


async def test_a_poll_is_answered_with_its_event_alone() -> None:
    event: dict[str, Any] = {"type": "websocket.send", "event": "data", "text": "[1]"}
    event["headers"] = [(b"stream-next-offset", b"e_1")]
    messages = [NOTICE] * 3
    end = make_end(close_codes.CLOSED)
    status, headers, body = await poll(*messages, event, *messages, *end)
    assert (status, body) == (200, b"[1]")
    assert headers[b"stream-next-offset"] == b"e_1"


def read_events(body: bytes) -> list[dict[str, str]]:
    """Return the events of a stream as a browser parses it."""
    events: list[dict[str, str]] = [{}]
    for line in re.split(r"\r\n|\r|\n", body.decode()):
        name, _, value = line.partition(": ")
        event = events[-1]
        if not line:
            events.append({})
        else:
            event[name] = f"{event[name]}\n{value}" if name in event else value
    return [event for event in events if event]


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
async def test_a_text_with_line_breaks_stays_one_event(line_break: str) -> None:
    """What stands behind a line break was a field, and behind two an event."""
    lines = ["one", "", "event: bye", "data: {}", "id: 5", "", "\u2028\x0b", ""]
    text = line_break.join(lines)
    message = {"type": "websocket.send", "event": "data", "text": text}
    status, _headers, body = await request(
        "sse", message, *make_end(close_codes.CLOSED)
    )
    assert status == 200
    data, bye = read_events(body)
    assert data == {"event": "data", "data": "\n".join(lines)}
    assert bye["event"] == "bye"
