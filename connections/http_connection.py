"""
Run connections over plain HTTP, for clients whose proxy breaks WebSockets.

A request with `live=sse` or `live=long-poll` becomes the handshake of a connection
with the same gate, limits, slot and record as that of a WebSocket. What its consumer
sends is the body of the response. The client sends with requests of its own.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from django.urls import URLPattern

from connections import close_codes
from connections.access.proxies import find_scope_source
from connections.asgi import CARRIER, Application, Message, Receive, Send
from connections.close_codes import Reconnect
from connections.net.script_prefix import remove_script_prefix

_CARRIERS = {"sse": "sse", "long-poll": "long_poll"}
"""The recorded transport of a connection by the parameter `live`."""

_HEADERS = [
    (b"cache-control", b"no-store, no-transform"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    # nginx would keep the events until its buffer is full.
    (b"x-accel-buffering", b"no"),
]
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream")
_BYE = '{"type": "bye"'

_LEFT = 1001
"""The code of a client that is gone: it closes no other way (RFC 6455, 7.4.1)."""

_STATUSES = {
    close_codes.UNAUTHENTICATED.code: 401,
    close_codes.PROTOCOL_ERROR.code: 400,
    close_codes.NOT_FOUND.code: 404,
    close_codes.EVICTED.code: 409,
    close_codes.TOKEN_EXPIRED.code: 401,
    close_codes.RATE_LIMITED.code: 429,
    close_codes.INTERNAL_ERROR.code: 500,
}
_ADVISED = {Reconnect.NEVER: 403, Reconnect.BACKOFF: 500}
"""The statuses of close codes, and of other codes by their advice; else 503."""

_LAST_PART_SECONDS = 1

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
"""What ends a line of SSE (WHATWG HTML, section 9.2.6), and no other character."""


class HttpRoutes:
    """Passes requests for live connections to their consumers, and others on."""

    # asgiref takes a callable that is no coroutine function for ASGI 2.
    _asgi_single_callable = True

    def __init__(
        self,
        application: Application,
        connections: Application,
        routes: Sequence[URLPattern],
    ) -> None:
        self._application = application
        self._connections = connections
        self._patterns = [route.pattern for route in routes]

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        carrier = _find_carrier(scope)
        path = remove_script_prefix(scope).removeprefix("/")
        if carrier is None or not any(one.match(path) for one in self._patterns):
            return self._application(scope, receive, send)
        connection = HttpConnection(scope, receive, send, carrier)
        return connection.run(self._connections)


class HttpConnection:
    """
    One request that is a connection: the server's side of its consumer.

    A websocket.send may name the `event` of SSE that holds its text. Of a long poll
    the text of the event `data` is the body, and the `headers` of any event are those
    of the response, which begins after the slot is released. Other messages are left
    out of it.
    """

    def __init__(
        self, scope: Message, receive: Receive, send: Send, carrier: str
    ) -> None:
        self._receive = receive
        self._send = send
        self._is_poll = carrier == "long_poll"
        self._ping_seconds: float = scope["node"].config.ping_interval_seconds
        self._is_connecting = True
        self._is_begun = False
        self._is_whole = False
        self._is_writing = False
        self._own_headers: list[tuple[bytes, bytes]] = []
        self._polled: list[Message] = []
        self._bye: dict[str, Any] = {}
        self._code = _LEFT
        self._closed = asyncio.Event()
        query = parse_qs(scope["query_string"].decode("latin-1"))
        self._scope: Message = {
            **scope,
            "type": "websocket",
            "scheme": {"https": "wss"}.get(scope.get("scheme", ""), "ws"),
            "headers": _with_own_origin(scope),
            "subprotocols": query.get("protocol", [])[:1],
            "extensions": {"websocket.http.response": {}, CARRIER: carrier},
        }

    async def run(self, application: Application) -> None:
        """Run the connection until its consumer and the response have ended."""
        scope, self._scope = self._scope, {}
        listening = asyncio.ensure_future(self._listen())
        try:
            await application(scope, self.receive, self.send)
            # A client that reads nothing must not keep the task.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_PART_SECONDS):
                    await self._complete()
        finally:
            listening.cancel()

    async def receive(self) -> Message:
        """Return the connect, and the disconnect once the client or the end comes."""
        if self._is_connecting:
            self._is_connecting = False
            return {"type": "websocket.connect"}
        while not self._closed.is_set():
            try:
                async with asyncio.timeout(self._ping_seconds):
                    await self._closed.wait()
            except TimeoutError:
                await self._ping()
        return {"type": "websocket.disconnect", "code": self._code}

    async def send(self, message: Message) -> None:
        """Take an event of the consumer."""
        kind = message["type"]
        if self._closed.is_set():
            return
        if kind == "websocket.accept":
            self._own_headers = list(message.get("headers") or ())
        elif kind == "websocket.send":
            await self._take(message)
        elif kind == "websocket.close":
            # Without an accept it is a denial.
            self._code = message.get("code") or close_codes.FORBIDDEN.code
            if not self._is_begun and not self._polled:
                await self._refuse(message.get("reason") or "")
            self._closed.set()
        elif kind == "websocket.http.response.start":
            await self._begin(message["status"], message.get("headers") or ())
        elif kind == "websocket.http.response.body":
            is_last = not message.get("more_body", False)
            await self._write(message.get("body", b""), is_last=is_last)
            if is_last:
                self._closed.set()

    async def _listen(self) -> None:
        """Wait until the client has left, also while its consumer connects."""
        try:
            while (await self._receive())["type"] != "http.disconnect":
                continue
        finally:
            self._closed.set()

    async def _ping(self) -> None:
        """Write a comment: proxies end a response that is silent for a minute."""
        if self._is_begun and not self._is_writing and not self._closed.is_set():
            await self._write(b":\n\n")

    async def _take(self, message: Message) -> None:
        text: str = message.get("text") or ""
        if text.startswith(_BYE):
            self._bye = json.loads(text)
            if self._is_begun:
                await self._write(_frame("bye", text, self._bye["after_ms"]))
        elif self._is_poll:
            # Its body is one event: there is no place for other messages.
            if "event" in message:
                self._polled.append(message)
        else:
            if not self._is_begun:
                await self._begin(200, [*self._own_headers, _EVENTS])
            await self._write(_frame(message.get("event", ""), text))

    async def _refuse(self, reason: str) -> None:
        """Answer a request whose connection ends before its response begins."""
        advice = close_codes.get_close_reason(self._code)
        status = find_status(self._code)
        error = {
            "code": reason or advice.reason,
            "message": f"The connection was closed: {reason or advice.reason}.",
            "close_code": self._code,
        }
        headers = [_JSON]
        if status in (429, 503):
            after_ms = self._bye.get("after_ms") or advice.bye()["after_ms"] or 0
            headers.append((b"retry-after", str(max(1, after_ms // 1000)).encode()))
        await self._begin(status, headers)
        await self._write(json.dumps({"error": error}).encode(), is_last=True)

    async def _complete(self) -> None:
        """Send what is left of the response."""
        if self._polled and not self._is_begun:
            body = "".join(
                one["text"] for one in self._polled if one.get("event") == "data"
            )
            headers = [pair for one in self._polled for pair in one.get("headers", ())]
            await self._begin(
                200 if body else 204,
                [*self._own_headers, *headers, *([_JSON] if body else [])],
            )
            await self._write(body.encode(), is_last=True)
        elif not self._is_begun:
            await self._refuse("")
        elif not self._is_whole:
            await self._write(b"", is_last=True)

    async def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._is_begun = True
        start = {"type": "http.response.start", "status": status}
        await self._send({**start, "headers": [*headers, *_HEADERS]})

    async def _write(self, body: bytes, *, is_last: bool = False) -> None:
        self._is_whole = self._is_whole or is_last
        self._is_writing = True
        try:
            await self._send(
                {"type": "http.response.body", "body": body, "more_body": not is_last}
            )
        finally:
            self._is_writing = False


def find_status(code: int) -> int:
    """Return the status of a request whose connection ends before its response."""
    advice = close_codes.get_close_reason(code)
    return _STATUSES.get(code) or _ADVISED.get(advice.reconnect, 503)


def _find_carrier(scope: Message) -> str | None:
    """Return the transport that a request asks for, or None if it asks for none."""
    query: bytes = scope.get("query_string", b"")
    if scope["type"] != "http" or scope["method"] != "GET" or b"live=" not in query:
        return None
    values = parse_qs(query.decode("latin-1")).get("live", [])
    return _CARRIERS.get(values[0]) if len(values) == 1 else None


def _with_own_origin(scope: Message) -> list[tuple[bytes, bytes]]:
    """
    Return the headers with the Origin of a page that reads from its own site.

    Browsers send none with such a request. They name requests of other sites in
    Sec-Fetch-Site, or add their Origin.
    """
    headers = list(scope["headers"])
    names = dict(headers)
    site = names.get(b"sec-fetch-site", b"same-origin")
    if b"cookie" in names and b"origin" not in names and site == b"same-origin":
        source = find_scope_source(scope)
        scheme = "https" if source.is_secure else "http"
        headers.append((b"origin", f"{scheme}://{source.host}".encode("latin-1")))
    return headers


def _frame(event: str, text: str, retry_ms: int | None = None) -> bytes:
    """Return an event of SSE, with a field for each line of its text."""
    lines = [f"event: {event}"] if event else []
    lines += [f"data: {line}" for line in _LINE_BREAK.split(text)]
    if retry_ms is not None:
        lines.append(f"retry: {retry_ms}")
    return "\n".join([*lines, "", ""]).encode()
