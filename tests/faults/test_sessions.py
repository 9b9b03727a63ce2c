"""Test that kills, deadlocks and trims on PostgreSQL lose no acked entry."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.faults.databases import Store
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import (
    COUNT,
    COUNTED,
    SESSION_CONFIG,
    SessionClient,
)

HISTORY = 20
LOCK = "select 1 from sessions_history_session where session_id = %s for update"


@pytest.fixture
def pair(
    servers: Servers, postgres_store: Store, redis_process: RedisProcess
) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two nodes of one cluster with a short session history."""
    options: dict[str, Any] = {
        "config": {
            **SESSION_CONFIG,
            "max_session_history": HISTORY,
            # Every message gets an answer, even an empty one.
            "sessions__max_open_streams": 100,
            "sessions__max_open_streams_per_client": 1000,
        },
        "environment": {
            **postgres_store.environment,
            "REDIS_URL": redis_process.url,
            "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
        },
    }
    yield servers.start_pair(**options)


async def test_a_node_killed_beside_another(
    pair: tuple[LiveServer, LiveServer],
) -> None:
    """The other client continues; the streaming answer becomes interrupted."""
    first, second = pair
    token = await asyncio.to_thread(first.create_token)
    here, there = SessionClient(token), SessionClient(token)
    async with contextlib.AsyncExitStack() as stack:
        for page in (here, there):
            stack.push_async_callback(page.cut)
        await here.connect(first)
        there.session_id = here.session_id
        await there.connect(second)
        await there.say(COUNT)
        for page in (here, there):
            await page.wait(partial(page.is_done_at, 2))
        await here.say({**COUNT, "count": 10_000})
        await there.wait(lambda: 4 in there.entries and "9 " in there.texts()[4])
        first.kill()
        await here.wait_disconnected()
        await there.say({"text": "meanwhile"})
        await there.wait_acked()
        await there.wait(lambda: there.entries[4]["state"] == "interrupted", 40)
        await here.return_to(second)
        for page in (here, there):
            await page.wait_offset(6)
            assert page.texts()[2] == COUNTED
        await here.wait(lambda: here.entries[4]["state"] == "interrupted")
        assert here.texts() == there.texts()


async def test_appends_and_trims_of_two_nodes_at_once(
    pair: tuple[LiveServer, LiveServer], postgres_store: Store
) -> None:
    """Every message is logged exactly once, although the log is trimmed."""
    token = await asyncio.to_thread(pair[0].create_token)
    pages = [SessionClient(token) for _ in range(4)]
    nodes = [pair[(number + number // 2) % 2] for number in range(4)]
    count = 30
    async with contextlib.AsyncExitStack() as stack:
        for number, page in enumerate(pages):
            stack.push_async_callback(page.cut)
            # Two sessions, each with a client on either node.
            page.session_id = pages[number - 2].session_id if number > 1 else "new"
            await page.connect(nodes[number])

        async def talk(page: SessionClient, node: LiveServer) -> None:
            for number in range(count):
                await page.say({"text": str(number)})
                while page.waiting:
                    await page.wait(lambda: not (page.waiting and page.is_connected))
                    if not page.is_connected:
                        # It fell behind by more than the history: 4208.
                        await page.return_to(node)

        await asyncio.gather(*map(talk, pages, nodes))
        assert not any(page.errors for page in pages)
        for first, second in ((pages[0], pages[2]), (pages[1], pages[3])):
            acked = {**first.acked, **second.acked}
            assert len(acked) == len(set(acked.values())) == 2 * count
            query = (
                'select key, "offset" from sessions_history_appendkey'
                f" where session_id = '{first.session_id}'"
            )
            assert dict(postgres_store.ask(query)) == acked
            kept = (
                "select count(*) from sessions_history_historyentry"
                f" where session_id = '{first.session_id}'"
            )
            await wait_until(lambda kept=kept: postgres_store.ask(kept) == [(HISTORY,)])


async def test_a_deadlock_is_tried_again(
    pair: tuple[LiveServer, LiveServer], postgres_store: Store
) -> None:
    """Another transaction locks a commit's second session, then wants the first."""
    server = pair[0]
    token = await asyncio.to_thread(server.create_token)
    pages = [SessionClient(token) for _ in range(3)]
    rounds = 0
    async with contextlib.AsyncExitStack() as stack:
        for page in pages:
            stack.push_async_callback(page.cut)
            await page.connect(server)
            # The first entry inserts the row that is locked below.
            await page.say({"text": "first"})
            await page.wait_acked()
        while "tried again: deadlock detected" not in server.log():
            # Both messages must be in one commit, which not every round achieves.
            rounds += 1
            assert rounds < 8, server.log()
            await cross(pages, postgres_store)
            for page in pages:
                await page.wait_acked()
        for page in pages:
            await page.wait(partial(page.is_done_at, 2 * rounds + 2))
            assert not page.errors


async def cross(pages: list[SessionClient], store: Store) -> None:
    """Send a message from every client while another transaction holds a lock."""
    gate, *two = pages
    low, high = sorted(two, key=lambda page: page.session_id)
    url = store.environment["DATABASE_URL"]
    waiting = (
        "select count(*) from pg_stat_activity"
        f" where datname = '{store.name}' and wait_event_type = 'Lock'"
    )
    async with (
        await psycopg.AsyncConnection.connect(url) as holding,
        await psycopg.AsyncConnection.connect(url) as gating,
    ):
        # PostgreSQL aborts the transaction that checks first: the server's.
        await holding.execute("set deadlock_timeout = '60s'")
        await gating.execute(LOCK, [gate.session_id])
        await gate.say({"text": "holds up the commits"})
        await wait_until(lambda: store.ask(waiting) == [(1,)])
        for page in (high, low):
            await page.say({"text": "in one commit"})
        await asyncio.sleep(scale(0.25))
        await holding.execute(LOCK, [high.session_id])
        await gating.rollback()
        # The commit has locked the lower session, and waits for the higher.
        await wait_until(lambda: store.ask(waiting) == [(1,)])
        await holding.execute(LOCK, [low.session_id])
        await holding.rollback()
