"""Test long HTTP transfers, and the memory that they take, on a live server."""

import asyncio
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from connections.testing import LiveServer, RawClient, Servers, free_port
from connections.testing.waiting import scale
from tests.integration.seen import read_seen

RAW = "tests.integration.applications:application"

GROWTH_KIB = 30_000
PART_BYTES = 1_000_000
LARGE_BYTES = 20_000_000
"""The size of /large."""


@pytest.fixture(scope="module")
def server(shared_servers: Servers) -> Iterator[LiveServer]:
    """A server whose buffers are smaller than the transfers."""
    yield shared_servers.start(
        command="daphne",
        application=RAW,
        config={
            "handshake__max_body_size": "100MB",
            "buffers__max_total_bytes": "20MB",
        },
    )


async def get(server: LiveServer, path: str, *headers: str) -> RawClient:
    client = await RawClient.connect(server.port, receive_bytes=65_536)
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
    await client.send("\r\n".join(lines).encode())
    return client


async def test_a_slow_download_outlasts_every_old_deadline(server: LiveServer) -> None:
    """40 MB at 2.3 MB/s with `Connection: close` used to be reset after 16 s."""
    client = await get(server, "/stream", "Connection: close")
    loop = asyncio.get_running_loop()
    began, received, end = loop.time(), 0, b""
    while piece := await client.read_some(65_536):
        received += len(piece)
        end = (end + piece)[-20:]
        ahead_seconds = received / 2_300_000 - (loop.time() - began)
        await asyncio.sleep(max(0, ahead_seconds))
    assert received > 640 * 65_536
    assert end.endswith(b"end\r\n0\r\n\r\n")


async def test_a_client_that_half_closes_gets_its_response(
    server: LiveServer,
) -> None:
    client = await get(server, "/stream", "Connection: close")
    received, end = len(await client.read_some(65_536)), b""
    client.finish_sending()
    while piece := await client.read_some(65_536):
        received += len(piece)
        end = (end + piece)[-20:]
        await asyncio.sleep(0.001)
    assert received > 640 * 65_536
    assert end.endswith(b"end\r\n0\r\n\r\n")


async def test_a_response_that_nobody_reads_takes_no_memory(
    server: LiveServer,
) -> None:
    """It used to grow by 26 MB a second."""
    before = server.rss_kib()
    clients = [await get(server, "/endless") for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0.1)
        assert server.rss_kib() - before < GROWTH_KIB
    for client in clients:
        client.reset()


async def test_a_response_over_tls_waits_for_its_client_too(
    servers: Servers, certificate: tuple[Path, Path]
) -> None:
    port, (chain, key) = free_port(), certificate
    endpoint = f"ssl:{port}:privateKey={key}:certKey={chain}:interface=127.0.0.1"
    server = servers.start(
        command="daphne", application=RAW, arguments=("-e", endpoint)
    )
    context = ssl.create_default_context(cafile=str(chain))
    before = server.rss_kib()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, limit=65_536
    )
    writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    for _ in range(10):
        await asyncio.sleep(0.1)
        assert server.rss_kib() - before < GROWTH_KIB
    received, end = 0, b""
    while piece := await reader.read(65_536):
        received += len(piece)
        end = (end + piece)[-20:]
    assert received > 640 * 65_536
    assert end.endswith(b"end\r\n0\r\n\r\n")
    writer.close()


async def test_uploads_larger_than_the_buffers_are_taken(server: LiveServer) -> None:
    """They used to fill the buffers, and the largest got 503."""
    before = server.rss_kib()
    highest = before
    clients = [await RawClient.connect(server.port) for _ in range(4)]
    for client in clients:
        length = 40 * PART_BYTES
        head = f"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        await client.send(head.encode())
    for _ in range(40):
        for client in clients:
            await client.send(bytes(PART_BYTES))
        highest = max(highest, server.rss_kib())
    for client in clients:
        assert (await client.read_response())[0] == 200
    highest = max(highest, server.rss_kib())
    assert (await read_seen(server)).count(f"body {40 * PART_BYTES}") == 4
    assert highest - before < GROWTH_KIB


async def test_a_response_ends_within_the_grace_of_a_drain(servers: Servers) -> None:
    """The application has sent all of it at once, and the client still reads."""
    server = servers.start(
        command="daphne", application=RAW, config={"drain__grace_seconds": scale(20)}
    )
    client = await get(server, "/large")
    received = len(await client.read_some(65_536))
    server.signal(signal.SIGTERM)
    while piece := await client.read_some(65_536):
        received += len(piece)
        await asyncio.sleep(0.003)
    assert received > LARGE_BYTES
    assert await asyncio.to_thread(server.wait) == 0
