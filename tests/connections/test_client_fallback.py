"""The fallback of the Python client, before a server of HTTP that follows a script."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from connections.client import RequestFailed, SessionClient, State, with_fallback
from connections.client.connect import OpenSocket, Socket
from connections.testing import FakeClock, wait_until
from connections.testing.waiting import scale
from tests.connections.scripted_server import HELLO

PROTOCOLS = ("orchestra.v2", "orchestra.v1")
Answer = tuple[int, dict[str, str], Any]


class HttpServer:
    """Answers each request as its first part of the path says; it knows no sockets."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.posted: list[dict[str, Any]] = []
        self.handshake: Answer = (404, {}, "a page")
        self.get: Answer = (200, {}, {"items": []})
        self.post: Answer = (200, {}, None)
        self.stream: Answer = (200, {"Transfer-Encoding": "chunked"}, None)
        self.port = 0
        self._streams: list[asyncio.StreamWriter] = []

    async def serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split()
        lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
        headers = {name.lower(): value for name, _, value in lines}
        self.requests.append(f"{method} {target}")
        self.tokens.add(headers.get("authorization"))
        if method == "POST":
            size = int(headers["content-length"])
            self.posted.append(json.loads(await reader.readexactly(size)))
            status, extra, content = self.post
            if status == 200 and content is None:
                content = {"type": "ack", "id": self.posted[-1]["id"], "offset": 1}
        elif target.startswith("/ws/"):
            status, extra, content = self.handshake
        elif "/stream/" in target:
            status, extra, content = self.stream
        else:
            status, extra, content = self.get
        body = b"" if status == 204 else json.dumps(content).encode()
        is_stream = "/stream/" in target and status == 200
        if not is_stream:
            extra = {**extra, "Content-Length": str(len(body))}
        named = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{named}\r\n".encode())
        if is_stream:
            self._streams.append(writer)
            await self.say(HELLO)
        else:
            writer.write(body)
            await writer.drain()
            writer.close()

    async def write(self, data: bytes) -> None:
        """Write bytes on the newest stream as they are."""
        self._streams[-1].write(data)
        await self._streams[-1].drain()

    async def say(self, message: Any, event: str = "message") -> None:
        """Send a message on the newest stream, in chunks of seven bytes."""
        data = f"event: {event}\ndata: {json.dumps(message)}\n\n: quiet\n\n".encode()
        is_chunked = "Transfer-Encoding" in self.stream[1]
        for start in range(0, len(data), 7):
            piece = data[start : start + 7]
            framed = b"%x\r\n%s\r\n" % (len(piece), piece)
            await self.write(framed if is_chunked else piece)

    def cut(self) -> None:
        """End all streams."""
        for writer in self._streams:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    made = HttpServer()
    async with await asyncio.start_server(made.serve_one, "127.0.0.1", 0) as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made
        made.cut()


def make_fallback(server: HttpServer, **options: Any) -> OpenSocket:
    return with_fallback(f"http://127.0.0.1:{server.port}/api/sessions", **options)


async def open_one(
    server: HttpServer, open_socket: OpenSocket, session: str = "new"
) -> Socket:
    url = f"ws://127.0.0.1:{server.port}/ws/sessions/{session}/?offset=3"
    return await open_socket(url, "T", PROTOCOLS)


async def fail(server: HttpServer, open_socket: OpenSocket, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await open_one(server, open_socket)


async def fall_back(server: HttpServer, **options: Any) -> Socket:
    open_socket = make_fallback(server, **options)
    await fail(server, open_socket, 3)
    return await open_one(server, open_socket)


HANDSHAKE = "GET /ws/sessions/new/?offset=3"
ASKED = "GET /api/sessions/?limit=1"


@pytest.mark.parametrize(
    ("session", "asked"), [("new", "?limit=1"), ("s%201", "s%201/?")]
)
async def test_it_falls_back_after_a_failure_between_two_answers(
    server: HttpServer, session: str, asked: str
) -> None:
    open_socket = make_fallback(server)
    await fail(server, open_socket, 2)
    with pytest.raises(ConnectionError):
        await open_one(server, open_socket, session)
    plain = await open_one(server, open_socket, session)
    root = "GET /api/sessions/"
    handshake = f"GET /ws/sessions/{session}/?offset=3"
    stream = f"{root}{session}/stream/?offset=3&live=sse&protocol=orchestra.v2"
    assert server.requests[:2] == [HANDSHAKE] * 2
    asked = f"{root}{asked}"
    assert server.requests[2:] == [asked, handshake, asked, stream]
    assert server.tokens == {"Bearer T"}
    assert json.loads(await plain.recv()) == HELLO
    await plain.close()


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {"Retry-After": "1"}), (429, {}), (503, {"Retry-After": "5"}), (502, {})],
)
async def test_without_a_plain_answer_sockets_are_tried_on(
    server: HttpServer, status: int, headers: dict[str, str]
) -> None:
    server.get = (status, headers, {})
    open_socket = make_fallback(server)
    await fail(server, open_socket, 4)
    assert server.requests.count(HANDSHAKE) == 4
    assert server.requests.count(ASKED) == 2
    assert len(server.requests) == 6


OURS = {"error": {"code": "not_found", "message": "There is no such session."}}


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_error_of_the_server_itself_shows_that_it_is_there(
    server: HttpServer, status: int
) -> None:
    """A new session is not found before its first entry."""
    server.get = (status, {}, OURS)
    plain = await fall_back(server)
    assert json.loads(await plain.recv()) == HELLO
    await plain.close()


@pytest.mark.parametrize(
    ("status", "headers", "content"),
    [
        (404, {}, "a page"),
        (403, {}, {}),
        (401, {}, {"error": "no"}),
        (404, {}, {"error": {"message": "no"}}),
        (500, {}, OURS),
        (404, {"Retry-After": "1"}, OURS),
    ],
)
async def test_an_error_of_a_proxy_does_not(
    server: HttpServer, status: int, headers: dict[str, str], content: Any
) -> None:
    server.handshake = (status, {}, content)
    server.get = (status, headers, content)
    open_socket = make_fallback(server)
    await fail(server, open_socket, 5)
    assert server.requests.count(HANDSHAKE) == 5


async def test_an_expired_token_is_replaced_after_a_fallback(
    server: HttpServer,
) -> None:
    error = {"code": "token_expired", "message": "", "close_code": 4100}
    server.get = server.stream = (401, {}, {"error": error})
    asked: list[bool] = []

    def get_token(is_expired: bool) -> str:
        asked.append(is_expired)
        if is_expired:
            server.stream = (200, {}, None)
        return f"T{len(asked)}"

    client = SessionClient(
        f"ws://127.0.0.1:{server.port}/ws/sessions/",
        get_token=get_token,
        sleep=lambda seconds: asyncio.sleep(seconds if seconds > 60 else 0),
        open_socket=make_fallback(server),
    )
    async with client:
        await wait_until(lambda: client.state is State.OPEN)
    assert asked == [False] * 4 + [True]


async def test_a_server_that_restarted_gets_a_socket(server: HttpServer) -> None:
    async def stay(socket: ServerConnection) -> None:
        await socket.wait_closed()

    open_socket = make_fallback(server)
    await fail(server, open_socket, 2)
    async with serve(stay, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/ws/sessions/new/"
        await (await open_socket(url, "T", ())).close()
    # What failed before counts no more.
    await fail(server, open_socket, 3)
    assert server.requests == [
        *[HANDSHAKE] * 2,
        ASKED,
        *[HANDSHAKE] * 2,
        ASKED,
        HANDSHAKE,
    ]


async def test_a_server_that_went_away_again_is_asked_twice_anew(
    server: HttpServer,
) -> None:
    open_socket = make_fallback(server)
    await fail(server, open_socket, 3)
    server.get = (502, {}, "a page")
    await fail(server, open_socket, 1)
    server.get = (200, {}, {"items": []})
    await fail(server, open_socket, 1)
    await (await open_one(server, open_socket)).close()
    assert server.requests.count(HANDSHAKE) == 5


@pytest.mark.parametrize("status", [429, 503, 504])
async def test_a_busy_server_is_no_broken_proxy(
    server: HttpServer, status: int
) -> None:
    server.handshake = (status, {"Retry-After": "1"}, {})
    open_socket = make_fallback(server)
    for _ in range(4):
        with pytest.raises(InvalidStatus):
            await open_one(server, open_socket)
    assert server.requests == [HANDSHAKE] * 4


async def test_a_proxy_that_waits_in_vain_for_a_handshake_breaks_sockets(
    server: HttpServer,
) -> None:
    server.handshake = (504, {}, {})
    await (await fall_back(server)).close()


@pytest.mark.parametrize("code", [4103, 4200])
async def test_a_socket_that_is_closed_again_has_not_failed(
    server: HttpServer, code: int
) -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.close(code)

    open_socket = make_fallback(server)
    await fail(server, open_socket, 1)
    async with serve(close, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        for _ in range(4):
            url = f"ws://127.0.0.1:{port}/ws/sessions/new/"
            socket = await open_socket(url, "T", ())
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
            assert socket.close_code == code
    await fail(server, open_socket, 2)
    assert server.requests == [HANDSHAKE] * 3


async def test_a_connection_for_many_sessions_has_no_plain_form(
    server: HttpServer,
) -> None:
    """Whether the server is there, the list of sessions says."""
    open_socket = make_fallback(server)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await open_one(server, open_socket, "many")
    for _ in range(2):
        with pytest.raises(InvalidStatus) as raised:
            await open_one(server, open_socket, "many")
        assert raised.value.response.status_code == 404
    many = "GET /ws/sessions/many/?offset=3"
    assert server.requests[2:] == [ASKED, many, ASKED]
    await (await open_one(server, open_socket, "s1")).close()


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 300), (0.5, 450), (1.0, 600)])
async def test_a_socket_is_tried_again_after_five_to_ten_minutes(
    server: HttpServer, random: float, seconds: float
) -> None:
    clock = FakeClock()
    open_socket = make_fallback(server, rng=lambda: random, clock=clock)
    await fail(server, open_socket, 3)
    await (await open_one(server, open_socket)).close()
    clock.advance(seconds - 1)
    await (await open_one(server, open_socket)).close()
    assert server.requests.count(HANDSHAKE) == 3
    clock.advance(1)
    await fail(server, open_socket, 3)
    assert server.requests.count(HANDSHAKE) == 6
    await (await open_one(server, open_socket)).close()


async def test_the_response_ends_when_a_socket_is_due(server: HttpServer) -> None:
    clock = FakeClock()
    open_socket = make_fallback(server, rng=lambda: 0, clock=clock)
    await fail(server, open_socket, 3)
    await (await open_one(server, open_socket)).close()
    clock.advance(299.99)
    plain = await open_one(server, open_socket)
    async with asyncio.timeout(scale(10)):
        with pytest.raises(ConnectionClosedError):
            while True:
                await plain.recv()
    assert plain.close_code == 4202


@pytest.mark.parametrize("headers", [{"Transfer-Encoding": "chunked"}, {}])
async def test_a_client_talks_over_plain_http(
    server: HttpServer, headers: dict[str, str]
) -> None:
    """A body comes in chunks, or until its end from a proxy of HTTP/1.0."""
    server.stream = (200, headers, None)

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(seconds if seconds > 60 else 0)

    client = SessionClient(
        f"ws://127.0.0.1:{server.port}/ws/sessions/",
        token="T",
        sleep=sleep,
        open_socket=make_fallback(server),
    )
    async with client:
        async with asyncio.timeout(scale(20)):
            assert (await client.request({"text": "one"})).offset == 1
        assert "POST /api/sessions/s1/messages/" in server.requests
        error = {"code": "unavailable", "message": "later"}
        server.post = (503, {"Retry-After": "17"}, {"error": error})
        asking = asyncio.create_task(client.request({"text": "two"}))
        await wait_until(lambda: len(server.posted) >= 3)
        server.post = (200, {}, None)
        async with asyncio.timeout(scale(20)):
            await asking
        assert len({one["id"] for one in server.posted}) == 2
        assert 17 in slept
        error = {"code": "invalid_message", "message": "no"}
        server.post = (400, {}, {"error": error})
        with pytest.raises(RequestFailed, match="invalid_message: no"):
            await client.request({"text": "three"})
        server.post = (204, {}, None)
        await client.cancel(7)
        await wait_until(lambda: server.posted[-1]["type"] == "cancel")
        bye = {"type": "bye", "code": 4003, "reason": "kicked", "after_ms": None}
        await server.say(bye, "bye")
        server.cut()
        await wait_until(lambda: client.state is State.CLOSED)
        assert client.ended is not None
        assert (client.ended.code, client.ended.reason) == (4003, "kicked")


async def test_a_client_types_over_plain_http(server: HttpServer) -> None:
    """A server of an older release refuses it, which nobody notices."""
    plain = await fall_back(server)
    assert json.loads(await plain.recv()) == HELLO
    error = {"code": "invalid_message", "message": "type is none of message"}
    answers: list[Answer] = [(204, {}, None), (400, {}, {"error": error})]
    for server.post in answers:
        await plain.send(json.dumps({"type": "typing", "active": True}))
        own = {"connection": HELLO["connection"]}
        assert server.posted[-1] == {"type": "typing", "active": True, **own}
    await plain.send(json.dumps({"type": "ping", "t": 5}))
    assert json.loads(await plain.recv())["type"] == "pong"
    await plain.close()


async def test_a_refusal_has_its_close_code(server: HttpServer) -> None:
    server.stream = (401, {}, {"error": {"code": "x", "close_code": 4100}})
    plain = await fall_back(server)
    with pytest.raises(ConnectionClosedError):
        await plain.recv()
    assert plain.close_code == 4100
    server.stream = (503, {"Retry-After": "3"}, {"error": {"close_code": 4103}})
    with pytest.raises(InvalidStatus) as raised:
        await fall_back(server)
    assert raised.value.response.headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("message", "event"),
    [(5, ""), ([], ""), ({"type": "hello"}, ""), ({}, "bye"), ([], "bye")],
)
async def test_text_that_is_not_ours_ends_the_response(
    server: HttpServer, message: Any, event: str
) -> None:
    plain = await fall_back(server)
    assert json.loads(await plain.recv()) == HELLO
    await server.say(message, event)
    async with asyncio.timeout(scale(10)):
        with pytest.raises(ConnectionClosedError):
            await plain.recv()
    assert plain.close_code == 1006


async def test_a_chunk_without_an_end_of_its_size_ends_the_response(
    server: HttpServer,
) -> None:
    plain = await fall_back(server)
    assert json.loads(await plain.recv()) == HELLO
    await server.write(b"0" * 100_000)
    async with asyncio.timeout(scale(10)):
        with pytest.raises(ConnectionClosedError):
            await plain.recv()
    assert plain.close_code == 1006


def test_a_url_without_http_is_refused() -> None:
    with pytest.raises(ValueError, match="http://host/path or https://host/path"):
        with_fallback("ws://host/api/sessions/")
