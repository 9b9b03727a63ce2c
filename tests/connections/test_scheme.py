"""Test which peers may say that a client uses TLS."""

import asyncio
import io
import logging
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.test import AsyncClient

from connections.access.proxies import SchemeMiddleware
from connections.asgi import Message
from connections.middleware import OriginMiddleware
from connections.node.current import get_node
from tests.logged import find_records

HTTPS = (b"x-forwarded-proto", b"https")
PROXY, STRANGER = "192.0.2.1", "192.0.2.99"


class Application:
    """Keeps the scope of its last call."""

    scope: Message

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scope = scope


@pytest.fixture(autouse=True)
def trusted(settings: Any) -> None:
    settings.WEBSOCKET = {"trusted_proxies": [PROXY]}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    raise AssertionError(message)


async def request(
    *headers: tuple[bytes, bytes],
    peer: str | None = PROXY,
    scheme: str = "http",
    middleware: SchemeMiddleware | None = None,
) -> ASGIRequest:
    """Return the request that Django gets."""
    inner = Application()
    middleware = middleware or SchemeMiddleware(inner)
    middleware.application = inner
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "scheme": scheme,
        "headers": [(b"host", b"chat.example.com"), *headers],
        "client": None if peer is None else [peer, 5000],
        "node": get_node(),
    }
    await middleware(scope, receive, send)
    return ASGIRequest(inner.scope, io.BytesIO())


async def test_a_trusted_proxy_says_whether_the_client_uses_tls() -> None:
    assert (await request(HTTPS)).is_secure()
    assert not (await request()).is_secure()
    assert not (await request((b"x-forwarded-proto", b"http"))).is_secure()


async def test_the_nearest_proxy_counts() -> None:
    """A client may have sent the first value."""
    forged = (b"x-forwarded-proto", b"https, http")
    assert not (await request(forged)).is_secure()
    assert not (await request(HTTPS, (b"x-forwarded-proto", b"http"))).is_secure()


async def test_a_proxy_may_speak_tls_to_the_node_for_a_client_without() -> None:
    plain = (b"x-forwarded-proto", b"http")
    assert not (await request(plain, scheme="https")).is_secure()
    assert (await request(scheme="https")).is_secure()


async def test_a_strangers_claim_is_removed() -> None:
    found = await request(HTTPS, peer=STRANGER)
    assert not found.is_secure()
    assert "X-Forwarded-Proto" not in found.headers


async def test_without_trusted_proxies_every_claim_is_removed(settings: Any) -> None:
    settings.WEBSOCKET = {}
    for peer in (PROXY, "127.0.0.1", None):
        found = await request(HTTPS, peer=peer)
        assert not found.is_secure()
        assert "X-Forwarded-Proto" not in found.headers


async def test_a_local_proxy_on_a_unix_socket_is_trusted() -> None:
    assert (await request(HTTPS, peer=None)).is_secure()


async def test_the_projects_own_header_wins(settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert (await request(HTTPS, peer=STRANGER)).is_secure()
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_SCHEME", "https")
    found = await request(HTTPS, (b"x-scheme", b"http"))
    assert not found.is_secure()
    assert found.headers["X-Forwarded-Proto"] == "https"


async def test_ignored_headers_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    middleware = SchemeMiddleware(Application())
    for _ in range(3):
        await request(HTTPS, peer=STRANGER, middleware=middleware)
    (record,) = find_records(caplog, "connections.access.source_log")
    assert STRANGER in record.getMessage()


async def test_clients_without_an_address_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    middleware = SchemeMiddleware(Application())
    for _ in range(3):
        await request(peer=None, middleware=middleware)
        await request((b"x-forwarded-for", b"192.0.2.7"), peer=None)
    (record,) = find_records(caplog, "connections.access.source_log")
    assert "list unix in trusted_proxies" in record.getMessage()


@pytest.mark.parametrize(
    ("peer", "scheme", "is_kept"), [(PROXY, "wss", True), (STRANGER, "ws", False)]
)
async def test_a_consumer_learns_the_scheme_of_the_client(
    peer: str, scheme: str, is_kept: bool
) -> None:
    inner = Application()
    origin = (b"origin", b"https://localhost")
    scope = {
        "type": "websocket",
        "path": "/",
        "scheme": "ws",
        "headers": [(b"host", b"localhost"), origin, HTTPS],
        "client": [peer, 5000],
        "node": get_node(),
    }
    await OriginMiddleware(inner)(scope, receive, send)
    assert inner.scope["scheme"] == scheme
    assert (HTTPS in inner.scope["headers"]) is is_kept


@pytest.mark.parametrize(
    ("origin", "is_admitted"),
    [(b"https://localhost", True), (b"http://localhost", False)],
)
async def test_the_projects_own_header_counts_for_handshakes_too(
    settings: Any, origin: bytes, is_admitted: bool
) -> None:
    """A page without TLS must not open a connection of a site that has it."""
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_SCHEME", "https")
    inner = Application()
    scope = {
        "type": "websocket",
        "path": "/",
        "scheme": "ws",
        "headers": [
            (b"host", b"localhost"),
            (b"origin", origin),
            (b"x-scheme", b"https"),
        ],
        "client": [STRANGER, 5000],
        "node": get_node(),
    }
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await OriginMiddleware(inner)(scope, receive, keep)
    assert bool(sent) is not is_admitted
    if is_admitted:
        assert inner.scope["scheme"] == "wss"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/sign-in/"])
async def test_a_redirect_to_tls_spares_probes_and_metrics(
    settings: Any, path: str
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    status = (await AsyncClient().get(path)).status_code
    assert status == (301 if path == "/sign-in/" else 200)


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 200), (STRANGER, 403)])
async def test_a_removed_claim_still_shows_that_a_request_was_forwarded(
    peer: str, status: int
) -> None:
    """All clients of an unknown proxy on this host would be allowed as 127.0.0.1."""
    assert await read_status(peer) == status
    assert await read_status(peer, HTTPS) == 403


async def read_status(peer: str, *headers: tuple[bytes, bytes]) -> int:
    """Return the status of /metrics for a peer."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
        "client": [peer, 5000],
        "node": get_node(),
    }
    django: Any = get_asgi_application()
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b""})
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await SchemeMiddleware(django)(scope, incoming.get, keep)
    status: int = sent[0]["status"]
    return status
