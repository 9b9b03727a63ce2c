"""Test close codes, reasons and crashes on real sockets."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from websockets.typing import Subprotocol

from connections.testing import (
    RESET,
    LiveServer,
    RawClient,
    Servers,
    build_frame,
    wait_until,
)
from connections.testing.waiting import scale
from tests.integration.seen import read_seen
from tests.project import ProjectServers

RAW = "tests.integration.applications:application"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[LiveServer]:
    running = ProjectServers(tmp_path_factory.mktemp("close"), migrated_database)
    yield running.start(
        command="daphne", application=RAW, config={"max_message_size": "100kB"}
    )
    running.stop_all()


@pytest.mark.parametrize(
    "code",
    [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4105, 4999],
)
async def test_a_close_code_reaches_the_client_with_its_reason(
    server: LiveServer, code: int
) -> None:
    uri = f"{server.ws_url}/close?code={code}&reason=why+so"
    async with websockets.connect(uri) as ws:
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await ws.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "why so")


async def test_a_client_has_the_grace_that_was_set_to_answer_a_close(
    servers: Servers,
) -> None:
    """The server itself drops a socket after two seconds at the earliest."""
    server = servers.start(
        command="daphne", application=RAW, config={"evict_grace_seconds": 4}
    )
    client = await RawClient.open(server.port, "/close?code=4000&reason=x")
    await client.read_close()
    began = time.monotonic()
    await client.read_end(scale(10))
    assert time.monotonic() - began > 3


async def test_a_reason_too_long_is_cut_at_a_character(server: LiveServer) -> None:
    client = await RawClient.open(
        server.port, f"/close?code=4000&reason=a{'%C3%A9' * 100}"
    )
    frame = await client.read_close()
    assert frame.close_reason == "a" + "é" * 61


async def test_a_code_that_may_not_be_sent_is_the_consumers_error(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/close?code=1006")
    assert (await client.read_close()).close_code == 1011


async def test_send_after_close_is_ignored(server: LiveServer) -> None:
    """No frame follows the close frame, and disconnect() gets the consumer's code."""
    client = await RawClient.open(server.port, "/close?code=4321")
    frame = await client.read_frame()
    assert (frame.opcode, frame.close_code) == (8, 4321)
    await client.send(build_frame(8, frame.payload))
    assert await client.read_end() == b""
    await wait_until(lambda: _has_seen(server, "disconnect 4321"))


async def _has_seen(server: LiveServer, text: str) -> bool:
    return text in await read_seen(server)


async def test_a_frame_over_the_limit_is_answered_1009(server: LiveServer) -> None:
    """The client gets a close frame and an orderly end although it keeps sending."""
    client = await RawClient.open(server.port, "/echo")
    await client.send(build_frame(2, b"x" * 100_001), b"y" * 200_000)
    frame = await client.read_close()
    assert (frame.close_code, frame.close_reason) == (1009, "message_too_big")
    assert await client.read_end() == b""
    client.close()
    await wait_until(lambda: _has_seen(server, "disconnect 1009"))


async def test_a_consumer_that_crashes_closes_1011(server: LiveServer) -> None:
    async with websockets.connect(f"{server.ws_url}/crash") as ws:
        await ws.send("x")
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await ws.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011


async def test_a_consumer_that_returns_leaves_no_socket_behind(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/return")
    assert (await client.read_close()).close_code == 1000
    await client.send(build_frame(8, b"\x03\xe8"))
    assert await client.read_end() == b""


async def test_a_client_that_ignores_the_close_frame_is_dropped(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/close?code=4000")
    await client.read_close()
    assert await client.read_end(seconds=5) == RESET


async def test_messages_may_be_larger_than_what_clients_may_send(
    server: LiveServer,
) -> None:
    """The limit on incoming messages does not apply to outgoing ones."""
    uri = f"{server.ws_url}/flood?size=3000000&count=1"
    async with websockets.connect(uri, max_size=None) as ws:
        assert len(await ws.recv()) == 3_000_000


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, "bye") for code in (1000, 1001, 1002, 1003, *range(1007, 1015))),
        *((code, "") for code in (3000, 3999, 4000, 4005, 4999)),
        (1000, "é" * 61 + "x"),
    ],
)
async def test_a_clients_close_is_echoed(
    server: LiveServer, code: int, reason: str
) -> None:
    client = await RawClient.open(server.port, "/echo")
    await client.send(build_frame(8, code.to_bytes(2, "big") + reason.encode()))
    frame = await client.read_close()
    assert (frame.close_code, frame.close_reason) == (code, reason)
    assert await client.read_end() == b""


@pytest.mark.parametrize(
    "behind",
    [
        build_frame(8, b"\x03\xe8"),
        build_frame(9, b"are you there"),
        build_frame(1, b"more"),
        build_frame(0, b"the rest"),
        b"\xff" * 70,
    ],
)
async def test_nothing_behind_a_clients_close_is_answered(
    server: LiveServer, behind: bytes
) -> None:
    """An unfinished message before the close is not delivered either."""
    client = await RawClient.open(server.port, "/echo")
    begun = build_frame(1, b"begun", is_final=False)
    await client.send(begun, build_frame(8, b"\x03\xe8"), behind)
    frame = await client.read_frame()
    assert (frame.opcode, frame.close_code) == (8, 1000)
    assert await client.read_end() == b""


async def test_a_close_without_code_is_echoed_without(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/echo")
    await client.send(build_frame(8))
    assert (await client.read_close()).payload == b""
    await wait_until(lambda: _has_seen(server, "disconnect 1005"))


async def test_a_message_just_before_the_close_is_handled(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/slow?seconds=0")
    await client.send(*[build_frame(1, b"x")] * 3, build_frame(8, b"\x03\xe8"))
    await client.read_close()
    await wait_until(lambda: _has_seen(server, "slow 3 1000 None"))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/deny", 403), ("/deny?status=404", 404), ("/crash_early", 500)],
)
async def test_a_refusal_is_an_http_answer(
    server: LiveServer, path: str, status: int
) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(server.ws_url + path)
    response = caught.value.response
    assert response.status_code == status
    if status == 404:
        assert response.headers["x-why"] == "because"
        assert bytes(response.body or b"") == b"no "


async def test_headers_and_subprotocol_of_the_accept_reach_the_client(
    server: LiveServer,
) -> None:
    uri = f"{server.ws_url}/headers?subprotocol=b"
    offered = [Subprotocol("a"), Subprotocol("b")]
    async with websockets.connect(uri, subprotocols=offered) as ws:
        assert ws.subprotocol == "b"
        assert ws.response is not None
        assert ws.response.headers["x-greeting"] == "hello"
        assert await ws.recv() == "ws ['a', 'b'] 127.0.0.1"


async def test_a_subprotocol_that_was_not_offered_is_an_error_not_a_hang(
    server: LiveServer,
) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"{server.ws_url}/headers?subprotocol=b")
    assert caught.value.response.status_code == 500
