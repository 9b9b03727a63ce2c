"""Test that processes of answer_messages answer what nodes of a cluster got."""

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connections.client import Entry, SessionClient
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from sessions_history.models import HistoryEntry, Work
from tests.integration.services import PostgresProcess
from tests.integration.session_client import SESSION_CONFIG
from tests.project import ROOT

Pair = tuple[LiveServer, LiveServer]

ALL = 40
LONG = {"text": "count", "count": ALL, "pause_seconds": 0.1}
SHORT = {"text": "count", "count": 2, "pause_seconds": 0}


class Worker:
    """A process of answer_messages beside the nodes of a server's project."""

    def __init__(self, server: LiveServer, log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "answer_messages", "--grace", "60"],
                cwd=ROOT,
                env=server.environment,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """Return the exit status of its end."""
        return await asyncio.to_thread(self._process.wait, scale(60))


@pytest.fixture
def pair(servers: Servers, migrated_postgres: PostgresProcess) -> Pair:
    """Two nodes that share PostgreSQL alone, and leave answers to workers."""
    name = f"worker_{uuid.uuid4().hex}"
    return servers.start_pair(
        config={**SESSION_CONFIG, "sessions__answered_by": "workers"},
        environment={
            "DATABASE_URL": migrated_postgres.create_database(
                name, template="migrated"
            ),
            "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
        },
        arguments=("--no-sweeper",),
    )


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[LiveServer], Worker]]:
    made: list[Worker] = []

    def start(server: LiveServer) -> Worker:
        made.append(Worker(server, tmp_path / f"worker-{len(made)}"))
        return made[-1]

    yield start
    for worker in made:
        worker.kill()


def connect(server: LiveServer, token: str, session: str = "new") -> SessionClient:
    url = f"{server.ws_url}/ws/sessions/"
    return SessionClient(url, token=token, session=session)


def find(client: SessionClient, offset: int) -> Entry | None:
    return next((one for one in client.entries if one.offset == offset), None)


async def wait_for(client: SessionClient, offset: int, state: str) -> Entry:
    """Wait until an entry has a state; return it."""

    def find_it() -> Entry | None:
        entry = find(client, offset)
        return entry if entry is not None and entry.state == state else None

    found: Entry = await wait_until(find_it, 60)
    return found


async def wait_for_growth(client: SessionClient, offset: int) -> None:
    await wait_until(lambda: (one := find(client, offset)) and "3" in one.text, 60)


async def test_messages_are_answered_whatever_is_killed(
    pair: Pair, start_worker: Callable[[LiveServer], Worker]
) -> None:
    """
    A worker is killed, then a node; another worker ends after its answer.

    The last one is told twice to end, and interrupts its answer.
    """
    token = pair[0].create_token("alice")
    async with connect(pair[0], token) as first:
        # Nobody answers yet.
        assert (await first.request(SHORT)).offset == 1
        async with connect(pair[1], token, first.session) as second:
            one = start_worker(pair[0])
            assert "1 " in (await wait_for(second, 2, "done")).text
            await first.request({**LONG, "count": 10 * ALL})
            await wait_for_growth(second, 4)
            one.kill()
            other = start_worker(pair[0])
            assert "3 " in (await wait_for(second, 4, "interrupted")).text
            await first.request(LONG)
            await wait_for_growth(second, 6)
            pair[0].kill()
            other.terminate()
            await wait_until(lambda: "Ending" in other.log.read_text(), 60)
            # This one is for the next worker.
            await second.request(SHORT)
            assert f"{ALL - 1} " in (await wait_for(second, 6, "done")).text
            assert await other.wait() == 0
            assert (await wait_for(second, 8, "streaming")).text == ""
            last = start_worker(pair[1])
            await wait_for(second, 8, "done")
            await second.request({**LONG, "count": 10 * ALL})
            await wait_for_growth(second, 10)
            last.terminate()
            await wait_until(lambda: "Ending" in last.log.read_text(), 60)
            last.terminate()
            assert "3 " in (await wait_for(second, 10, "interrupted")).text
            assert await last.wait() == 0
    states = pair[1].run(
        list, HistoryEntry.objects.order_by("offset").values_list("state", flat=True)
    )
    assert states == [*["done"] * 3, "interrupted", *["done"] * 5, "interrupted"]
    assert pair[1].run(Work.objects.count) == 0
