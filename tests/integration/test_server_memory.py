"""Test that buffers are bounded in both directions, and measure the memory."""

import asyncio
import contextlib
import re

import pytest
import websockets

from connections.testing import (
    BINARY,
    TEXT,
    DeadPeer,
    LiveServer,
    RawClient,
    Servers,
    SlowClient,
    build_frame,
    wait_until,
)
from connections.testing.waiting import scale
from tests.integration.seen import read_seen

pytestmark = pytest.mark.alone

RAW = "tests.integration.applications:application"
GROWTH_KIB = 20_000


def start(servers: Servers, **config: object) -> LiveServer:
    return servers.start(command="daphne", application=RAW, config=config)


async def wait_seen(server: LiveServer, text: str, seconds: float = 15) -> None:
    async def has_seen() -> bool:
        return text in await read_seen(server)

    await wait_until(has_seen, seconds)


class Peak:
    """The peak memory of a server since the start of the measurement."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._before = server.rss_kib()
        self._most = self._before
        self._task = asyncio.create_task(self._watch())

    async def growth_kib(self) -> int:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self._most - self._before

    async def _watch(self) -> None:
        while True:
            self._most = max(self._most, self._server.rss_kib())
            await asyncio.sleep(0.02)


async def test_a_flood_into_a_fast_consumer_is_all_taken(servers: Servers) -> None:
    """Back-pressure alone does not close the connection."""
    server = start(servers)
    client = await RawClient.open(server.port, "/slow?seconds=0")
    peak = Peak(server)
    for _ in range(50):
        await client.send(build_frame(BINARY, b"x" * 100_000) * 10)
    await client.send(build_frame(8, b"\x03\xe8"))
    await client.read_close(seconds=30)
    await wait_seen(server, "slow 500 1000 None")
    assert await peak.growth_kib() < GROWTH_KIB


async def test_more_than_the_buffer_is_paced_not_cut_off(servers: Servers) -> None:
    """A replay of 60 MB passes a send buffer of 1 MB to a slow reader."""
    server = start(
        servers,
        buffers__send_high_water="200kB",
        buffers__max_send_buffer="1MB",
        buffers__send_stall_seconds=scale(2),
    )
    uri = f"{server.ws_url}/flood?size=60000&count=1000"
    async with websockets.connect(uri, max_queue=2) as ws:
        for index in range(1000):
            assert len(await ws.recv()) == 60_000
            if index % 100 == 0:
                await asyncio.sleep(0.3)
    await wait_seen(server, "flooded 1000 None")
    seen = await read_seen(server)
    highest = int(seen.split("highest ")[1].split()[0])
    assert 200_000 < highest <= 260_020 + 100


async def test_a_peer_that_vanishes_while_reading_is_paused_is_noticed(
    servers: Servers,
) -> None:
    server = start(
        servers,
        ping_interval_seconds=0.5,
        ping_timeout_seconds=0.5,
        buffers__receive_stall_seconds=1,
    )
    peer = await DeadPeer.open(server.port, "/slow?seconds=2")
    sending = asyncio.create_task(peer.send(build_frame(TEXT, b"x" * 1000) * 100_000))
    await asyncio.sleep(0.2)
    sending.cancel()
    await peer.vanish()
    await wait_seen(server, "4129 rate_limited")


async def test_a_pong_behind_a_backlog_is_waited_for(servers: Servers) -> None:
    """A client that answers pings after its queued messages is not dead."""
    server = start(
        servers,
        ping_interval_seconds=scale(0.3),
        ping_timeout_seconds=scale(0.3),
        buffers__max_receive_queue=2,
    )
    uri = f"{server.ws_url}/slow?seconds={scale(0.05)}"
    async with websockets.connect(uri, ping_interval=None) as ws:
        for _ in range(60):
            await ws.send(b"x" * 50_000)
    await wait_seen(server, "slow 60 1000 None")


async def test_connections_go_without_a_collection(servers: Servers) -> None:
    """Reference counting frees a closed connection, whichever side closes."""
    server = start(servers)
    await request(server, "/garbage")  # Collected by hand from here on.
    for _ in range(20):
        await (await RawClient.open(server.port, "/close?code=4000")).read_close()
        await (await RawClient.open(server.port, "/return")).read_close()
        (await RawClient.open(server.port, "/echo")).reset()
        async with websockets.connect(f"{server.ws_url}/echo") as ws:
            await ws.send("x")
            await ws.recv()
    await asyncio.sleep(0.5)
    await request(server, "/garbage")
    found = re.findall(r"garbage (\d+)", await read_seen(server))
    # HTTP requests leave some garbage, but not that of eighty connections.
    assert int(found[1]) < 80 * 10


async def request(server: LiveServer, path: str) -> None:
    client = await RawClient.connect(server.port)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await client.send(head.encode())
    await client.read_end()


async def test_a_body_within_the_bound_arrives(servers: Servers) -> None:
    server = start(servers)
    client = await RawClient.connect(server.port)
    head = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    await client.send(head, b"x" * 200_000)
    assert (await client.read_response())[0] == 200
    assert "body 200000" in await read_seen(server)


async def test_pongs_do_not_pile_up_for_a_client_that_does_not_read(
    servers: Servers,
) -> None:
    server = start(
        servers,
        rate_limit__small_frames_per_second=1_000_000,
        rate_limit__burst_small_frames=10_000_000,
        buffers__send_stall_seconds=1,
    )
    client = await SlowClient.open(server.port, "/echo")
    peak = Peak(server)
    flood = build_frame(9, b"x" * 125) * 2000
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(3):
            while True:
                await client.send(flood)
    assert await peak.growth_kib() < GROWTH_KIB
