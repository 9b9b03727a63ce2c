"""Test the bounds on HTTP requests that a node serves at once."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.urls import include, path

from connections.asgi import Message, Receive, Send
from connections.config.loader import WebSocketConfig
from connections.config.sections import HttpConfig
from connections.server.request_limits import RequestLimits
from connections.testing import FakeClock
from tests.connections.http_channel import Peer
from tests.logged import find_records

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


class Waiting:
    """Answers when the test says so, and ends when it says so."""

    def __init__(self) -> None:
        self.is_to_answer = asyncio.Event()
        self.is_to_end = asyncio.Event()
        self.is_to_end.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await self.is_to_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await self.is_to_end.wait()


@pytest.fixture(autouse=True)
def configuration(settings: Any) -> Any:
    settings.WEBSOCKET = {"http": {"max_requests": 3, "max_requests_per_address": 2}}
    return settings


async def ask(peer: Peer, *headers: bytes) -> int | None:
    """Send a request; return the status, or None while it waits for its answer."""
    await peer.send(GET, *headers, b"\r\n")
    answer = await peer.read()
    return int(answer.split()[1]) if answer else None


class Crowd:
    """Clients of one server, each with a connection of its own."""

    def __init__(self, stack: AsyncExitStack, application: Waiting) -> None:
        self._stack = stack
        self._application = application
        self._first: Peer | None = None

    async def connect(self, address: str = "192.0.2.1") -> Peer:
        peer = Peer(self._application, beside=self._first, address=address)
        self._first = self._first or peer
        return await self._stack.enter_async_context(peer)

    async def ask(self, address: str, *headers: bytes) -> int | None:
        return await ask(await self.connect(address), *headers)


async def test_requests_in_all_are_bounded() -> None:
    application = Waiting()
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, application)
        for number in range(3):
            assert await crowd.ask(f"192.0.2.{number}") is None
        last = await crowd.connect("192.0.2.9")
        await last.send(GET, b"\r\n")
        answer = await last.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 5\r\n" in answer
        application.is_to_answer.set()
        await last.settle()
        assert await crowd.ask("192.0.2.9") == 200


@pytest.mark.parametrize(
    ("addresses", "other"),
    [
        (["192.0.2.1"] * 3, "192.0.2.2"),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], "2001:db8:0:1::1"),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], "192.0.2.2"),
    ],
)
async def test_requests_of_one_address_are_bounded(
    addresses: list[str], other: str
) -> None:
    application = Waiting()
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, application)
        for address in addresses[:2]:
            assert await crowd.ask(address) is None
        refused = await crowd.connect(addresses[2])
        await refused.send(GET, b"\r\n")
        answer = await refused.read()
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"Retry-After: 1\r\n" in answer
        assert await crowd.ask(other) is None


async def test_a_request_counts_until_its_application_has_ended() -> None:
    """A client that leaves frees no thread."""
    application = Waiting()
    application.is_to_end.clear()
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, application)
        for _ in range(2):
            peer = await crowd.connect()
            assert await ask(peer) is None
            await peer.leave()
        assert await crowd.ask("192.0.2.1") == 429
        application.is_to_answer.set()
        await peer.settle()
        assert await crowd.ask("192.0.2.1") == 429
        application.is_to_end.set()
        await peer.settle()
        assert await crowd.ask("192.0.2.1") == 200


async def test_an_upload_counts_when_it_is_complete() -> None:
    """Slow uploads must not keep others out."""
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, Waiting())
        uploads = [await crowd.connect() for _ in range(3)]
        for upload in uploads:
            await upload.send(post, b"x")
        assert await crowd.ask("192.0.2.1") is None
        statuses = [b"", b"HTTP/1.1 429", b"HTTP/1.1 429"]
        for upload, status in zip(uploads, statuses, strict=True):
            await upload.send(b"y")
            assert (await upload.read())[:12] == status
        late = await crowd.connect()
        await late.send(post[:-2], b"Expect: 100-continue\r\n\r\n")
        assert (await late.read()).startswith(b"HTTP/1.1 429")


@pytest.mark.parametrize("target", [b"/ops/livez", b"http://one.example/ops/livez"])
async def test_probes_are_answered_beyond_the_bounds(
    configuration: Any, target: bytes
) -> None:
    configuration.ROOT_URLCONF = (path("ops/", include("connections.urls")),)
    application = Waiting()
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, application)
        for _ in range(2):
            assert await crowd.ask("192.0.2.1") is None
        probe = await crowd.connect()
        await probe.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert await probe.read() == b"", "this application answers when told"
        application.is_to_answer.set()
        assert (await probe.read()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("address", "header"),
    [
        ("192.0.2.1", b"X-Forwarded-For: 203.0.113.9\r\n"),
        ("192.0.2.1", b"X-Real-IP: 203.0.113.9\r\n"),
        ("192.0.2.1", b"Via: 1.1 proxy\r\n"),
        ("10.0.0.1", b""),
        ("10.0.0.1", b"X-Forwarded-For: 10.0.0.2\r\n"),
    ],
)
async def test_clients_of_unknown_addresses_are_bounded_in_all(
    configuration: Any,
    caplog: pytest.LogCaptureFixture,
    address: str,
    header: bytes,
) -> None:
    """Clients of an untrusted proxy, or of one that names no client, share one."""
    configuration.WEBSOCKET["trusted_proxies"] = ["10.0.0.0/8"]
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, Waiting())
        for _ in range(3):
            assert await crowd.ask(address, header) is None
        assert await crowd.ask(address, header) == 503
    said = [one for one in caplog.messages if "max_requests_per_address" in one]
    assert len(said) == 1
    assert address in said[0]


async def test_clients_of_a_trusted_proxy_have_their_own_bound(
    configuration: Any,
) -> None:
    configuration.WEBSOCKET["trusted_proxies"] = ["10.0.0.0/8"]
    header = b"X-Forwarded-For: 203.0.113.9\r\n"
    async with AsyncExitStack() as stack:
        crowd = Crowd(stack, Waiting())
        for number in range(2):
            assert await crowd.ask(f"10.0.0.{number}", header) is None
        assert await crowd.ask("10.0.0.3", header) == 429
        assert await crowd.ask("10.0.0.3", header.replace(b"9", b"8")) is None


def test_a_peer_without_an_address_has_no_bound_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a Unix socket only a trusted proxy can name the client."""
    limits = RequestLimits(WebSocketConfig(), FakeClock())
    assert limits.find_address(None, []) is None
    assert "a Unix socket" in caplog.text
    trusting = WebSocketConfig(trusted_proxies=("127.0.0.1",))
    named = [(b"x-forwarded-for", b"203.0.113.9")]
    assert RequestLimits(trusting, FakeClock()).find_address(None, named) == (
        "203.0.113.9"
    )


def test_refusals_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = FakeClock()
    limits = RequestLimits(WebSocketConfig(http=HttpConfig(max_requests=1)), clock)
    assert limits.begin(object(), None) is None
    for _ in range(3):
        limits.check(None)
    clock.advance(11)
    limits.check(None)
    said = find_records(caplog, "connections.server.request_limits")
    assert [one.getMessage().split()[0] for one in said] == ["1", "3"]
