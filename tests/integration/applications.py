"""
ASGI applications, one a path, that each exercise one feature of the server.

    daphne tests.integration.applications:application
"""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
django.setup()

from connections.asgi import TRANSPORT, get_extension  # noqa: E402
from connections.server.install import install  # noqa: E402

install()

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

seen: list[str] = []
"""Events of connections, which /seen returns."""


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Run the function that the path names."""
    if scope["type"] == "http":
        await _answer(scope, receive, send)
    else:
        name = scope["path"].strip("/")
        query = {
            key: values[0]
            for key, values in parse_qs(scope["query_string"].decode()).items()
        }
        await globals()[f"ws_{name}"](scope, receive, send, query)


async def _answer(scope: Message, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if path == "/slow":
        seen.append("slow request")
        await asyncio.sleep(1)
    if path == "/body":
        size = 0
        while (event := await receive())["type"] == "http.request":
            size += len(event.get("body", b""))
            if not event.get("more_body"):
                break
        seen.append(f"body {size}")
    if path == "/garbage":
        gc.disable()
        seen.append(f"garbage {gc.collect()}")
    if path in ("/stream", "/endless"):
        await _stream(send, count=640 if path == "/stream" else None)
        return
    if path == "/crash":
        raise RuntimeError("before the response")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/crash-midway":
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError("in the middle of the response")
    body = "\n".join(seen).encode() if path == "/seen" else b"ok"
    if path == "/large":
        body = bytes(20_000_000)
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, count: int | None) -> None:
    """Send so many parts of 64 kB, or parts without end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    part = {"type": "http.response.body", "body": bytes(65536), "more_body": True}
    while count is None or count > 0:
        await send(part)
        count = None if count is None else count - 1
    await send({"type": "http.response.body", "body": b"end"})


async def _open(receive: Receive, send: Send, **answer: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **answer})


async def ws_echo(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Echo every message."""
    await _open(receive, send)
    while (event := await receive())["type"] == "websocket.receive":
        event.pop("type")
        await send({"type": "websocket.send", **event})
    seen.append(
        f"disconnect {event['code']} {get_extension(scope, TRANSPORT).close_reason}"
    )


async def ws_close(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Close with the query's code and reason, then send."""
    await _open(receive, send)
    code, reason = int(query["code"]), query.get("reason", "")
    await send({"type": "websocket.close", "code": code, "reason": reason})
    await send({"type": "websocket.send", "text": "after the close"})
    event = await receive()
    seen.append(f"disconnect {event['code']}")


async def ws_crash(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Raise on the first message."""
    await _open(receive, send)
    await receive()
    raise RuntimeError("a consumer that crashes")


async def ws_return(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """End without closing."""
    await _open(receive, send)


async def ws_crash_early(
    scope: Message, receive: Receive, send: Send, query: Any
) -> None:
    """Raise before answering the handshake."""
    raise RuntimeError("before the accept")


async def ws_silent(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Never answer the handshake."""
    await receive()
    event = await receive()
    seen.append(f"silent {event['type']} {event['code']}")


async def ws_deny(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Refuse with 403, or with the application's own response."""
    await receive()
    if "status" not in query:
        await send({"type": "websocket.close"})
        return
    status, headers = int(query["status"]), [(b"x-why", b"because")]
    start = {"type": "websocket.http.response.start", "status": status}
    await send({**start, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"no "})


async def ws_headers(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Accept with a subprotocol and a header; send values of the scope."""
    await _open(
        receive,
        send,
        subprotocol=query.get("subprotocol"),
        headers=[(b"x-greeting", b"hello")],
    )
    facts = f"{scope['scheme']} {scope['subprotocols']} {scope['client'][0]}"
    await send({"type": "websocket.send", "text": facts})
    await receive()


async def ws_slow(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Read one message per `seconds`; record how the connection ended."""
    await _open(receive, send)
    count = 0
    while (event := await receive())["type"] == "websocket.receive":
        count += 1
        await asyncio.sleep(float(query["seconds"]))
    close_reason = get_extension(scope, TRANSPORT).close_reason
    seen.append(
        f"slow {count} {event['code']} {close_reason.reason if close_reason else None}"
    )


async def ws_flood(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Send messages of `size` bytes while the connection is open."""
    await _open(receive, send)
    transport, highest = get_extension(scope, TRANSPORT), 0
    size, count = int(query["size"]), int(query["count"])
    sent = 0
    while sent < count:
        await send({"type": "websocket.send", "bytes": bytes(size)})
        sent += 1
        highest = max(highest, transport.unsent_bytes)
        if transport.close_reason is not None:
            break
    seen.append(f"flood {sent} highest {highest}")
    event = await receive()
    while event["type"] == "websocket.receive":
        event = await receive()
    close_reason = transport.close_reason
    seen.append(
        f"flooded {event['code']} {close_reason.reason if close_reason else None}"
    )


async def ws_rtt(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Answer each message with the round trip time."""
    await _open(receive, send)
    while (await receive())["type"] == "websocket.receive":
        rtt = get_extension(scope, TRANSPORT).rtt_seconds
        await send({"type": "websocket.send", "text": str(rtt)})


async def ws_stubborn(scope: Message, receive: Receive, send: Send, query: Any) -> None:
    """Continue when cancelled."""
    await _open(receive, send)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled in vain")
