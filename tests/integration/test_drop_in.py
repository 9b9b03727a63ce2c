"""Run the same consumers on Channels under daphne and on this project's server."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from websockets.typing import Origin, Subprotocol

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.drop_in.editions import EDITIONS
from tests.project import ProjectServers

APPLICATION = "tests.drop_in.application:application"
FLAVOURS = ("asynchronous", "synchronous")

in_both_flavours = pytest.mark.parametrize("flavour", FLAVOURS)


@pytest.fixture(scope="module", params=[*EDITIONS, "uvicorn"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> Iterator[LiveServer]:
    running = ProjectServers(tmp_path_factory.mktemp("drop_in"), migrated_database)
    is_uvicorn = request.param == "uvicorn"
    yield running.start(
        command="uvicorn" if is_uvicorn else "daphne",
        application=APPLICATION,
        environment={"DROP_IN_EDITION": "limited" if is_uvicorn else request.param},
        config={"anonymous": "true"},
    )
    running.stop_all()


def reach(
    server: LiveServer, path: str, subprotocols: list[Subprotocol] | None = None
) -> websockets.connect:
    return websockets.connect(
        f"{server.ws_url}/{path}/",
        origin=Origin(server.url),
        subprotocols=subprotocols,
        open_timeout=scale(30),
    )


async def receive(client: websockets.ClientConnection) -> str | bytes:
    async with asyncio.timeout(scale(20)):
        return await client.recv()


async def test_it_is_the_edition_that_it_should_be(server: LiveServer) -> None:
    """Otherwise the other tests would prove nothing."""
    is_limited = server.environment["DROP_IN_EDITION"] == "limited"
    async with reach(server, "asynchronous/echo") as client:
        assert client.response is not None
        assert ("x-connection-id" in client.response.headers) is is_limited


@in_both_flavours
async def test_echo(server: LiveServer, flavour: str) -> None:
    async with reach(server, f"{flavour}/echo") as client:
        for message in ("héllo", b"\x00\xff", "x" * 70_000):
            await client.send(message)
            assert await receive(client) == message


@in_both_flavours
async def test_json(server: LiveServer, flavour: str) -> None:
    async with reach(server, f"{flavour}/json") as client:
        assert json.loads(await receive(client)) == {"hello": f"/{flavour}/json/"}
        await client.send('{"type": "anything"}')
        assert json.loads(await receive(client)) == {"echo": {"type": "anything"}}


@in_both_flavours
async def test_groups(server: LiveServer, flavour: str) -> None:
    path = f"{flavour}/member"
    async with reach(server, path) as first, reach(server, path) as second:
        await first.send("hello all")
        assert await receive(first) == await receive(second) == "hello all"
        await second.send("me")
        assert await receive(second) == "only me"


@pytest.mark.parametrize("name", ["chat", "async-chat"])
async def test_the_tutorials_rooms(server: LiveServer, name: str) -> None:
    lobby, elsewhere = f"{name}/lobby", f"{name}/elsewhere"
    async with (
        reach(server, lobby) as first,
        reach(server, lobby) as second,
        reach(server, elsewhere) as third,
    ):
        await third.send('{"message": "not for you"}')
        assert json.loads(await receive(third)) == {"message": "not for you"}
        await first.send('{"message": "hello"}')
        for client in (first, second):
            assert json.loads(await receive(client)) == {"message": "hello"}


@in_both_flavours
async def test_subprotocols(server: LiveServer, flavour: str) -> None:
    path = f"{flavour}/subprotocols"
    async with reach(server, path, [Subprotocol("v1"), Subprotocol("v0")]) as client:
        assert client.subprotocol == "v1"
    for offered in (None, [Subprotocol("v0")]):
        with pytest.raises(websockets.InvalidStatus) as caught:
            await reach(server, path, offered)
        assert caught.value.response.status_code == 403


@in_both_flavours
@pytest.mark.parametrize("manner", ["close", "close-code", "deny"])
async def test_refusals(server: LiveServer, flavour: str, manner: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await reach(server, f"{flavour}/door/{manner}")
    assert caught.value.response.status_code == 403


@in_both_flavours
@pytest.mark.parametrize(
    ("asked", "code"),
    [("close", 1000), ("close 4123", 4123), ("send-and-close 3001", 3001)],
)
async def test_close_codes(
    server: LiveServer, flavour: str, asked: str, code: int
) -> None:
    async with reach(server, f"{flavour}/farewell") as client:
        await client.send(asked)
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                assert await receive(client) == "bye"
        assert client.close_code == code


@in_both_flavours
async def test_the_database(server: LiveServer, flavour: str) -> None:
    async with reach(server, f"{flavour}/users") as client:
        await client.send("?")
        assert await receive(client) == "None of 0"
