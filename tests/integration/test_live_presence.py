"""Test presence over plain HTTP on two live nodes that share Redis."""

import asyncio
from typing import Any

import httpx
from django.contrib.auth.models import User

from connections.client import HttpSessions, SessionClient, TypingChanged
from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.event_stream import open_events
from tests.integration.redis_process import RedisProcess

CONFIG = {
    "node__beat_seconds": 0.2,
    # A node that stands still for so long loses its members.
    "presence__lease_seconds": scale(2),
    "presence__linger_seconds": 1,
}


async def join(server: LiveServer, session: str, owner: str) -> str:
    """Make a user a member of a session; return a token of the user."""
    create_user: Any = User.objects.create_user
    server.run(create_user, "gus")
    url = f"{server.url}/api/sessions/"
    invited = await HttpSessions(url, token=owner).invite(session, "writer")
    token = server.create_token("gus's laptop", "--user", "gus")
    await HttpSessions(url, token=token).join(invited.token)
    return token


async def test_a_reader_types_at_another_node_and_leaves_when_its_own_is_killed(
    servers: Servers, redis_process: RedisProcess
) -> None:
    environment = {"REDIS_URL": redis_process.url}
    first, second = servers.start_pair(config=CONFIG, environment=environment)
    owner = second.create_token("olga")
    url = f"{second.ws_url}/ws/sessions/"
    async with SessionClient(url, token=owner, presence=True) as socket:
        await socket.request({"text": "one"}, answer=False)
        assert socket.session is not None
        guest = await join(second, socket.session, owner)
        path = f"/api/sessions/{socket.session}"
        query = "live=sse&protocol=orchestra.v2&presence=1"
        async with open_events(f"{first.url}{path}/stream/?{query}", guest) as events:
            hello = await events.read_until("message")
            # Until the nodes have reported to Redis, members are null.
            members: list[dict[str, Any]] = []
            while not members:
                message = await events.read_until("message")
                if message["type"] == "present":
                    members = message["members"] or []
            both = {socket.hello["member"], hello["member"]}
            await wait_until(lambda: set(socket.presence.members) == both)
            assert hello["member"] in {one["member"] for one in members}

            async def hear() -> TypingChanged:
                async for event in socket.events():
                    if isinstance(event, TypingChanged):
                        return event
                raise AssertionError("the client ended")

            hearing = asyncio.create_task(hear())
            body = {"type": "typing", "active": True, "connection": hello["connection"]}
            async with httpx.AsyncClient(timeout=scale(20)) as http:
                answer = await http.post(
                    f"{second.url}{path}/messages/",
                    headers={"Authorization": f"Bearer {guest}"},
                    json=body,
                )
            assert answer.status_code == 204, answer.text
            async with asyncio.timeout(scale(20)):
                heard = await hearing
            assert (heard.member, heard.connection, heard.is_typing) == (
                hello["member"],
                hello["connection"],
                True,
            )
            first.kill()
            await wait_until(
                lambda: set(socket.presence.members) == both - {hello["member"]}
            )
