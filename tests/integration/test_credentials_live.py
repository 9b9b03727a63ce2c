"""Test rotating keys, tickets, expiry and scopes on live processes."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from connections.testing import LiveServer, Servers, assert_closed, wait_until
from connections.testing.waiting import scale
from tests.connections.jwt_provider import (
    AUDIENCE,
    ISSUER,
    SECRET,
    SigningKey,
    encode_part,
    make_claims,
)
from tests.integration.identity_provider import IdentityProvider

CONSUMERS = "tests.integration.consumers:application"
QUICK = {"node__beat_seconds": 0.1}
ISSUED = {"jwt__issuer": ISSUER, "jwt__audience": AUDIENCE}


def open_socket(
    server: LiveServer, path: str, token: str | None = None, **options: Any
) -> connect:
    return server.connect(path, token, open_timeout=scale(30), **options)


async def is_let_in(server: LiveServer, path: str, **options: Any) -> bool:
    """Return True if the consumer answers, and False if the close code is 4001."""
    connection = await open_socket(server, path, **options)
    try:
        await connection.send("ping")
        async with asyncio.timeout(scale(30)):
            assert await connection.recv() == "ping"
    except ConnectionClosed:
        assert connection.close_code == 4001
        return False
    await connection.close()
    return True


async def receive(connection: ClientConnection, kind: str) -> Any:
    """Return the next message of a type."""
    async with asyncio.timeout(scale(30)):
        while True:
            content = json.loads(await connection.recv())
            if content["type"] == kind:
                return content


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    running = IdentityProvider().start()
    yield running
    running.stop()


@pytest.mark.parametrize("command", ["serve", "uvicorn"])
async def test_the_keys_of_a_provider_rotate(
    servers: Servers, provider: IdentityProvider, command: str
) -> None:
    old, new = SigningKey("RS256", "2026-a"), SigningKey("EdDSA", "2026-b")
    provider.keys = (old,)
    rotation = {
        "jwt__jwks_url": provider.url,
        "jwt__refresh_seconds": 1,
        "jwt__refetch_seconds": 0.1,
    }
    server = servers.start(command=command, config={**QUICK, **ISSUED, **rotation})

    async def takes(token: str) -> bool:
        return await is_let_in(server, "/ws/echo/", token=token)

    assert await takes(old.sign())
    assert not await takes(new.sign())
    assert not await takes(confuse(old))
    provider.keys = (old, new)
    assert await wait_until(lambda: takes(new.sign()))
    assert await takes(old.sign())
    provider.keys = (new,)

    async def is_gone() -> bool:
        return not await takes(old.sign())

    assert await wait_until(is_gone)
    provider.is_away = True
    before = provider.count
    await wait_until(lambda: provider.count > before)
    assert await takes(new.sign())
    # The provider counts a request before its answer is read.
    await wait_until(lambda: "The keys for JWTs could not be read" in server.log())
    assert old.sign().split(".")[0] not in server.log()


def confuse(key: SigningKey) -> str:
    """Return a token signed by HMAC with the public key as its secret."""
    pem = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    signed = f"{encode_part(header)}.{encode_part(make_claims())}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode_part(mac)}"


async def test_the_provider_is_not_asked_for_every_handshake(
    servers: Servers, provider: IdentityProvider
) -> None:
    key = SigningKey("ES256", "k")
    provider.keys = (key,)
    # The five strangers come within this time.
    rare = {"jwt__refetch_seconds": 3600, "jwt__refresh_seconds": 3600}
    server = servers.start(
        config={**QUICK, **ISSUED, **rare, "jwt__jwks_url": provider.url},
    )
    results = await asyncio.gather(
        *(is_let_in(server, "/ws/echo/", token=key.sign(sub=f"c{n}")) for n in range(9))
    )
    assert all(results)
    stranger = SigningKey("ES256", "stranger")
    for number in range(5):
        token = stranger.sign(headers={"kid": f"made-up-{number}"})
        assert not await is_let_in(server, "/ws/echo/", token=token)
    assert provider.count <= 2


def test_nothing_serves_on_jwts_configured_wrongly(servers: Servers) -> None:
    server = servers.start(
        config={"jwt__jwks_url": "http://id.example.com/jwks"},
        environment={"JWT_SECRET": ""},
        is_ready=False,
    )
    assert server.wait() != 0
    assert "websocket.jwt.issuer" in server.log()
    assert "websocket.jwt.jwks_url" in server.log()


def fetch_ticket(server: LiveServer, token: str, origin: str | None = None) -> str:
    """Ask for a ticket over HTTP."""
    headers = {"Authorization": f"Bearer {token}"}
    if origin:
        headers["Origin"] = origin
    request = urllib.request.Request(
        f"{server.url}/api/tickets/", method="POST", headers=headers
    )
    with urllib.request.urlopen(request, timeout=scale(30)) as response:
        ticket: str = json.load(response)["ticket"]
        return ticket


async def test_a_ticket_raced_on_two_processes_is_redeemed_once(
    servers: Servers,
) -> None:
    """Of twenty concurrent handshakes on two nodes, one is accepted."""
    # The failed handshakes must not lock the address out here.
    lenient = {"handshake__failures_per_address_burst": 1000}
    config = {**QUICK, **lenient, "allow_unshared_limits": "true"}
    first, second = servers.start_pair(config=config, second={"command": "uvicorn"})
    token = first.create_token()
    for _ in range(3):
        ticket = await asyncio.to_thread(fetch_ticket, first, token)
        tries = [
            is_let_in(server, f"/ws/echo/?ticket={ticket}")
            for server in (first, second) * 10
        ]
        assert sum(await asyncio.gather(*tries)) == 1
        assert ticket not in first.log()
    assert "Traceback" not in first.log() + second.log()


async def test_a_ticket_is_for_the_page_that_asked(servers: Servers) -> None:
    page, other = "https://app.example.com", "https://other.example.com"
    server = servers.start(
        config={**QUICK, "allowed_origins": f"[{page!r}, {other!r}]"}
    )
    token = server.create_token()
    for origin, is_good in ((page, True), (other, False)):
        ticket = await asyncio.to_thread(fetch_ticket, server, token, page)
        path = f"/ws/echo/?ticket={ticket}"
        assert await is_let_in(server, path, origin=origin) is is_good
        assert not await is_let_in(server, path, origin=page)


@pytest.mark.parametrize("command", ["daphne", "uvicorn"])
async def test_a_credential_expires_under_the_socket_or_is_refreshed(
    servers: Servers, tmp_path: Path, command: str
) -> None:
    # A client has this time to refresh on a slow machine.
    grace_seconds = scale(3)
    server = servers.start(
        command=command,
        application=CONSUMERS,
        environment={"SEEN": str(tmp_path / "seen"), "JWT_SECRET": SECRET},
        config={
            **QUICK,
            **ISSUED,
            "jwt__leeway_seconds": 60,
            "expiry__warning_seconds": 3,
            "expiry__grace_seconds": grace_seconds,
        },
    )
    key = SigningKey("HS256", "")
    ends_at = int(time.time()) + 5
    refreshing, silent = [
        await open_socket(server, "/json/", key.sign(exp=ends_at)) for _ in range(2)
    ]
    for connection in (refreshing, silent):
        warning = await receive(connection, "expiring")
        assert warning["after_ms"] <= (3 + grace_seconds) * 1000
    later = ends_at + 3600
    mallory = key.sign(sub="mallory", exp=later)
    await refreshing.send(json.dumps({"type": "refresh", "token": mallory}))
    assert (await receive(refreshing, "error"))["message"].startswith("refused")
    await refreshing.send(json.dumps({"type": "refresh", "token": key.sign(exp=later)}))
    assert (await receive(refreshing, "refreshed"))["expires_at"].endswith("Z")
    bye = await receive(silent, "bye")
    assert (bye["code"], bye["reconnect"]) == (4100, "new_token")
    await assert_closed(silent, 4100)
    assert time.time() >= ends_at + grace_seconds
    await refreshing.send(json.dumps({"type": "echo"}))
    assert await receive(refreshing, "echo")
    await refreshing.close()


async def test_a_token_is_held_to_its_scopes_and_its_use_is_noted(
    servers: Servers,
) -> None:
    server = servers.start(config=QUICK)
    here = server.create_token("alice", "--scope", "/ws/echo")
    elsewhere = server.create_token("bob", "--scope", "ws/other/")
    assert await is_let_in(server, "/ws/echo/", token=here)
    await assert_closed(await open_socket(server, "/ws/echo/", elsewhere), 4003)

    def used() -> list[tuple[str]]:
        path = server.folder / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as database:
            return database.execute(
                "select client_id from connections_accesstoken"
                " where last_used_at is not null order by 1"
            ).fetchall()

    await wait_until(lambda: ("alice",) in used())
