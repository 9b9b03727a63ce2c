"""Repeat the database tests on PostgreSQL, and test its outages."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from connections import close_codes
from connections.announcements import post_close_requests
from connections.models import CloseRequest
from connections.testing import LiveServer, Servers, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.echo import QUICK, assert_alive, open_echo, opened
from tests.integration.services import PostgresProcess
from tests.project import ROOT

SUITES = ("tests/connections", "tests/sessions_history")
"""Test modules that run on SQLite and here again on PostgreSQL."""


@pytest.fixture(scope="module")
def postgres(migrated_postgres: PostgresProcess) -> PostgresProcess:
    return migrated_postgres


@pytest.fixture
def database(postgres: PostgresProcess) -> Iterator[str]:
    """The name of a migrated database; the server is resumed afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.create_database(name, template="migrated")
    yield name
    postgres.resume()


@pytest.fixture
def server(servers: Servers, postgres: PostgresProcess, database: str) -> LiveServer:
    return servers.start(
        config=QUICK,
        arguments=("--no-sweeper",),
        environment={"DATABASE_URL": postgres.url(database)},
    )


@pytest.fixture
def read_rows(
    postgres: PostgresProcess, database: str
) -> Callable[[], list[tuple[Any, ...]]]:
    def read() -> list[tuple[Any, ...]]:
        with postgres.connect(database) as connection:
            return connection.execute(
                "select client_id, reason, closed_at is null"
                " from connections_connection order by connection_id"
            ).fetchall()

    return read


ReadRows = Callable[[], list[tuple[Any, ...]]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_database_tests_pass_on_postgresql(
    postgres: PostgresProcess, tmp_path: Path
) -> None:
    """A separate run of every test marked as using the database."""
    url = postgres.create_database(f"suites_{uuid.uuid4().hex}")
    environment = {**os.environ, "DATABASE_URL": url, "ORCHESTRA_VAR": str(tmp_path)}
    # The budgets of its files, which CI holds, are those of SQLite.
    environment.pop("CI", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "django_db"),
            # The database goes with its server; dropping it by itself fails
            # while Channels' thread, which lives as long as the run, is in it.
            *("--no-cov", "--reuse-db", "-p", "no:cacheprovider"),
            *(f"--basetemp={tmp_path / 'run'}", *SUITES),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=scale(580),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


async def test_limits_and_records(server: LiveServer, read_rows: ReadRows) -> None:
    token = server.create_token()
    async with opened(server, token, 6) as connections:
        assert (await read_close(connections[0]))[0] == 4005
        await wait_until(
            lambda: (
                read_rows() == [("alice", "evicted", False), *[("alice", "", True)] * 5]
            )
        )
    await wait_until(lambda: not any(is_open for *_, is_open in read_rows()))


async def churn(server: LiveServer, token: str) -> None:
    connection = await open_echo(server, token)
    await assert_alive(connection)
    await connection.close()


async def assert_unavailable(server: LiveServer, token: str) -> None:
    """A new credential cannot be verified during the outage."""
    stranger: ClientConnection = await open_echo(server, token)
    assert (await read_close(stranger))[0] == 4104


async def test_a_crash_costs_no_connection_and_no_record(
    server: LiveServer, postgres: PostgresProcess, read_rows: ReadRows
) -> None:
    token, other = server.create_token(), server.create_token("bob")
    async with opened(server, token, 1) as (bystander,):
        await wait_until(lambda: read_rows() == [("alice", "", True)])
        postgres.kill()
        try:
            for _ in range(3):
                await churn(server, token)
            await assert_unavailable(server, other)
            await assert_alive(bystander)
        finally:
            postgres.start()
        expected = [("alice", "", True), *[("alice", "closed", False)] * 3]
        await wait_until(lambda: read_rows() == expected, seconds=20)
        await assert_alive(bystander)
        await churn(server, other)


async def test_a_database_that_stands_still_holds_up_nobody(
    server: LiveServer, postgres: PostgresProcess, read_rows: ReadRows
) -> None:
    """A frozen database keeps its sockets open without answering."""
    token, other = server.create_token(), server.create_token("bob")
    async with opened(server, token, 1) as (bystander,):
        await wait_until(lambda: read_rows() == [("alice", "", True)])
        postgres.pause()
        try:
            for _ in range(3):
                await churn(server, token)
            await asyncio.gather(
                assert_unavailable(server, other), assert_alive(bystander)
            )
        finally:
            postgres.resume()
        expected = [("alice", "", True), *[("alice", "closed", False)] * 3]
        await wait_until(lambda: read_rows() == expected, seconds=30)
        await assert_alive(bystander)
        await churn(server, other)


@pytest.mark.parametrize("trouble", ["kill", "pause"])
async def test_without_the_database_a_right_holds_for_a_while(
    servers: Servers, postgres: PostgresProcess, database: str, trouble: str
) -> None:
    """The last check is valid for stale_authorisation_seconds."""
    # PostgreSQL may take a while to end.
    stale_seconds = round(scale(4))
    server = servers.start(
        config={
            **QUICK,
            "reauthorise_seconds": 0.5,
            "stale_authorisation_seconds": stale_seconds,
        },
        arguments=("--no-sweeper",),
        environment={"DATABASE_URL": postgres.url(database)},
    )
    token = server.create_token()
    async with opened(server, token, 1) as (connection,):
        # The connection must outlive the validity of its last check.
        for _ in range(stale_seconds + 1):
            await asyncio.sleep(1)
            await assert_alive(connection)
        getattr(postgres, trouble)()
        try:
            await asyncio.sleep(1)
            await assert_alive(connection)
            assert await read_close(connection) == (4104, "unavailable")
        finally:
            postgres.start() if trouble == "kill" else postgres.resume()
    await wait_until(lambda: is_served(server, token), seconds=30)


async def is_served(server: LiveServer, token: str) -> bool:
    try:
        await churn(server, token)
    except ConnectionClosed:
        return False
    return True


async def test_a_server_stops_though_its_database_stands_still(
    server: LiveServer, postgres: PostgresProcess, read_rows: ReadRows
) -> None:
    """The sweeper records as lost what the server could not write."""
    token = server.create_token()
    async with opened(server, token, 1) as (connection,):
        await wait_until(lambda: read_rows() == [("alice", "", True)])
        postgres.pause()
        assert await asyncio.to_thread(server.terminate) == 0
        assert (await read_close(connection))[0] == 4200


class Load:
    """Clients that connect, send a message and close, each up to 50 times a second."""

    def __init__(self, server: LiveServer, tokens: list[str]) -> None:
        self.served = 0
        self._server = server
        self._is_stopping = False
        self._tasks = [asyncio.create_task(self._churn(token)) for token in tokens]

    async def serve(self, count: int) -> None:
        """Wait until so many more were served; raise the error of a failed client."""
        enough = self.served + count
        await wait_until(
            lambda: self.served >= enough or any(task.done() for task in self._tasks)
        )
        for failed in filter(asyncio.Task.done, self._tasks):
            await failed

    async def stop(self) -> None:
        """Stop the clients; raise the error of a failed one."""
        self._is_stopping = True
        await asyncio.gather(*self._tasks)

    async def _churn(self, token: str) -> None:
        while not self._is_stopping:
            await churn(self._server, token)
            self.served += 1
            # Three clients at full speed are refused: they come from one address.
            await asyncio.sleep(0.02)


async def test_a_restart_under_load(
    servers: Servers, postgres: PostgresProcess, database: str
) -> None:
    """No connection is lost, no record is missing, no node is recorded as lost."""
    node_timeout_seconds = scale(2)
    config = {
        **QUICK,
        "node__node_timeout_seconds": node_timeout_seconds,
        # A handshake may wait for the whole time in which PostgreSQL is frozen.
        "node__database_timeout_seconds": scale(15),
        "handshake__timeout_seconds": scale(15),
    }
    environment = {"DATABASE_URL": postgres.url(database)}
    server = servers.start(
        config=config, arguments=("--no-sweeper",), environment=environment
    )
    servers.start(
        folder=server.folder,
        command="sweep_idle_connections",
        arguments=("--interval", "0.3"),
        config=config,
        environment=environment,
        is_ready=False,
    )
    token, victim = server.create_token(), server.create_token("victim")
    async with (
        opened(server, token, 4) as bystanders,
        opened(server, victim, 1) as (kicked,),
    ):
        load = Load(server, [server.create_token(f"load-{n}") for n in range(3)])
        await load.serve(20)
        # The request is posted while the node cannot read it.
        server.signal(signal.SIGSTOP)
        try:
            # The command waits for the node longer than a node may be silent.
            kick = CloseRequest(
                target=CloseRequest.Target.CLIENT,
                value="victim",
                reason=close_codes.KICKED.reason,
                author="test",
            )
            server.run(post_close_requests, kick)
            postgres.kill()
        finally:
            server.signal(signal.SIGCONT)
        await asyncio.sleep(1.5 * node_timeout_seconds)
        await asyncio.to_thread(postgres.start)
        assert await read_close(kicked) == (4009, "kicked")
        postgres.pause()
        await asyncio.sleep(2 * node_timeout_seconds)
        postgres.resume()
        await load.serve(20)
        await load.stop()
        for connection in bystanders:
            await assert_alive(connection)
    expected = {"closed": load.served + 4, "kicked": 1}
    query = (
        "select reason, count(*) from connections_connection"
        " where closed_at is not null group by reason"
    )

    def read(query: str) -> list[tuple[Any, ...]]:
        with postgres.connect(database) as connection:
            return connection.execute(query).fetchall()

    await wait_until(lambda: dict(read(query)) == expected, 30)
    nodes = read("select state, generation from connections_node")
    assert nodes == [("serving", 1)]
