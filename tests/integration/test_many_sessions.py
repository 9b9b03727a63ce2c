"""Test many sessions on one connection of the Python client, on live nodes."""

import asyncio
import collections
from collections.abc import Callable
from typing import Any

import httpx
from django.contrib.auth.models import User

from connections.client import (
    Attached,
    EntryArrived,
    EntryCompleted,
    SessionClient,
    SharedConnection,
    State,
)
from connections.testing import Servers, wait_until
from connections.testing.proxy import Proxy
from connections.testing.waiting import scale
from sessions_history.models import SessionMember
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SESSION_CONFIG
from tests.integration.six_sessions import (
    COUNT,
    COUNTING,
    LONG,
    SHORT,
    read_gauge,
    start_pair,
)


class Watcher:
    """Counts how often each entry of a client arrives after it was final."""

    def __init__(self, client: SessionClient) -> None:
        self.client = client
        self.doubled: list[int] = []
        self.outcomes: list[str] = []
        self._final: set[int] = set()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self.client.events():
            if isinstance(event, Attached):
                self.outcomes.append(event.outcome)
            elif isinstance(event, EntryArrived | EntryCompleted):
                offset = event.entry.offset
                if offset in self._final and event.entry.state == "done":
                    self.doubled.append(offset)
                if event.entry.state == "done":
                    self._final.add(offset)

    def is_streaming(self, least: int = 1) -> bool:
        last = self.client.entries[-1] if self.client.entries else None
        return last is not None and last.is_streaming and len(last.text) >= least

    def has(self, offset: int) -> bool:
        entries = self.client.entries
        is_last = bool(entries) and entries[-1].offset == offset
        return is_last and not any(entry.is_streaming for entry in entries)


def all_are(watchers: list[Watcher], check: Callable[[Watcher], bool]) -> bool:
    return all(check(one) for one in watchers)


async def test_a_node_that_is_killed_loses_nothing_of_six_streaming_sessions(
    servers: Servers, redis_process: RedisProcess
) -> None:
    """Three answers are of the killed node, and three of the other one."""
    first, second = start_pair(servers, redis_process)
    token = first.create_token()
    async with Proxy(first.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws/sessions/"
        async with SharedConnection(url, token=token) as shared:
            clients = [shared.session() for _ in range(COUNT)]
            watchers = [Watcher(client) for client in clients]
            for client in clients:
                client.connect()
                await client.request(SHORT)
            await wait_until(lambda: all_are(watchers, lambda one: one.has(2)))
            assert len({client.session for client in clients}) == COUNT
            assert await read_gauge(first, "websocket_attached_sessions") == COUNT
            assert await read_gauge(first, "active_websocket_connections") == 1
            for client in clients[:3]:
                await client.request(LONG)
            for client in clients[3:]:
                elsewhere = f"{second.ws_url}/ws/sessions/"
                async with SessionClient(
                    elsewhere, token=token, session=client.session
                ) as other:
                    await other.request(LONG)
            await wait_until(lambda: all_are(watchers, Watcher.is_streaming))
            proxy.target_port = second.port
            first.kill()
            # Each message was acked: an answer that its node lost ends all the same.
            await wait_until(lambda: all_are(watchers, lambda one: one.has(4)), 60)
            assert shared.is_shared
            assert await read_gauge(second, "websocket_attached_sessions") == COUNT
            for client, watcher in zip(clients, watchers, strict=True):
                assert watcher.doubled == []
                assert watcher.outcomes == ["new", "resumed"]
                async with SessionClient(
                    f"{second.ws_url}/ws/sessions/",
                    token=token,
                    session=client.session,
                ) as late:
                    late_one = Watcher(late)
                    await wait_until(lambda one=late_one: one.has(4))
                    assert late.entries == client.entries
            offsets = [[one.offset for one in client.entries] for client in clients]
            assert offsets == [[1, 2, 3, 4]] * COUNT
            whole = [client.entries[-1].text for client in clients[3:]]
            assert len(set(whole)) == 1
            assert whole[0].startswith("0 ")
            assert "39 " in whole[0]


async def test_a_drain_and_a_cut_are_survived_by_all_sessions(
    servers: Servers, redis_process: RedisProcess
) -> None:
    first, second = start_pair(servers, redis_process)
    token = first.create_token()
    async with Proxy(first.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws/sessions/"
        async with SharedConnection(url, token=token) as shared:
            clients = [shared.session() for _ in range(COUNT)]
            watchers = [Watcher(client) for client in clients]
            for client in clients:
                client.connect()
            sent = 0

            async def keep_sending(client: SessionClient) -> None:
                nonlocal sent
                for number in range(10):
                    await client.request({"n": number}, answer=False)
                    sent += 1

            sending = asyncio.gather(*map(keep_sending, clients))
            await wait_until(lambda: sent >= COUNT)
            proxy.reset()
            await wait_until(lambda: sent >= 3 * COUNT)
            proxy.target_port = second.port
            first.terminate()
            await sending
            await wait_until(lambda: all_are(watchers, lambda one: one.has(10)))
            for client, watcher in zip(clients, watchers, strict=True):
                assert [one.data["n"] for one in client.entries] == list(range(10))
                assert watcher.doubled == []


async def test_a_member_removed_from_one_of_six_keeps_five(servers: Servers) -> None:
    server = servers.start(config=SESSION_CONFIG, environment=COUNTING)
    create_user: Any = User.objects.create_user
    guest = server.run(create_user, "gus")
    tokens = [
        server.create_token("olga"),
        server.create_token("gus's tablet", "--user", "gus"),
    ]
    url = f"{server.ws_url}/ws/sessions/"
    async with (
        SessionClient(url, token=tokens[0]) as host,
        SharedConnection(url, token=tokens[1]) as shared,
    ):
        await host.request({"text": "welcome"}, answer=False)
        server.run(
            SessionMember.objects.create,
            session_id=host.session,
            user_id=guest.pk,
            role="writer",
        )
        clients = [shared.session() for _ in range(5)]
        for client in clients:
            client.connect()
        joined = shared.session(host.session)
        async with joined:
            await joined.request({"text": "hello"}, answer=False)
            for client in clients:
                await client.request({"text": "mine"}, answer=False)
            path = f"/api/sessions/{host.session}/members/{guest.pk}/"
            headers = {"Authorization": f"Bearer {tokens[0]}"}
            async with httpx.AsyncClient(timeout=scale(20)) as http:
                removed = await http.delete(server.url + path, headers=headers)
            assert removed.status_code == 204
            await wait_until(lambda: joined.state is State.CLOSED)
            assert joined.ended is not None
            assert (joined.ended.code, joined.ended.is_final) == (4003, True)
            await host.request({"text": "secret"}, answer=False)
            for client in clients:
                assert (await client.request({}, answer=False)).offset == 2
                assert client.state is State.OPEN
            texts = [one.text for one in joined.entries]
            assert texts == ["welcome", "hello"]
            # The session that is gone is refused alone.
            joined.connect()
            await wait_until(
                lambda: joined.ended is not None and joined.ended.code == 4004
            )
            assert shared.state is State.OPEN


async def test_sessions_come_and_go_on_one_connection(servers: Servers) -> None:
    config = {**SESSION_CONFIG, "sessions__max_sessions_per_connection": 2}
    server = servers.start(config=config, environment=COUNTING)
    url, token = f"{server.ws_url}/ws/sessions/", server.create_token()
    async with SharedConnection(url, token=token) as shared:
        first, second, third = (shared.session() for _ in range(3))
        for client in (first, second):
            client.connect()
            await client.request({"text": "hi"}, answer=False)
        assert shared.session(first.session) is first
        third.connect()
        await wait_until(lambda: third.state is State.CLOSED)
        assert third.ended is not None
        assert third.ended.reason == "too_many_sessions"
        await first.close()
        third.connect()
        await wait_until(lambda: third.state is State.OPEN)
        await third.request({"text": "a place is free"}, answer=False)
        again = shared.session(first.session)
        assert again is first
        await third.close()
        async with again:
            await wait_until(lambda: [one.text for one in again.entries] == ["hi"])
        # The others go on with what they have when one of them is dropped.
        events = collections.Counter[str]()

        async def count() -> None:
            async for event in second.events():
                events[type(event).__name__] += 1

        counting = asyncio.create_task(count())
        second.drop()
        await wait_until(lambda: events["Attached"] == 1)
        assert events["EntryArrived"] == 0
        await second.request({"text": "still here"}, answer=False)
        await second.delete()
        await wait_until(lambda: second.state is State.CLOSED)
        assert second.ended is not None
        assert second.ended.code == 4004
        assert shared.state is State.OPEN
        counting.cancel()
