"""Test which requests the server refuses before the application runs."""

import asyncio
import contextlib
import subprocess
import time

import pytest
import websockets

from connections.testing import (
    RESET,
    LiveServer,
    RawClient,
    Servers,
    build_request,
    wait_until,
)
from tests.integration.seen import read_seen

RAW = "tests.integration.applications:application"


def start(servers: Servers, **config: object) -> LiveServer:
    return servers.start(command="daphne", application=RAW, config=config)


async def refusal(
    server: LiveServer, source: str | None = None, *headers: str
) -> tuple[int, dict[str, str], bytes]:
    client = await RawClient.connect(server.port, source=source)
    await client.send(build_request("/echo", server.port, *headers))
    return await client.read_response()


async def test_far_over_the_limit_is_503(servers: Servers) -> None:
    """Accepted sockets count; the bound is 50 above the limit, or a tenth."""
    server = start(servers, max_total_connections=10)
    clients = [await RawClient.open(server.port, "/echo") for _ in range(60)]
    status, headers, body = await refusal(server)
    assert (status, headers["retry-after"]) == (503, "5")
    assert b"overloaded" in body
    clients[0].reset()

    async def is_admitted() -> bool:
        return (await refusal(server))[0] == 101

    await wait_until(is_admitted)


async def test_a_full_pool_is_no_503_and_lets_a_client_replace_its_own(
    servers: Servers,
) -> None:
    """Refused and unanswered sockets fill the server meanwhile."""
    server = servers.start(
        config={
            "echo_endpoint": "true",
            "max_total_connections": 3,
            "max_connections_per_client": 2,
            "handshake__timeout_seconds": 5,
        }
    )
    tokens = [server.create_token(name) for name in ("alice", "bob", "eve")]
    url = f"{server.ws_url}/ws/echo/"

    def connect(token: str) -> websockets.connect:
        headers = {"Authorization": f"Bearer {token}"}
        return websockets.connect(url, additional_headers=headers)

    async with connect(tokens[0]) as oldest, connect(tokens[0]), connect(tokens[1]):
        # Eve's connections are accepted only to be closed with the reason.
        refused = [await connect(tokens[2]) for _ in range(60)]
        unfinished = [await RawClient.connect(server.port) for _ in range(60)]
        for client in unfinished:
            await client.send(build_request("/ws/echo/", server.port)[:-2])
        for ws in refused:
            with contextlib.suppress(websockets.ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 4103
        async with connect(tokens[0]) as newest:
            await newest.send("x")
            assert await newest.recv() == "x"
            with pytest.raises(websockets.ConnectionClosed):
                await oldest.recv()
            assert oldest.close_code == 4005


async def test_an_application_that_does_not_answer_is_answered_for(
    servers: Servers,
) -> None:
    """The client gets HTTP 504 at the deadline, and the application a disconnect."""
    server = start(servers, handshake__timeout_seconds=0.5)
    client = await RawClient.connect(server.port)
    await client.send(build_request("/silent", server.port))
    began = time.monotonic()
    status, headers, _ = await client.read_response()
    assert (status, headers["retry-after"]) == (504, "1")
    assert time.monotonic() - began > 0.4
    assert RESET not in await client.read_end()

    async def has_learnt() -> bool:
        return "silent websocket.disconnect 1006" in await read_seen(server)

    await wait_until(has_learnt)


async def test_the_head_of_a_later_request_has_the_deadline_too(
    servers: Servers,
) -> None:
    """The deadline starts with its first byte, not while the connection waits."""
    server = start(servers, handshake__timeout_seconds=0.5)
    kept = await RawClient.connect(server.port)
    await kept.send(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
    assert (await kept.read_response())[0] == 200
    await kept.read_chunked()
    await asyncio.sleep(1)
    await kept.send(b"POST /body HTTP/1.1\r\n")
    began = time.monotonic()
    assert (await kept.read_response())[0] == 408
    assert time.monotonic() - began > 0.4


async def test_handshakes_in_progress_of_one_address_are_bounded(
    servers: Servers,
) -> None:
    server = start(servers, handshake__per_address_pending=5)
    for _ in range(5):
        client = await RawClient.connect(server.port, source="127.0.0.9")
        await client.send(build_request("/silent", server.port))
    await asyncio.sleep(0.1)
    status, headers, body = await refusal(server, "127.0.0.9")
    assert (status, headers["retry-after"]) == (429, "1")
    assert b"pending" in body
    assert (await refusal(server, "127.0.0.10"))[0] == 101


async def test_the_rate_of_one_address_is_bounded(servers: Servers) -> None:
    server = start(
        servers,
        handshake__per_address_per_second=0.1,
        handshake__per_address_burst=3,
    )
    statuses = [(await refusal(server, "127.0.0.9"))[0] for _ in range(4)]
    assert statuses == [101, 101, 101, 429]
    _, headers, _ = await refusal(server, "127.0.0.9")
    assert 1 <= int(headers["retry-after"]) <= 10
    assert (await refusal(server, "127.0.0.10"))[0] == 101


async def test_behind_a_trusted_proxy_the_clients_address_counts(
    servers: Servers,
) -> None:
    server = start(
        servers,
        handshake__per_address_per_second=0.1,
        handshake__per_address_burst=1,
        trusted_proxies="[127.0.0.1]",
    )

    async def ask(forwarded: str, source: str = "127.0.0.1") -> int:
        header = f"X-Forwarded-For: {forwarded}"
        return (await refusal(server, source, header))[0]

    assert await ask("203.0.113.1") == 101
    assert await ask("203.0.113.1") == 429
    assert await ask("203.0.113.2") == 101
    assert await ask("1.2.3.4, 203.0.113.2") == 429, "the left is the client's to forge"
    assert await ask("2001:db8::1") == 101
    assert await ask("2001:db8::2") == 429, "one /64 is one client"
    assert await ask("203.0.113.3", "127.0.0.5") == 101
    assert await ask("203.0.113.4", "127.0.0.5") == 429, (
        "a stranger's header is ignored"
    )


async def test_all_handshakes_in_progress_have_a_bound(servers: Servers) -> None:
    """The oldest handshake is answered and closed; the newest is served."""
    server = start(servers, handshake__max_pending=3, handshake__timeout_seconds=30)
    clients = []
    for index in range(4):
        client = await RawClient.connect(server.port, source=f"127.0.1.{index + 1}")
        await client.send(build_request("/silent", server.port))
        clients.append(client)
    # 408 if its head was still incomplete, 504 if the application has it.
    assert (await clients[0].read_response())[0] in (408, 504)
    assert (await refusal(server))[0] == 101


def test_the_backlog_is_large(servers: Servers) -> None:
    """Both servers set it; the kernel may cap it at net.core.somaxconn."""
    for server in (start(servers), servers.start()):
        listening = subprocess.run(
            ["ss", "-Hltn", f"sport = :{server.port}"], capture_output=True, text=True
        ).stdout.split()
        assert int(listening[2]) >= 1024


async def test_connections_that_wait_for_another_request_are_bounded(
    servers: Servers,
) -> None:
    """The oldest closes, as among those with an incomplete first request."""
    server = start(servers, handshake__per_address_pending=3)
    clients = []
    for _ in range(5):
        client = await RawClient.connect(server.port, source="127.0.0.9")
        await client.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await client.read_response())[0] == 200
        clients.append(client)
    for client in clients[:2]:
        assert RESET not in await client.read_end()
    assert not any(client.is_dropped() for client in clients[2:])


async def test_a_cookie_that_python_is_slow_to_read_is_refused(
    servers: Servers,
) -> None:
    server = start(servers)
    cookie = 'Cookie: a="' + "\\\\" * 101 + '"'
    assert (await refusal(server, None, cookie))[0] == 400
    assert (await refusal(server, None, 'Cookie: a="b\\"c"'))[0] == 101
    some = 'Cookie: a="' + "\\" * 60 + '"'
    assert (await refusal(server, None, some, some))[0] == 400
    assert (await refusal(server, None, some))[0] == 101
    for value in ('"a\\000"', "a\0"):
        assert (await refusal(server, None, f"Cookie: sessionid={value}"))[0] == 400
