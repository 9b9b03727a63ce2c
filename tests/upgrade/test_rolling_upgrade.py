"""Test that two releases serve side by side, and that a roll loses no entry."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from connections.client import SessionClient
from connections.testing import LiveServer, free_port, read_close, wait_until
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.project import make_server
from tests.upgrade.releases import find_previous, install_previous, install_tree

pytestmark = pytest.mark.slow

USERS = 20
CONNECTIONS_EACH = 5
"""The limit of connections per client: all 100 clients fill it."""

PAUSE_SECONDS = 1.0

CONFIG: dict[str, object] = {
    "max_connections_per_client": CONNECTIONS_EACH,
    "on_client_limit": "refuse",
    "max_session_history": 1000,
    "node__beat_seconds": 0.5,
    "node__lease_seconds": 6,
    "node__node_timeout_seconds": 5,
    "drain__grace_seconds": 4,
}


class Cluster:
    """Two nodes on PostgreSQL and Redis, each of which runs either release."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self._folder = folder
        self._ports = (free_port(), free_port())
        self._environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            # The releases must not import the modules of this tree.
            "PYTHONSAFEPATH": "1",
        }
        self.nodes: dict[int, LiveServer] = {}

    def build(self, release: Path, index: int) -> LiveServer:
        """Return a node that serves a release on the port of its index."""
        environment = {**self._environment, "PYTHONPATH": str(release)}
        return make_server(
            self._folder,
            environment=environment,
            config=CONFIG,
            port=self._ports[index],
        )

    def start(self, release: Path, index: int) -> None:
        """Start a node."""
        self.nodes[index] = self.build(release, index).start()

    def replace(self, release: Path, index: int) -> None:
        """Drain a node, and start a release in its place."""
        assert self.nodes[index].terminate() == 0
        self.start(release, index)

    def migrate(self, release: Path, *target: str) -> None:
        """Run the migrations of a release, up to all of them or to one."""
        self.build(release, 0).manage("migrate", "--verbosity", "0", *target)

    def create_tokens(self, release: Path) -> list[str]:
        """Make a token for each user, with the command of a release."""
        program = (
            "from django.core.management import call_command\n"
            f"for number in range({USERS}):\n"
            "    call_command('create_access_token', '--client', f'user{number}')"
        )
        shell = ("shell", "--verbosity", "0", "--command", program)
        return self.build(release, 0).manage(*shell).split()

    def locate(self, release: Path) -> Path:
        """Return the file of the library that a release imports."""
        program = "import connections; print(connections.__file__)"
        shell = ("shell", "--verbosity", "0", "--command", program)
        return Path(self.build(release, 0).manage(*shell))

    def stop(self) -> None:
        """End both nodes."""
        for node in self.nodes.values():
            node.stop()


class Talker:
    """A client that sends numbers to a session of its own, one after the other."""

    def __init__(self, url: str, token: str) -> None:
        self.client = SessionClient(url, token=token)
        self.acked: dict[int, int] = {}
        """Numbers by the offset that the server gave them."""
        self._is_done = False

    def finish(self) -> None:
        """Send nothing after the message that is on its way."""
        self._is_done = True

    async def run(self) -> None:
        """Connect and send until finish() is called."""
        number = 0
        async with self.client:
            while not self._is_done:
                ack = await self.client.request({"number": number})
                self.acked[ack.offset] = number
                number += 1
                await asyncio.sleep(PAUSE_SECONDS)
            await wait_until(lambda: len(self.client.entries) == number)


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The previous release, installed."""
    return install_previous(find_previous(), tmp_path / "previous")


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The release of this tree, installed."""
    return install_tree(tmp_path / "next")


@pytest.fixture
def cluster(
    tmp_path: Path, postgres_server: PostgresProcess, redis_process: RedisProcess
) -> Iterator[Cluster]:
    """Two nodes that are not started, with an empty database."""
    url = postgres_server.create_database("upgrade")
    cluster = Cluster(tmp_path, url, redis_process.url)
    yield cluster
    cluster.stop()


async def test_a_roll_forward_and_back_loses_and_doubles_no_entry(
    previous: Path,
    next_release: Path,
    cluster: Cluster,
    postgres_server: PostgresProcess,
) -> None:
    for release in (previous, next_release):
        assert cluster.locate(release).is_relative_to(release)
    cluster.migrate(previous)
    with postgres_server.connect("upgrade") as database:
        (old_state,) = database.execute(
            "select max(name) from django_migrations where app = 'connections'"
        ).fetchone() or ("zero",)
    for index in (0, 1):
        await asyncio.to_thread(cluster.start, previous, index)
    tokens = cluster.create_tokens(previous)
    async with talking(cluster, tokens) as talkers:
        await check_limits(cluster, tokens, talkers)
        await asyncio.to_thread(cluster.migrate, next_release)
        for release in (next_release, previous):
            for index in (0, 1):
                await asyncio.to_thread(cluster.replace, release, index)
                await check_limits(cluster, tokens, talkers)
        await asyncio.to_thread(cluster.migrate, next_release, "connections", old_state)
        await check_limits(cluster, tokens, talkers)
    written: dict[str, dict[int, int]] = defaultdict(dict)
    with postgres_server.connect("upgrade") as database:
        for session, offset, text in database.execute(
            'select session_id, "offset", data from sessions_history_historyentry'
        ):
            written[session][offset] = json.loads(text)["number"]
    assert len(written) == USERS * CONNECTIONS_EACH
    for talker in talkers:
        entries = written[talker.client.session]
        assert entries == talker.acked
        assert [entries[key] for key in sorted(entries)] == list(range(len(entries)))
        seen = [entry.offset for entry in talker.client.entries]
        assert seen == sorted(entries)


@contextlib.asynccontextmanager
async def talking(cluster: Cluster, tokens: list[str]) -> AsyncIterator[list[Talker]]:
    """Open every connection that the limits allow, and send on all of them."""
    talkers = [
        Talker(f"{cluster.nodes[number % 2].ws_url}/ws/sessions/", token)
        for token in tokens
        for number in range(CONNECTIONS_EACH)
    ]
    async with asyncio.TaskGroup() as tasks:
        for talker in talkers:
            tasks.create_task(talker.run())
        yield talkers
        for talker in talkers:
            talker.finish()


async def check_limits(
    cluster: Cluster, tokens: list[str], talkers: list[Talker]
) -> None:
    """Wait until all clients have sent anew; both nodes refuse one connection more."""
    counts = [len(talker.acked) for talker in talkers]
    await wait_until(
        lambda: all(
            len(talker.acked) > count
            for talker, count in zip(talkers, counts, strict=True)
        ),
        60,
    )
    for node in cluster.nodes.values():
        for token in tokens[:3]:
            extra = await node.connect(
                "/ws/sessions/new/", token, subprotocols=["orchestra.v1"]
            )
            assert await read_close(extra) == (4103, "client_full")
