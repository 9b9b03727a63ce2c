"""Test that live connections end when their authorisation is revoked."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from connections.testing import LiveServer, Servers, read_close, wait_until
from tests.integration.access_changes import AccessChangeProcess
from tests.integration.redis_process import RedisProcess

APPLICATION = "tests.integration.consumers:application"
CONFIG = {
    "node__beat_seconds": 1,
    "max_connections_per_client": 20,
    "allow_unshared_limits": True,
    "handshake__failures_per_address_burst": 1000,
}

Apply = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    """A right, the change that revokes it, and the expected close codes."""

    name: str
    change: tuple[str, ...]
    """The change and its target: "NAME", "KEY" or a word of its own."""
    close: tuple[int, str]
    returning: tuple[int, str]
    path: str = "/json/"
    by_session: bool = False


CASES = (
    Case(
        "token revoked", ("revoke_token", "NAME"), (4009, "revoked"), (4009, "revoked")
    ),
    Case(
        "token deleted",
        ("delete_token", "NAME"),
        (4009, "revoked"),
        (4001, "unauthenticated"),
    ),
    Case(
        "logged out",
        ("log_out", "KEY"),
        (4009, "logged_out"),
        (4001, "unauthenticated"),
        by_session=True,
    ),
    Case(
        "password changed",
        ("change_password", "NAME"),
        (4009, "logged_out"),
        (4001, "unauthenticated"),
        by_session=True,
    ),
    Case(
        "user deactivated",
        ("deactivate", "NAME"),
        (4009, "deactivated"),
        (4009, "deactivated"),
    ),
    Case(
        "user deactivated (session)",
        ("deactivate", "NAME"),
        (4009, "deactivated"),
        (4001, "unauthenticated"),
        by_session=True,
    ),
    Case(
        "user deleted",
        ("delete_user", "NAME"),
        (4009, "deactivated"),
        (4001, "unauthenticated"),
    ),
    Case(
        "group taken away",
        ("leave_group", "NAME"),
        (4003, "forbidden"),
        (4003, "forbidden"),
        path="/staff/",
    ),
    Case(
        "permission taken away",
        ("lose_permission", "NAME"),
        (4003, "forbidden"),
        (4003, "forbidden"),
        path="/staff/",
    ),
    Case(
        "client banned", ("ban", "client", "NAME"), (4003, "banned"), (4003, "banned")
    ),
    Case(
        "address banned",
        ("ban", "address", "ADDRESS"),
        (4003, "banned"),
        (4003, "banned"),
    ),
)


@dataclass
class Visitor:
    """A client with its own token, session and address."""

    name: str
    token: str
    key: str
    address: str

    def open(
        self, server: LiveServer, path: str = "/json/", *, by_session: bool = False
    ) -> connect:
        headers = {"Authorization": f"Bearer {self.token}"}
        origin: Origin | None = None
        if by_session:
            headers, origin = {"Cookie": f"sessionid={self.key}"}, Origin(server.url)
        return connect(
            server.ws_url + path,
            additional_headers=headers,
            origin=origin,
            local_addr=(self.address, 0),
        )


class Visitors:
    """Create visitors, each with another local address."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._count = 0

    async def make(self) -> Visitor:
        self._count += 1
        name = f"visitor{self._count}"
        token = (await self._apply("make_user", name))["result"]
        key = (await self._apply("log_in", name))["result"]
        return Visitor(name, token, key, f"127.0.1.{self._count}")


@contextlib.asynccontextmanager
async def changes_in(server: LiveServer) -> AsyncIterator[Apply]:
    """Apply access changes in the process of a node."""
    token = server.create_token("access changes")
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        f"{server.ws_url}/access-changes/", additional_headers=headers
    ) as channel:

        async def apply(*change: str) -> Any:
            await channel.send(json.dumps({"type": "apply", "change": change}))
            return json.loads(await channel.recv())

        yield apply


@contextlib.contextmanager
def changes_beside(server: LiveServer) -> Iterator[Apply]:
    """Apply access changes in a process that is not a node."""
    with AccessChangeProcess(server) as process:

        async def apply(*change: str) -> Any:
            return await asyncio.to_thread(process.apply, *change)

        yield apply


def start(servers: Servers, *, command: str = "daphne", **options: Any) -> LiveServer:
    return servers.start(
        command=command,
        application=APPLICATION,
        config={**CONFIG, **options.pop("config", {})},
        **options,
    )


def start_pair(servers: Servers, **options: Any) -> list[LiveServer]:
    return [
        *servers.start_pair(
            config=CONFIG, command="daphne", application=APPLICATION, **options
        )
    ]


async def ended_at(connection: ClientConnection) -> tuple[tuple[int, str], float]:
    return await read_close(connection), time.time()


async def take_away(
    case: Case, apply: Apply, visitors: Visitors, nodes: list[LiveServer]
) -> list[float]:
    """
    Revoke a right; check that its connections end and are refused on every node.

    Returns how many seconds after the change each ended.
    """
    visitor, bystander = await visitors.make(), await visitors.make()
    places = {"NAME": visitor.name, "KEY": visitor.key, "ADDRESS": visitor.address}
    change = [places.get(word, word) for word in case.change]
    open_case = partial(visitor.open, path=case.path, by_session=case.by_session)
    theirs = [await open_case(node) for node in nodes]
    others = [await bystander.open(node) for node in nodes]
    waiting = [asyncio.create_task(ended_at(one)) for one in theirs]
    await asyncio.sleep(0.2)
    assert not any(one.done() for one in waiting)
    applied_at = (await apply(*change))["applied_at"]
    ends = await asyncio.gather(*waiting)
    assert [close for close, _ in ends] == [case.close] * len(nodes), case.name
    for node in nodes:
        back = await open_case(node)
        assert await read_close(back) == case.returning, case.name
    for other in others:
        await other.send('{"type": "echo"}')
        assert await other.recv() == '{"type": "echo"}'
        await other.close()
    return [moment - applied_at for _, moment in ends]


async def take_all_away(apply: Apply, nodes: list[LiveServer], where: str) -> None:
    """Run all cases; print how long the connections lasted."""
    visitors = Visitors(apply)
    for case in CASES:
        seconds = await take_away(case, apply, visitors, nodes)
        print(f"{where}: {case.name}: {max(seconds) * 1000:.0f} ms")


@pytest.mark.parametrize("command", ["daphne", "uvicorn"])
async def test_in_the_process_of_the_node(servers: Servers, command: str) -> None:
    node = start(servers, command=command)
    async with changes_in(node) as apply:
        await take_all_away(apply, [node], "one process")


async def test_across_processes_without_redis(servers: Servers) -> None:
    nodes = start_pair(servers)
    with changes_beside(nodes[0]) as apply:
        await take_all_away(apply, nodes, "without Redis")


async def test_across_processes_with_redis(servers: Servers) -> None:
    redis = RedisProcess().start()
    try:
        nodes = start_pair(servers, environment={"REDIS_URL": redis.url})
        with changes_beside(nodes[0]) as apply:
            await take_all_away(apply, nodes, "with Redis")
    finally:
        redis.remove()


@pytest.mark.parametrize(
    ("change", "close"),
    [
        (("revoke_token", "NAME"), (4009, "revoked")),
        (("deactivate", "NAME"), (4009, "deactivated")),
        (("ban", "client", "NAME"), (4003, "banned")),
    ],
)
async def test_a_handshake_in_flight_does_not_slip_through(
    servers: Servers, change: tuple[str, ...], close: tuple[int, str]
) -> None:
    node = servers.make(command="daphne", application=APPLICATION, config=CONFIG)
    seen = node.folder / "seen"
    node.environment["SEEN"] = str(seen)
    seen.touch()
    node.start()
    async with changes_in(node) as apply:
        visitor = await Visitors(apply).make()
        opening = asyncio.create_task(_enter(visitor, node))
        await wait_until(lambda: "hesitates" in seen.read_text())
        await apply(*(visitor.name if word == "NAME" else word for word in change))
        assert await opening == close


async def _enter(visitor: Visitor, node: LiveServer) -> tuple[int, str]:
    return await read_close(await visitor.open(node, "/hesitant/"))


async def test_what_django_does_not_tell_is_found(servers: Servers) -> None:
    node = start(servers, config={"reauthorise_seconds": 1})
    async with changes_in(node) as apply:
        visitors = Visitors(apply)
        visitor, bystander = await visitors.make(), await visitors.make()
        theirs, other = await visitor.open(node), await bystander.open(node)
        await apply("deactivate_silently", visitor.name)
        assert await read_close(theirs) == (4009, "deactivated")
        await other.close()
