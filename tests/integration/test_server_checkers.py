"""Test that one connection's failure stops neither the server's checkers nor others."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from connections.testing import RESET, RawClient, Servers, build_request, wait_until

RAW = "tests.integration.applications:application"


async def _get(port: int, path: str) -> bytes:
    client = await RawClient.connect(port)
    await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return await client.read_end()


async def test_a_view_that_raises_mid_stream_stops_nothing(servers: Servers) -> None:
    """Later crashes of consumers are still closed and logged."""
    server = servers.start(command="daphne", application=RAW)
    answer = await _get(server.port, "/crash-midway")
    assert b"half" in answer or answer == RESET
    # The error used to stop daphne's application_checker; wait for two rounds.
    await asyncio.sleep(2.2)
    client = await RawClient.open(server.port, "/crash")
    await client.send(b"\x81\x80\0\0\0\0")
    assert (await client.read_close()).close_code == 1011
    await wait_until(lambda: "a consumer that crashes" in server.log())
    assert "in the middle of the response" in server.log()


async def test_a_truncated_response_is_not_taken_for_complete(
    servers: Servers,
) -> None:
    server = servers.start(command="daphne", application=RAW)
    assert (await _get(server.port, "/crash-midway")).endswith(RESET)
    client = await RawClient.connect(server.port)
    await client.send(b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n")
    status, _, _ = await client.read_response()
    assert status == 500


async def test_timeouts_while_connecting_stop_nothing(servers: Servers) -> None:
    """A lifetime shorter than a handshake used to stop all pings and timeouts."""
    server = servers.start(
        command="daphne",
        application=RAW,
        arguments=("--websocket_timeout", "1"),
        config={"handshake__timeout_seconds": 4},
    )
    waiting = await RawClient.connect(server.port)
    await waiting.send(build_request("/silent", server.port))
    status, headers, _ = await waiting.read_response()
    assert (status, headers["retry-after"]) == (504, "1")
    client = await RawClient.open(server.port, "/echo")
    assert (await client.read_close()).close_code == 4202
    assert "Traceback" not in server.log()


async def test_the_lifetime_of_a_websocket_ends_with_a_bye(servers: Servers) -> None:
    server = servers.start(command="daphne", arguments=("--websocket_timeout", "1"))
    token = server.create_token()
    received = []
    client = await server.connect(
        "/ws/sessions/new/", token, subprotocols=[Subprotocol("orchestra.v1")]
    )
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            received.append(json.loads(await client.recv()))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4202
    assert (received[-1]["type"], received[-1]["code"]) == ("bye", 4202)


async def test_an_application_that_outstays_its_client_is_cancelled(
    servers: Servers,
) -> None:
    server = servers.start(
        command="daphne",
        application=RAW,
        arguments=("--application-close-timeout", "1"),
    )
    client = await RawClient.open(server.port, "/slow?seconds=60")
    await client.send(b"\x81\x80\0\0\0\0")
    client.reset()
    await wait_until(lambda: "did not end in time and is cancelled" in server.log())
