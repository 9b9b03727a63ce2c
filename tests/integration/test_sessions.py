"""Test that cuts and kills neither lose nor duplicate session entries."""

import asyncio
import contextlib
import json
import random
import secrets
import signal
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from connections.credentials.tokens import create_access_token
from connections.testing import LiveServer, Servers, free_port
from tests.integration.echo import on_both
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.integration.session_client import (
    COUNT,
    COUNTED,
    SESSION_CONFIG,
    SessionClient,
)

RESPONDER = {"SESSIONS_RESPONDER": "tests.integration.responders.Counting"}

Query = Callable[[str], list[tuple[Any, ...]]]


def start(servers: Servers, *, performs: bool = False, **options: Any) -> LiveServer:
    options["config"] = {**SESSION_CONFIG, **options.get("config", {})}
    environment = RESPONDER if performs else {}
    options["environment"] = {**environment, **options.get("environment", {})}
    return servers.start(**options)


@contextlib.asynccontextmanager
async def opened(*clients: SessionClient) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for client in clients:
            await client.cut()


def query(server: LiveServer, sql: str) -> list[tuple[Any, ...]]:
    """Run a query on the server's SQLite file."""
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        return database.execute(sql).fetchall()


def execute(server: LiveServer, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        database.execute(sql)
        database.commit()


async def say_some(client: SessionClient, count: int) -> None:
    for number in range(count):
        await client.say({"text": f"{number} e\u0301 👍🏽"})
    await client.wait_acked()


@on_both
async def test_each_outcome_is_told_as_it_is(servers: Servers, command: str) -> None:
    server = start(servers, command=command, config={"max_session_history": 20})
    token = server.create_token()
    page, other = SessionClient(token), SessionClient(token)
    async with opened(page, other):
        await page.connect(server)
        await say_some(page, 3)
        await page.wait(lambda: page.last_offset == 3)
        await page.connect(server)
        assert page.outcome == "nothing_missed"
        await page.cut()
        other.session_id = page.session_id
        await other.connect(server)
        await say_some(other, 2)
        await page.connect(server)
        await page.wait(lambda: page.last_offset == 5)
        assert page.outcome == "resumed"
        await page.cut()
        await say_some(other, 30)
        await page.connect(server)
        assert (page.outcome, page.hellos[-1]["gap"]) == ("gap", [6, 15])
        await page.wait(lambda: page.last_offset == 35)
        assert sorted(page.entries) == [*range(1, 6), *range(16, 36)]
        await page.cut()
        execute(server, "update sessions_history_session set epoch = 'another'")
        # Attached clients are asked to reconnect, and then get the new epoch.
        await other.wait_disconnected()
        assert other.close_code == 4202
        await page.connect(server)
        assert page.outcome == "reset"
        await page.wait(lambda: page.last_offset == 35)
        stranger = SessionClient(server.create_token("bob"), page.session_id)
        with pytest.raises(ConnectionRefusedError, match="4004"):
            await stranger.connect(server)


@on_both
async def test_a_reload_in_the_middle_of_an_answer(
    servers: Servers, command: str
) -> None:
    """Two connections show the same; one is repeatedly cut during a stream."""
    server = start(servers, command=command, performs=True)
    token = server.create_token()
    page, other = SessionClient(token), SessionClient(token)
    async with opened(page, other):
        await page.connect(server)
        other.session_id = page.session_id
        await other.connect(server)
        await page.say(COUNT)
        await page.wait(lambda: 2 in page.entries)
        while page.entries[2]["state"] == "streaming":
            await page.connect(server)
            length = len(page.texts()[2])
            await page.wait(
                lambda: (
                    page.entries[2]["state"] != "streaming"
                    or len(page.texts()[2]) > length  # noqa: B023
                )
            )
        await other.wait(lambda: other.entries[2]["state"] == "done")
        assert page.texts() == other.texts() == {1: "count", 2: COUNTED}


async def test_bad_payloads_fail_alone(servers: Servers) -> None:
    """They are sent in one burst, to share a batch."""
    server = start(servers, config={"errors__budget": 100})
    page = SessionClient(server.create_token())
    async with opened(page):
        await page.connect(server)
        bad = ["NaN", "[Infinity]", '"\\u0000"', '"\\ud83d"', "[" * 65 + "]" * 65]
        for number, payload in enumerate(bad):
            await page.say({"text": f"good {number} 👩‍👩‍👧 e\u0301"})
            message_id = f"{secrets.token_hex(8)}-1"
            await page.send(
                f'{{"type":"message","id":"{message_id}","data":{payload}}}'
            )
        await page.wait_acked()
        await page.wait(lambda: len(page.errors) == len(bad))
        assert {error["code"] for error in page.errors} == {"invalid_message"}
        assert all(error["id"] for error in page.errors)
        await page.wait(lambda: page.last_offset == len(bad))
        assert list(page.texts().values()) == [
            f"good {number} 👩‍👩‍👧 e\u0301" for number in range(len(bad))
        ]


async def test_tabs_and_a_message_sent_twice(servers: Servers) -> None:
    """Both tabs start with their first message; a resend is acked after a trim."""
    server = start(servers, config={"max_session_history": 5})
    token = server.create_token()
    first, second = SessionClient(token), SessionClient(token)
    async with opened(first, second):
        await first.connect(server)
        second.session_id = first.session_id
        await second.connect(server)
        one, two = await first.say({"text": "a"}), await second.say({"text": "b"})
        await first.wait_acked()
        await second.wait_acked()
        assert {first.acked[one], second.acked[two]} == {1, 2}
        offset = first.acked.pop(one)
        await say_some(first, 10)
        await second.say({"text": "a"}, one)
        await second.wait_acked()
        assert second.acked[one] == offset
        await second.say({"text": "something else"}, one)
        await second.wait(lambda: second.errors)
        assert second.errors[0]["code"] == "invalid_message"
        assert query(
            server, "select max(last_offset) from sessions_history_session"
        ) == [(12,)]


async def test_a_server_killed_in_the_middle_of_a_conversation(
    servers: Servers,
) -> None:
    """Acked entries remain; the streaming answer is kept as interrupted."""
    server = start(servers, performs=True)
    page = SessionClient(server.create_token())
    async with opened(page):
        await page.connect(server)
        await page.say({"text": "first", "count": 2})
        await page.say({**COUNT, "count": 10_000})
        await page.wait(lambda: 4 in page.entries and "12 " in page.texts()[4])
        server.kill()
        await page.wait_disconnected()
        await page.say({"text": "meanwhile"})
        again = start(servers, performs=True, folder=server.folder, port=server.port)
        await page.return_to(again)
        await page.wait_acked()
        await page.wait(lambda: page.entries[4]["state"] == "interrupted", seconds=40)
        assert page.texts()[4].startswith("0 👩‍👩‍👧 e\u0301 1 ")
        texts = list(page.texts().values())
        assert (texts[0], texts[2], texts[4]) == ("first", "count", "meanwhile")
        assert sorted(page.acked.values()) == [1, 3, 5]


@pytest.mark.slow
async def test_a_rolling_restart_in_the_middle_of_answers(servers: Servers) -> None:
    """Two processes share a port: the old one finishes answers, the new one clients."""
    port, redis = free_port(), RedisProcess().start()
    options: dict[str, Any] = {
        "performs": True,
        "port": port,
        "arguments": ("--reuse-port",),
        "environment": {"REDIS_URL": redis.url},
    }
    try:
        old = start(servers, **options)
        token = old.create_token()
        pages = [SessionClient(token) for _ in range(5)]
        async with opened(*pages):
            for page in pages:
                await page.connect(old)
                await page.say(COUNT)
                await page.wait(partial(page.entries.get, 2))
            new = start(servers, folder=old.folder, **options)
            old.signal(signal.SIGTERM)
            for page in pages:
                await page.wait_disconnected()
                assert page.close_code == 4200
            await asyncio.gather(*(page.return_to(new) for page in pages))
            for page in pages:
                await page.wait(partial(page.is_done_at, 2))
                assert page.entries[2]["state"] == "done"
                assert page.texts() == {1: "count", 2: COUNTED}
            assert await asyncio.to_thread(old.wait) == 0
    finally:
        redis.remove()


async def test_two_nodes_and_a_redis_that_comes_and_goes(servers: Servers) -> None:
    """Clients get from the database what Redis lost, including the last message."""
    redis = RedisProcess().start()
    try:
        environment = {"REDIS_URL": redis.url}
        config = {"sessions__position_seconds": 2}
        one = start(servers, performs=True, environment=environment, config=config)
        two = start(
            servers,
            performs=True,
            environment=environment,
            config=config,
            folder=one.folder,
        )
        token = one.create_token()
        here, there = SessionClient(token), SessionClient(token)
        async with opened(here, there):
            await here.connect(one)
            there.session_id = here.session_id
            await there.connect(two)
            for number in range(10):
                speaker = (here, there)[number % 2]
                await speaker.say({"text": str(number)})
                await speaker.wait(partial(speaker.is_done_at, 2 * number + 2))
            await there.say(COUNT)
            await here.wait(partial(here.is_done_at, 22))
            await there.wait(partial(there.is_done_at, 22))
            assert here.texts() == there.texts()
            assert COUNTED in here.texts().values()
            redis.kill()
            last = await here.say({"text": "nobody tells of this"})
            await here.wait_acked()
            await there.wait(lambda: here.acked[last] in there.entries)
            redis.start()
            await there.say(COUNT)
            await there.wait_acked()
            await here.wait(partial(here.is_done_at, 26), seconds=30)
            await there.wait(partial(there.is_done_at, 26), seconds=30)
            assert here.texts() == there.texts()
            # The stop is sent to the node that does not stream the answer.
            await there.say({**COUNT, "count": 10_000})
            await here.wait(lambda: 28 in here.entries)
            await here.send(json.dumps({"type": "cancel", "offset": 28}))
            await here.wait(lambda: here.entries[28]["state"] == "cancelled")
            await there.wait(lambda: there.entries[28]["state"] == "cancelled")
    finally:
        redis.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def crowded(
    request: pytest.FixtureRequest, servers: Servers
) -> Iterator[tuple[LiveServer, Query]]:
    """A server for 200 clients, and a function that queries its database."""
    config = {"max_total_connections": 1000, "max_session_history": 1000}
    if request.param == "sqlite":
        server = start(servers, config=config)
        yield server, lambda sql: query(server, sql)
        return
    postgres: PostgresProcess = request.getfixturevalue("migrated_postgres")
    name = f"sessions_{uuid.uuid4().hex}"
    url = postgres.create_database(name, template="migrated")

    def ask(sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(postgres.connect(name)) as connection:
            cursor: psycopg.Cursor[Any] = connection.execute(sql.encode())
            return cursor.fetchall()

    yield start(servers, config=config, environment={"DATABASE_URL": url}), ask


CLIENTS = 200
MESSAGES = 10


@pytest.mark.slow
async def test_what_clients_know_acked_is_the_log(
    crowded: tuple[LiveServer, Query],
) -> None:
    """200 clients append while connections are cut at random."""
    server, ask = crowded
    tokens = server.run(
        lambda: [create_access_token(f"c{number}")[0] for number in range(CLIENTS)]
    )
    chance = random.Random(5)
    clients = [SessionClient(token) for token in tokens]
    sent: dict[SessionClient, list[str]] = {client: [] for client in clients}

    async def talk(client: SessionClient) -> None:
        await client.return_to(server)
        for number in range(MESSAGES):
            sent[client].append(await client.say({"text": str(number)}))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.05)
                await client.cut()
                await client.return_to(server)
        await client.wait_acked(60)
        await client.wait(lambda: len(client.entries) == MESSAGES, 60)

    async with opened(*clients):
        await asyncio.gather(*(talk(client) for client in clients))
    rows = ask(
        'select e.session_id, e."offset", k.key, e.data'
        " from sessions_history_historyentry e join sessions_history_appendkey k"
        ' on k.session_id = e.session_id and k."offset" = e."offset"'
        ' order by e.session_id, e."offset"'
    )
    assert Counter(row[0] for row in rows) == {
        client.session_id: MESSAGES for client in clients
    }
    for client in clients:
        logged = [row for row in rows if row[0] == client.session_id]
        assert [row[1] for row in logged] == list(range(1, MESSAGES + 1))
        assert {row[2]: row[1] for row in logged} == client.acked
        assert sorted(row[2] for row in logged) == sorted(sent[client])
        assert [json.loads(row[3]) for row in logged] == [
            entry["data"] for _, entry in sorted(client.entries.items())
        ]
    assert sum(len(client.hellos) for client in clients) > CLIENTS
