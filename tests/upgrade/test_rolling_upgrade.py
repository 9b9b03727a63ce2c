"""Test that two releases serve side by side, and that a roll loses no entry."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connections.client import SessionClient
from connections.testing import read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.services import PostgresProcess
from tests.upgrade.cluster import CONNECTIONS_EACH, USERS, Cluster

pytestmark = pytest.mark.slow

PAUSE_SECONDS = 1.0


class Talker:
    """A client that sends numbers to a session of its own, one after the other."""

    def __init__(self, url: str, token: str) -> None:
        # A client that left a node for a pause would leave its slot to another.
        self.client = SessionClient(
            url,
            token=token,
            heartbeat_timeout_seconds=scale(5),
            ack_timeout_seconds=scale(15),
        )
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
