"""
Plant secrets in every place a client controls, then search everything stored.

The log is at its most talkative, and handlers raise what they know.
"""

import asyncio
import contextlib
import json
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.access_changes import AccessChangeProcess

APPLICATION = "tests.integration.consumers:application"
MOST_PAGES = 150

PLANTED = "Xplantedsecret"
"""The prefix of every planted secret; a unique name follows."""

MALFORMED = (
    b"GET /leaky/?ticket=XplantedsecretBareQuery HTTP/1.1\r\nHost: %h\r\n"
    b"Authorization: Bearer XplantedsecretPlainHttp\r\n\r\n",
    b"GET /leaky/?ticket=XplantedsecretVersion HTTP/1.1\r\nHost: %h\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"
    b"Cookie: sessionid=XplantedsecretVersionCookie\r\n\r\n",
    b"GET /leaky/?ticket=XplantedsecretTwoHosts HTTP/1.1\r\nHost: %h\r\nHost: x\r\n"
    b"Authorization: Bearer XplantedsecretTwoHostsHeader\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET /leaky/?\xff\xfe=XplantedsecretNoAscii HTTP/1.1\r\nHost: %h\r\n"
    b"Cookie: \x01sessionid=XplantedsecretControl\r\n\r\n",
    b"GET /leaky/ HTTP/9.9\r\nAuthorization Bearer XplantedsecretNoColon\r\n\r\n",
    b"Authorization: Bearer XplantedsecretNoRequest\r\n\r\n",
    b"GET /leaky/?ticket=XplantedsecretUnfinished HTTP/1.1\r\nCookie: s=Xplanted",
)


def plant(name: str) -> str:
    return f"{PLANTED}{name}"


async def knock(server: LiveServer, path: str, **options: Any) -> None:
    """Open a connection, send one message, and wait for the end."""
    with contextlib.suppress(WebSocketException, OSError):
        async with connect(server.ws_url + path, **options) as connection:
            await connection.send("leak")
            await asyncio.wait_for(connection.recv(), 1)
            await connection.close()


async def send_malformed(server: LiveServer, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data.replace(b"%h", f"127.0.0.1:{server.port}".encode()))
    await writer.drain()
    # Wait until it is answered and logged; unfinished requests have a deadline.
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), scale(3))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def plant_everywhere(server: LiveServer, token: str, key: str) -> None:
    """Send valid and invalid secrets in every place that can hold them."""
    bearer = {"Authorization": f"Bearer {token}"}
    query = f"?ticket={plant('Query')}&q=Xplanted%73ecretEncoded"
    for path in ("/leaky/", "/leaky/connect", "/leaky/foreign", "/nowhere/"):
        cookie = f"sessionid={plant('Cookie')}; other={plant('OtherCookie')}"
        await knock(
            server, path + query, additional_headers={**bearer, "Cookie": cookie}
        )
        await knock(
            server,
            path + query,
            additional_headers={"Cookie": f"sessionid={key}"},
            origin=server.url,
        )
        await knock(server, path, subprotocols=[f"bearer.{token}", "chat"])
    wrong = {"Authorization": f"Bearer {plant('WrongHeader')}"}
    await knock(server, f"/leaky/{query}", additional_headers=wrong)
    await knock(server, "/leaky/", subprotocols=[f"bearer.{plant('Protocol')}", "x"])
    await knock(server, "/leaky/", subprotocols=[f"bearer.{plant('OnlyProtocol')}"])
    cookie = f"sessionid={plant('WrongCookie')}"
    await knock(
        server, "/leaky/", additional_headers={"Cookie": cookie}, origin=server.url
    )
    await knock(
        server,
        f"/leaky/?ticket={plant('Foreign')}",
        additional_headers={**bearer, "Cookie": cookie},
        origin="https://evil.example",
    )
    basic = {"Authorization": f"Basic {plant('Basic')}", "X-Api-Key": "none"}
    await knock(
        server, f"/leaky/?access_token={plant('Token')}", additional_headers=basic
    )
    for data in MALFORMED:
        await send_malformed(server, data)


async def spend_tickets(server: LiveServer, token: str, key: str) -> list[str]:
    """Issue tickets and redeem all but one; return them."""
    csrf = "c" * 32
    cookies = {"Cookie": f"sessionid={key}; csrftoken={csrf}", "X-CSRFToken": csrf}
    bearer = {"Authorization": f"Bearer {token}"}
    tickets = [
        await asyncio.to_thread(get_ticket, server, {**headers, "Origin": server.url})
        for headers in (bearer, cookies, bearer)
    ]
    for ticket in tickets[:2]:
        await knock(server, f"/leaky/?ticket={ticket}", origin=server.url)
    return tickets


def get_ticket(server: LiveServer, headers: dict[str, str]) -> str:
    request = urllib.request.Request(
        f"{server.url}/api/tickets/", headers=headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=scale(20)) as response:
        return str(json.load(response)["ticket"])


def read_pages(server: LiveServer, key: str) -> dict[str, str]:
    """Return the reachable pages of the admin, and the metrics."""
    pages: dict[str, str] = {}
    waiting = ["/admin/", "/metrics", "/readyz"]
    while waiting and len(pages) < MOST_PAGES:
        path = waiting.pop()
        if path in pages:
            continue
        request = urllib.request.Request(
            server.url + path, headers={"Cookie": f"sessionid={key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=scale(20)) as response:
                pages[path] = response.read().decode(errors="replace")
        except urllib.error.HTTPError as exc:
            pages[path] = exc.read().decode(errors="replace")
            exc.close()
        waiting += [
            link.partition("#")[0].replace("&amp;", "&")
            for link in re.findall(r'href="(/admin/[^"]*)"', pages[path])
            if "logout" not in link and "/auth/" not in link
        ]
    return pages


def dump(server: LiveServer) -> Iterator[str]:
    """Yield every row of every table, without the keys of sessions."""
    path = server.folder / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        for line in database.iterdump():
            if not line.startswith('INSERT INTO "django_session"'):
                yield line


@pytest.mark.parametrize("command", ["daphne", "uvicorn"])
async def test_a_planted_secret_is_nowhere(servers: Servers, command: str) -> None:
    server = servers.start(
        command=command,
        application=APPLICATION,
        environment={"DEBUG": "", "LOG_LEVEL": "DEBUG"},
        config={
            "node__beat_seconds": 0.2,
            "max_connections_per_client": 100,
            "handshake__timeout_seconds": scale(1),
            "handshake__failures_per_address_burst": 1000,
        },
        arguments=("--access-log", "-", "-v", "3") if command == "daphne" else (),
    )
    with AccessChangeProcess(server) as process:
        token = process.apply("make_user", "visitor")["result"]
        key = process.apply("log_in", "visitor")["result"]
        staff_key = process.apply("log_in_staff")["result"]
    await plant_everywhere(server, token, key)
    tickets = await spend_tickets(server, token, key)
    recorded = "SELECT count(*) FROM connections_errorevent"
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        await wait_until(lambda: database.execute(recorded).fetchone()[0] >= 2)
    pages = await asyncio.to_thread(read_pages, server, staff_key)
    await asyncio.to_thread(server.terminate)
    places = {
        **pages,
        "the database": "\n".join(dump(server)),
        "the log": server.log(),
    }
    # The search works: errors are recorded and shown, and the log has our lines.
    assert any("/errorevent/" in path for path in pages)
    assert "[redacted]" in places["the database"]
    assert "[redacted]" in places["the log"]
    assert "INFO connections." in places["the log"]
    found = [
        (place, text[max(0, text.index(secret) - 200) : text.index(secret) + 80])
        for secret in (PLANTED, token, key, *tickets)
        for place, text in places.items()
        if secret in text
    ]
    assert found == []
