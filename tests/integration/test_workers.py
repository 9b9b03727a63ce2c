"""Test `serve --workers`: several processes behind one socket and one parent."""

import asyncio
import contextlib
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from connections.models import NodeCommand
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.echo import ECHO, assert_alive, read_rows
from tests.integration.redis_process import RedisProcess

OPEN = {
    "anonymous": "true",
    "echo_endpoint": "true",
    "drain__grace_seconds": 1,
    "node__beat_seconds": 0.2,
    "max_connections_per_client": 40,
}

OPEN_BY_NODE = (
    "select n.pid, count(*) from connections_connection c"
    " join connections_node n on n.node_id = c.node_id"
    " where c.closed_at is null group by n.pid"
)


def start(
    servers: Servers, redis: RedisProcess | None, *arguments: str, **options: Any
) -> LiveServer:
    config = OPEN | options.pop("config", {})
    return servers.start(
        arguments=("--workers", "2", *arguments),
        environment={"REDIS_URL": redis.url if redis is not None else ""},
        config=config,
        **options,
    )


def read(server: LiveServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=scale(5)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def read_sum(server: LiveServer, name: str) -> float:
    """Return the sum of a series over its labels."""
    _, text = read(server, "/metrics")
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)))


def find_workers(server: LiveServer) -> list[int]:
    """Return the processes of the workers that run."""
    path = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    return [int(one) for one in path.read_text().split()]


async def wait_for_two(server: LiveServer) -> None:
    """Wait until both workers serve and are ready."""

    def is_whole() -> bool:
        status, text = read(server, "/readyz")
        return status == 200 and json.loads(text).get("workers") == 2

    await wait_until(is_whole, 30)


async def open_many(server: LiveServer, count: int) -> list[ClientConnection]:
    return [await server.connect(ECHO, origin=server.url) for _ in range(count)]


async def close_all(connections: list[ClientConnection]) -> None:
    await asyncio.gather(*(one.close() for one in connections))


@pytest.fixture(scope="module")
def module_redis() -> Iterator[RedisProcess]:
    process = RedisProcess().start()
    yield process
    process.remove()


@pytest.fixture(scope="module")
def server(shared_servers: Servers, module_redis: RedisProcess) -> Iterator[LiveServer]:
    yield start(shared_servers, module_redis)


async def test_the_workers_share_connections_evenly(server: LiveServer) -> None:
    """Each is a node with records of its own, however few the connections are."""
    await wait_for_two(server)
    connections = await open_many(server, 20)
    await wait_until(
        lambda: sum(count for _, count in read_rows(server, OPEN_BY_NODE)) == 20, 10
    )
    shares = Counter(dict(read_rows(server, OPEN_BY_NODE)))
    assert set(shares) == set(find_workers(server))
    assert min(shares.values()) >= 8, shares
    await close_all(connections)


async def test_any_worker_answers_for_all(server: LiveServer) -> None:
    await wait_for_two(server)
    connections = await open_many(server, 10)
    for connection in connections:
        await assert_alive(connection)
    # Those of an earlier test may be about to leave.
    await wait_until(lambda: read_sum(server, "active_websocket_connections") == 10)
    for _ in range(4):
        assert read_sum(server, "active_websocket_connections") == 10
        answer = json.loads(read(server, "/readyz")[1])
        assert (answer["status"], answer["workers"], answer["open"]) == ("ok", 2, 10)
    await close_all(connections)


async def test_a_killed_worker_is_restarted_and_its_counts_are_kept(
    server: LiveServer,
) -> None:
    await wait_for_two(server)
    connections = await open_many(server, 4)
    for connection in connections:
        await assert_alive(connection)
    name = "websocket_messages_total"
    before = read_sum(server, name)
    victim = find_workers(server)[0]
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: f"process {victim}, ended by SIGKILL" in server.log(), 10)
    await wait_for_two(server)
    assert victim not in find_workers(server)
    assert read_sum(server, name) >= before
    survivors = [one for one in connections if one.close_code is None]
    for connection in survivors:
        await assert_alive(connection)
    await close_all(connections)


async def test_a_kick_finds_the_connections_of_all_workers(server: LiveServer) -> None:
    await wait_for_two(server)
    token = server.create_token("carol")
    connections = [await server.connect(ECHO, token) for _ in range(6)]
    await wait_until(lambda: read_sum(server, "active_websocket_connections") == 6, 10)
    await wait_until(
        lambda: sum(count for _, count in read_rows(server, OPEN_BY_NODE)) == 6, 10
    )
    server.call("connections", "kick", "--client", "carol")
    for connection in connections:
        async with asyncio.timeout(scale(10)):
            await connection.wait_closed()
        assert connection.close_code == 4009


async def test_limits_hold_over_all_workers(server: LiveServer) -> None:
    """The oldest of a client is evicted, whichever worker has it."""
    await wait_for_two(server)
    token = server.create_token("dave")
    connections = [await server.connect(ECHO, token) for _ in range(42)]
    for connection in connections[:2]:
        async with asyncio.timeout(scale(10)):
            await connection.wait_closed()
        assert connection.close_code == 4005
    for connection in connections[2:]:
        await assert_alive(connection)
    await close_all(connections)


async def test_new_clients_are_left_to_the_workers_that_do_not_drain(
    server: LiveServer,
) -> None:
    """Staff drain a node: with its count of 0 it would attract all, and refuse them."""
    await wait_for_two(server)
    states = "select pid, state from connections_node"
    drained, other = sorted(find_workers(server))
    ((node_id,),) = read_rows(
        server, f"select node_id from connections_node where pid = {drained}"
    )

    def post(kind: str) -> None:
        server.run(NodeCommand.objects.create, kind=kind, target="node", value=node_id)

    post("drain")
    await wait_until(lambda: (drained, "draining") in read_rows(server, states), 20)
    connections = await open_many(server, 40)
    for connection in connections:
        await assert_alive(connection)
    await wait_until(lambda: read_rows(server, OPEN_BY_NODE) == [(other, 40)], 10)
    await close_all(connections)

    recorded = (
        f"select count(*) from connections_connection where node_id = '{node_id}'"
    )
    before = read_rows(server, recorded)

    async def has_accepted() -> bool:
        """It tells the others ten times a second that it accepts again."""
        await close_all(await open_many(server, 1))
        return read_rows(server, recorded) > before

    post("serve")
    await wait_for_two(server)
    await wait_until(has_accepted)
    connections = await open_many(server, 20)
    await wait_until(
        lambda: sum(count for _, count in read_rows(server, OPEN_BY_NODE)) == 20, 10
    )
    shares = Counter(dict(read_rows(server, OPEN_BY_NODE)))
    assert min(shares[drained], shares[other]) >= 8, shares
    await close_all(connections)


class Newcomers:
    """Clients that open, echo and leave, one after another, until they are stopped."""

    def __init__(self, server: LiveServer) -> None:
        self.failures: list[BaseException] = []
        self.count = 0
        self._server = server
        self._is_stopped = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(5)]

    async def _run(self) -> None:
        while not self._is_stopped:
            try:
                async with self._server.connect(
                    ECHO, origin=self._server.url
                ) as connection:
                    self.count += 1
                    while not self._is_stopped and connection.close_code is None:
                        await assert_alive(connection)
                        break
            except Exception as exc:
                code = getattr(getattr(exc, "rcvd", None), "code", None)
                if code != 4200:
                    self.failures.append(exc)

    async def stop(self) -> None:
        self._is_stopped = True
        await asyncio.gather(*self._tasks)


async def test_sighup_replaces_the_workers_without_a_refused_client(
    servers: Servers, redis_process: RedisProcess
) -> None:
    server = start(servers, redis_process)
    await wait_for_two(server)
    old = set(find_workers(server))
    staying = await open_many(server, 30)
    newcomers = Newcomers(server)
    before = read_sum(server, "websocket_connections_total")
    server.signal(signal.SIGHUP)
    await wait_until(lambda: "All workers are replaced" in server.log(), 60)
    await newcomers.stop()
    assert newcomers.failures == []
    assert newcomers.count > 5
    assert not old & set(find_workers(server))
    await asyncio.gather(*(one.wait_closed() for one in staying))
    assert {one.close_code for one in staying} == {4200}
    assert read_sum(server, "websocket_connections_total") >= before + newcomers.count
    again = await open_many(server, 4)
    for connection in again:
        await assert_alive(connection)
    await close_all(again)
    assert await asyncio.to_thread(server.terminate) == 0
    assert read_rows(server, "select distinct state from connections_node") == [
        ("stopped",)
    ]


async def test_sigterm_drains_all_workers_and_ends_with_0(
    servers: Servers, redis_process: RedisProcess
) -> None:
    server = start(servers, redis_process)
    await wait_for_two(server)
    connections = await open_many(server, 10)
    assert await asyncio.to_thread(server.terminate) == 0
    await asyncio.gather(*(one.wait_closed() for one in connections))
    assert {one.close_code for one in connections} == {4200}
    reasons = read_rows(server, "select distinct reason from connections_connection")
    assert reasons == [("draining",)]


async def test_workers_without_their_parent_drain(
    servers: Servers, redis_process: RedisProcess
) -> None:
    server = start(servers, redis_process)
    await wait_for_two(server)
    workers = find_workers(server)
    connections = await open_many(server, 4)
    server.kill()
    await asyncio.gather(*(one.wait_closed() for one in connections))
    assert {one.close_code for one in connections} == {4200}

    def have_ended() -> bool:
        return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers)

    await wait_until(have_ended, 20)


async def test_on_sqlite_the_parent_holds_the_limits(servers: Servers) -> None:
    """A client is limited over both workers, also after one of them was killed."""
    server = start(
        servers, None, config={"max_connections_per_client": 4, "anonymous": "false"}
    )
    await wait_for_two(server)
    assert "Without Redis and PostgreSQL the workers share limits" in server.log()
    assert "A message to a group reaches the clients of one worker" in server.log()
    ((pool,),) = read_rows(server, "select distinct pool from connections_node")
    assert re.fullmatch("w:[0-9a-f]{8}", pool)
    token, other = server.create_token("alice"), server.create_token("bob")
    connections = [await server.connect(ECHO, token) for _ in range(6)]
    for connection in connections[:2]:
        async with asyncio.timeout(scale(10)):
            await connection.wait_closed()
        assert connection.close_code == 4005
    assert read_sum(server, "websocket_pool_slots") == 4
    os.kill(find_workers(server)[0], signal.SIGKILL)
    await wait_for_two(server)
    await wait_until(
        lambda: (
            read_sum(server, "websocket_pool_slots")
            == read_sum(server, "active_websocket_connections")
        ),
        10,
    )
    again = [await server.connect(ECHO, token) for _ in range(4)]
    bystander = await server.connect(ECHO, other)
    for connection in [*again, bystander]:
        await assert_alive(connection)
    assert read_sum(server, "websocket_pool_slots") == 5
    second = servers.start(
        is_ready=False, folder=server.folder, arguments=("--workers", "2"), config=OPEN
    )
    assert await asyncio.to_thread(second.wait) != 0
    assert "Its pool is" in second.log() or "own memory" in second.log()
    server.signal(signal.SIGHUP)
    await wait_until(lambda: "All workers are replaced" in server.log(), 60)
    await asyncio.gather(*(one.wait_closed() for one in [*again, bystander]))
    assert {one.close_code for one in [*again, bystander]} == {4200}
    assert await asyncio.to_thread(server.terminate) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--workers", "0"), "neither auto nor a whole number from 1 to 64"),
        (("--workers", "2", "--metrics-port", "0"), "exclude each other"),
    ],
)
async def test_what_does_not_go_with_workers_is_refused(
    servers: Servers, arguments: tuple[str, ...], text: str
) -> None:
    server = servers.start(
        is_ready=False, arguments=arguments, config=OPEN, environment={"REDIS_URL": ""}
    )
    assert await asyncio.to_thread(server.wait) != 0
    assert text in server.log()


class Talker:
    """A client that sends numbered messages at a rate, and returns after each `bye`."""

    def __init__(self, server: LiveServer, *, pause_seconds: float) -> None:
        self.lost: list[int] = []
        self.sent = self.returns = 0
        self.is_stopped = False
        self._server = server
        self._pause_seconds = pause_seconds

    async def run(self) -> None:
        while not self.is_stopped:
            async with contextlib.AsyncExitStack() as stack:
                await self._talk(await self._open(stack))
            self.returns += 1

    async def _open(self, stack: contextlib.AsyncExitStack) -> ClientConnection:
        """Connect, again where a node is too busy to answer in time."""
        while True:
            try:
                return await stack.enter_async_context(
                    self._server.connect("/json/", origin=self._server.url)
                )
            except InvalidStatus as refusal:
                if refusal.response.status_code != 504:
                    raise
                await asyncio.sleep(int(refusal.response.headers["Retry-After"]))

    async def _talk(self, connection: ClientConnection) -> None:
        """Send until a `bye` or the stop; then read until the server closes."""
        unanswered: set[int] = set()
        reading = asyncio.create_task(self._read_to_bye(connection, unanswered))
        while not (self.is_stopped or reading.done()):
            self.sent += 1
            unanswered.add(self.sent)
            await connection.send(json.dumps({"type": "echo", "number": self.sent}))
            await asyncio.wait([reading], timeout=self._pause_seconds)
        if self.is_stopped:
            await wait_until(lambda: reading.done() or not unanswered, 20)
        if not reading.done():
            reading.cancel()
            return
        # Raises what ended the connection, if it was no `bye`.
        assert reading.result()["code"] == 4200
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(scale(30)):
                while True:
                    unanswered.discard(json.loads(await connection.recv())["number"])
        assert connection.close_code == 4200
        # The last message may have been on its way when the server sent `bye`.
        self.lost += unanswered - {self.sent}

    async def _read_to_bye(
        self, connection: ClientConnection, unanswered: set[int]
    ) -> Any:
        while (message := json.loads(await connection.recv()))["type"] != "bye":
            unanswered.remove(message["number"])
        return message


@pytest.mark.alone
async def test_sighup_under_load_loses_no_message(
    servers: Servers, redis_process: RedisProcess, tmp_path: Path
) -> None:
    """500 clients send 1,000 messages a second while all workers are replaced."""
    server = servers.start(
        arguments=("--workers", "2"),
        environment={
            "DJANGO_SETTINGS_MODULE": "tests.integration.consumers_settings",
            "REDIS_URL": redis_process.url,
            "SEEN": str(tmp_path / "seen"),
        },
        config=OPEN
        | {
            "max_connections_per_client": 1000,
            "drain__grace_seconds": 6,
            "handshake__per_address_burst": 1000,
            "handshake__per_address_pending": 1000,
        },
    )
    await wait_for_two(server)
    old = set(find_workers(server))
    talkers = [Talker(server, pause_seconds=0.5) for _ in range(500)]
    async with asyncio.TaskGroup() as group:
        for talker in talkers:
            group.create_task(talker.run())
        await wait_until(lambda: all(one.sent > 2 for one in talkers), 60)
        server.signal(signal.SIGHUP)
        await wait_until(lambda: "All workers are replaced" in server.log(), 90)
        await wait_until(lambda: all(one.returns for one in talkers), 60)
        for talker in talkers:
            talker.is_stopped = True
    assert [one.lost for one in talkers if one.lost] == []
    assert not old & set(find_workers(server))
    assert await asyncio.to_thread(server.terminate) == 0
