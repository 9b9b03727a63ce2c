"""Test the clients' lists, renames, deletions and histories on live processes."""

import asyncio
import json
import subprocess
from typing import Any

import pytest

from connections.client import (
    HttpSessions,
    RequestFailed,
    SessionClient,
    UnauthorizedError,
)
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess
from tests.node import find_node
from tests.project import ROOT

# A node that missed the hint would find the deletion long after the test.
CONFIG = {"node__beat_seconds": 0.2, "sessions__position_seconds": 3000}

SCRIPT = """
import { HttpSessions } from "MODULES/http.js";

const [url, token] = process.argv.slice(1);
const getToken = ({ isExpired }) => (isExpired ? token : "expired");
const sessions = new HttpSessions(url, { getToken });
const { items: [{ id }], next_cursor } = await sessions.list({ limit: 1 });
const { title } = await sessions.rename(id, "Über 👩‍👩‍👧");
const newest = await sessions.entries(id, { limit: 2 });
const older = await sessions.entries(id, { limit: 2, cursor: newest.next_cursor });
const texts = [...older.items, ...newest.items].map(({ data }) => data.text);
await sessions.delete(id);
const { code } = await sessions.get(id).catch((error) => error);
console.log(JSON.stringify({ id, title, texts, code, next_cursor }));
"""


def open_sessions(server: LiveServer, **options: Any) -> HttpSessions:
    return HttpSessions(f"{server.url}/api/sessions/", **options)


def connect(server: LiveServer, **options: Any) -> SessionClient:
    return SessionClient(f"{server.ws_url}/ws/sessions/", **options)


async def test_a_client_lists_renames_and_reads_its_sessions(servers: Servers) -> None:
    server = servers.start(config=CONFIG)
    token, foreign = server.create_token(), server.create_token("bob")
    made = []
    for number in range(3):
        async with connect(server, token=token) as client:
            for part in range(3):
                await client.request({"text": f"{number}.{part}"}, answer=False)
            made.append(client.session)
    sessions = open_sessions(server, token=token)
    page = await sessions.list(limit=2)
    rest = await sessions.list(limit=2, cursor=page.next_cursor)
    listed = [*page.items, *rest.items]
    assert {one.id for one in listed} == {*made}
    assert (rest.next_cursor, {one.last_offset for one in listed}) == (None, {3})
    renamed = await sessions.rename(made[0], "Über 👩‍👩‍👧")
    assert renamed.title == (await sessions.get(made[0])).title == "Über 👩‍👩‍👧"
    newest = await sessions.entries(made[0], limit=2)
    older = await sessions.entries(made[0], limit=2, cursor=newest.next_cursor)
    texts = [one.text for one in (*older.items, *newest.items)]
    assert texts == ["0.0", "0.1", "0.2"]
    others = open_sessions(server, token=foreign)
    assert (await others.list()).items == []
    with pytest.raises(RequestFailed) as failed:
        await others.delete(made[0])
    assert failed.value.code == "not_found"


async def test_a_deletion_on_one_node_ends_the_connections_of_another(
    servers: Servers, redis_process: RedisProcess
) -> None:
    environment = {"REDIS_URL": redis_process.url}
    first = servers.start(config=CONFIG, environment=environment)
    second = servers.start(config=CONFIG, environment=environment, folder=first.folder)
    token = first.create_token()
    async with connect(second, token=token) as client:
        await client.request({"text": "hello"}, answer=False)
        await open_sessions(first, token=token).delete(client.session)
        await wait_until(lambda: client.ended is not None and client.ended.is_final)
        assert client.ended is not None
        assert client.ended.code == 4004


async def test_a_token_that_has_expired_is_replaced_once(servers: Servers) -> None:
    server = servers.start(config=CONFIG)
    token, asked = server.create_token(), []

    async def get_token(is_expired: bool) -> str:
        asked.append(is_expired)
        await asyncio.sleep(0)
        return token if is_expired else "expired"

    sessions = open_sessions(server, get_token=get_token)
    assert (await sessions.list()).items == []
    assert asked == [False, True]
    with pytest.raises(RequestFailed) as failed:
        await open_sessions(server, token="wrong").list()
    assert failed.value.code == "unauthenticated"

    def refuse(is_expired: bool) -> str:
        raise UnauthorizedError

    with pytest.raises(UnauthorizedError):
        await open_sessions(server, get_token=refuse).list()


async def test_a_server_that_is_away_is_a_failure_of_the_network(
    servers: Servers,
) -> None:
    server = servers.start(config=CONFIG)
    sessions = open_sessions(server, token=server.create_token())
    server.kill()
    with pytest.raises(RequestFailed) as failed:
        await sessions.list()
    assert failed.value.code == "network"


@pytest.mark.parametrize("url", ["ws://host/api/", "/api/sessions/", "https:///x"])
def test_a_url_that_is_none_of_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://host/path"):
        HttpSessions(url)


async def test_the_javascript_client_speaks_to_a_live_node(servers: Servers) -> None:
    server = servers.start(config=CONFIG)
    token = server.create_token()
    async with connect(server, token=token) as client:
        for text in ("one", "two", "three"):
            await client.request({"text": text}, answer=False)
        modules = ROOT / "connections" / "static" / "connections"
        script = SCRIPT.replace("MODULES", modules.as_uri())
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *(find_node(), "--input-type=module", "-e", script),
                *(f"{server.url}/api/sessions/", token),
            ],
            capture_output=True,
            text=True,
            timeout=scale(30),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "id": client.session,
            "title": "Über 👩‍👩‍👧",
            "texts": ["one", "two", "three"],
            "code": "not_found",
            "next_cursor": None,
        }
        await wait_until(lambda: client.ended is not None and client.ended.is_final)
