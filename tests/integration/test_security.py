"""Try the attacks of README's security table that no other module covers."""

import asyncio
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from connections.testing import (
    LiveServer,
    Servers,
    read_close,
    wait_until,
)
from connections.testing.waiting import scale
from tests.integration.echo import QUICK, assert_alive, open_echo, read_rows
from tests.project import ProjectServers


async def test_a_token_in_a_url_is_no_credential(
    shared_servers: ProjectServers,
) -> None:
    """Intermediaries log URLs, so a URL may hold only a ticket."""
    server = shared_servers.share(config=QUICK)
    token = server.create_token()
    for name in ("token", "access_token", "bearer", "authorization", "sessionid"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{server.ws_url}/ws/echo/?{name}={token}")
        assert refused.value.response.status_code == 403
        of_page = await connect(
            f"{server.ws_url}/ws/echo/?{name}={token}", origin=Origin(server.url)
        )
        assert await read_close(of_page) == (4001, "unauthenticated")


async def test_a_right_origin_is_no_credential(shared_servers: ProjectServers) -> None:
    """A program can send any Origin (RFC 6455, section 10.1)."""
    server = shared_servers.share(config=QUICK)
    impostor = await connect(f"{server.ws_url}/ws/echo/", origin=Origin(server.url))
    assert await read_close(impostor) == (4001, "unauthenticated")
    cookie = {"Cookie": "sessionid=0123456789abcdef0123456789abcdef"}
    guesser = await connect(
        f"{server.ws_url}/ws/echo/",
        origin=Origin(server.url),
        additional_headers=cookie,
    )
    assert await read_close(guesser) == (4001, "unauthenticated")


async def test_the_session_cookie_is_for_same_sites_and_no_script(
    shared_servers: ProjectServers,
) -> None:
    server = shared_servers.share(config=QUICK)
    create: Any = User.objects.create_superuser
    server.run(create, "root", password="correct horse")
    cookie = await asyncio.to_thread(log_in, server, "root", "correct horse")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def log_in(server: LiveServer, name: str, password: str) -> str:
    """Log in through the admin's page; return the Set-Cookie of the session."""
    http = HTTPConnection("127.0.0.1", server.port, timeout=scale(20))
    http.request("GET", "/admin/login/")
    answer = http.getresponse()
    token = (answer.getheader("Set-Cookie") or "").split("csrftoken=")[1].split(";")[0]
    answer.read()
    fields = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    headers = {
        "Cookie": f"csrftoken={token}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    http.request("POST", "/admin/login/", urlencode(fields), headers)
    cookies = http.getresponse().headers.get_all("Set-Cookie") or []
    http.close()
    return next(one for one in cookies if one.startswith("sessionid="))


async def test_what_concerns_security_is_logged(servers: Servers) -> None:
    """The log has refusals with reasons and admissions with expiry, but no secret."""
    config = {**QUICK, "handshake__failures_per_address_burst": 1}
    server = servers.start(config=config)
    token = server.create_token()
    with pytest.raises(InvalidStatus):
        await open_echo(server, token, origin="https://evil.example")
    with pytest.raises(InvalidStatus):
        await server.connect("/ws/echo/")
    assert await read_close(await open_echo(server, "guess")) == (
        4001,
        "unauthenticated",
    )
    assert (await read_close(await open_echo(server, "again")))[0] == 4129
    for line in (
        "A handshake for /ws/echo/ was refused: foreign host or origin; from 127.0.0.1",
        "origin 'https://evil.example'",
        "A handshake for /ws/echo/ was refused: no Origin and no credential; from",
        "A handshake for /ws/echo/ was refused: unauthenticated; from 127.0.0.1",
        "Too many wrong credentials from 127.0.0.1",
    ):
        await wait_until(lambda line=line: line in server.log())
    other = {"local_addr": ("127.0.0.2", 0)}
    async with open_echo(server, token, **other) as connection:
        await assert_alive(connection)
        kick = ("connections", "kick", "--client", "alice")
        server.manage(*kick, is_checked=False)
        assert await read_close(connection) == (4009, "kicked")
    query = "select address, client_id, reason, close_code from connections_connection"
    expected = [("127.0.0.2", "alice", "kicked", 4009)]
    await wait_until(lambda: read_rows(server, query) == expected)
