"""Test that keepalive ends dead connections and no live ones."""

import asyncio
import contextlib
import socket
import time

import websockets

from connections.testing import (
    PING,
    PONG,
    TEXT,
    LiveServer,
    RawClient,
    Servers,
    build_frame,
    build_request,
)
from connections.testing.waiting import scale

RAW = "tests.integration.applications:application"
QUICK = {"ping_interval_seconds": 1, "ping_timeout_seconds": 0.5}
"""For clients that the server ends; one that stays has the time of the machine."""


def start(servers: Servers, **config: object) -> LiveServer:
    return servers.start(command="daphne", application=RAW, config=QUICK | config)


async def test_a_client_that_answers_late_but_in_time_stays(servers: Servers) -> None:
    """
    The timeout is longer than the interval, the pongs come late, data flows.

    In daphne the timer of an earlier ping drops such a client.
    """
    server = start(
        servers, ping_interval_seconds=scale(0.3), ping_timeout_seconds=scale(1)
    )
    client = await RawClient.open(server.port, "/echo")
    for _ in range(5):
        frame = await client.read_frame()
        assert frame.opcode == PING
        await asyncio.sleep(scale(0.7))
        await client.send(build_frame(PONG, frame.payload))
    await client.send(build_frame(TEXT, b"x"))
    while (frame := await client.read_frame()).opcode == PING:
        await client.send(build_frame(PONG, frame.payload))
    assert frame == (TEXT, b"x")


async def test_data_is_no_pong(servers: Servers) -> None:
    """Under daphne a client that sends but answers no ping stays for ever."""
    server = start(servers)
    client = await RawClient.open(server.port, "/echo")
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < began + 8:
            await client.send(build_frame(TEXT, b"x"))
            await client.read_frame()
            await asyncio.sleep(0.1)


async def test_a_pong_to_no_ping_of_ours_is_none(servers: Servers) -> None:
    server = start(servers)
    client = await RawClient.open(server.port, "/echo")
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < began + 8:
            await client.send(build_frame(PONG, b"here"))
            await asyncio.sleep(0.1)


async def test_the_round_trip_is_known_to_the_server(servers: Servers) -> None:
    server = start(servers, ping_timeout_seconds=scale(5))
    client = await RawClient.open(server.port, "/rtt")
    await client.send(build_frame(TEXT, b"before any pong"))
    # The first ping may come at any moment of the interval.
    frames = [await client.read_frame() for _ in range(2)]
    assert (TEXT, b"None") in frames
    (ping,) = [one for one in frames if one.opcode == PING]
    await asyncio.sleep(0.2)
    await client.send(build_frame(PONG, ping.payload), build_frame(TEXT, b"now"))
    while (answer := await client.read_frame()).opcode == PING:
        pass
    assert 0.2 <= float(answer.payload) < scale(5)


async def test_first_pings_are_spread(servers: Servers) -> None:
    """Clients that connect together are not pinged together."""
    server = start(servers, ping_interval_seconds=2, ping_timeout_seconds=5)
    clients = [await RawClient.open(server.port, "/echo") for _ in range(40)]
    began = time.monotonic()

    async def wait_for_ping(client: RawClient) -> float:
        assert (await client.read_frame()).opcode == PING
        return time.monotonic() - began

    moments = sorted(await asyncio.gather(*map(wait_for_ping, clients)))
    assert moments[-1] < 2.5
    assert moments[30] - moments[10] > 0.4


async def test_a_silent_client_that_answers_pings_stays(servers: Servers) -> None:
    server = start(
        servers, ping_interval_seconds=scale(0.2), ping_timeout_seconds=scale(0.5)
    )
    async with websockets.connect(f"{server.ws_url}/echo", ping_interval=None) as ws:
        await asyncio.sleep(scale(2))
        await ws.send("still here")
        assert await ws.recv() == "still here"


async def test_a_client_in_the_middle_of_a_large_message_is_alive(
    servers: Servers,
) -> None:
    """Its line is slow: the pong waits behind the message, or the ping does."""
    server = start(
        servers, ping_interval_seconds=scale(0.2), ping_timeout_seconds=scale(0.4)
    )
    client = await RawClient.open(server.port, "/echo")
    frame = build_frame(TEXT, b"x" * 60_000)
    for start_at in range(0, len(frame), 2000):
        await client.send(frame[start_at : start_at + 2000])
        await asyncio.sleep(scale(0.1))
    while (frame_back := await client.read_frame()).opcode == PING:
        await client.send(build_frame(PONG, frame_back.payload))
    assert frame_back == (TEXT, b"x" * 60_000)


async def test_a_client_that_reads_slowly_is_alive(servers: Servers) -> None:
    server = start(
        servers, ping_interval_seconds=scale(0.2), ping_timeout_seconds=scale(0.5)
    )
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    client = RawClient(sock)
    await client.send(build_request("/echo", server.port))
    assert (await client.read_response())[0] == 101
    await client.send(build_frame(TEXT, b"x" * 300_000))
    taken = 0
    while taken < 300_000:
        chunk = await client.read_some(4000)
        assert chunk, f"ended after {taken} bytes"
        taken += len(chunk)
        await asyncio.sleep(scale(0.05))
