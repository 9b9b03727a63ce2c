"""Test valid use of the WebSocket protocol; tests/abuse/ has its violations."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from connections.testing import (
    BINARY,
    PING,
    PONG,
    TEXT,
    LiveServer,
    RawClient,
    build_frame,
    build_request,
)
from connections.testing.waiting import scale
from tests.project import ProjectServers

RAW = "tests.integration.applications:application"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[LiveServer]:
    running = ProjectServers(tmp_path_factory.mktemp("protocol"), migrated_database)
    yield running.start(
        command="daphne",
        application=RAW,
        config={
            "max_message_size": "100kB",
            "buffers__unfinished_message_seconds": scale(1),
        },
    )
    running.stop_all()


@pytest.mark.parametrize("message", ["", b"", "é", b"\0", "x" * 70_000])
async def test_a_message_arrives_as_it_was_sent(
    server: LiveServer, message: str | bytes
) -> None:
    """Empty messages arrive too; stock daphne drops them."""
    async with websockets.connect(f"{server.ws_url}/echo") as ws:
        await ws.send(message)
        assert await ws.recv() == message


async def test_fragments_become_one_message_with_control_frames_between(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/echo")
    await client.send(
        build_frame(TEXT, b"a\xc3", is_final=False),
        build_frame(PING, b"are you there"),
        build_frame(0, b"", is_final=False),
        build_frame(0, b"\xa9b"),
    )
    assert await client.read_frame() == (PONG, b"are you there")
    assert await client.read_frame() == (TEXT, "aéb".encode())


async def test_a_message_of_empty_fragments_is_an_empty_message(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/echo")
    for opcode in (TEXT, BINARY):
        await client.send(
            build_frame(opcode, is_final=False),
            build_frame(0, is_final=False),
            build_frame(0),
        )
        assert await client.read_frame() == (opcode, b"")


async def test_messages_that_follow_each_other_have_each_their_time(
    server: LiveServer,
) -> None:
    """The connection is always within a message, but never for long."""
    client = await RawClient.open(server.port, "/echo")
    frame = build_frame(TEXT, b"hello")
    stream = frame * 8
    for index in range(0, 8):
        cut = len(frame) * index + 4
        await client.send(stream[max(0, cut - len(frame)) : cut])
        await asyncio.sleep(scale(0.25))
    for _ in range(7):
        assert await client.read_frame() == (TEXT, b"hello")


async def test_pings_at_a_sane_rate_are_all_answered(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/echo")
    for index in range(200):
        await client.send(build_frame(PING, str(index).encode()))
        assert await client.read_frame() == (PONG, str(index).encode())


async def test_a_frame_sent_behind_the_handshake_is_not_lost(
    server: LiveServer,
) -> None:
    client = await RawClient.connect(server.port)
    await client.send(build_request("/echo", server.port), build_frame(TEXT, b"early"))
    assert (await client.read_response())[0] == 101
    assert await client.read_frame() == (TEXT, b"early")


async def test_a_root_path_of_a_clients_own_is_ignored(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/echo", "Daphne-Root-Path: /echo")
    await client.send(build_frame(TEXT, b"x"))
    assert await client.read_frame() == (TEXT, b"x")
