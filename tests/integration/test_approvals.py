"""Test approvals and regeneration on live nodes, one of which is killed."""

from typing import Any

import pytest

from connections.client import Entry, RequestFailed, SessionClient
from connections.testing import LiveServer, Servers, wait_until
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SESSION_CONFIG

RESPONDER = {"SESSIONS_RESPONDER": "tests.integration.responders.Careful"}


def find_call(client: SessionClient, offset: int = 2) -> dict[str, Any]:
    """Return the tool call of an answer; empty before it is there."""
    for entry in client.entries:
        if entry.offset == offset:
            for part in entry.parts:
                if part["type"] == "tool_call":
                    return part
    return {}


def find(client: SessionClient, offset: int) -> Entry | None:
    return next((one for one in client.entries if one.offset == offset), None)


def make_client(server: LiveServer, token: str, session: str = "new") -> SessionClient:
    url = f"{server.ws_url}/ws/sessions/"
    return SessionClient(url, token=token, session=session)


async def wait_for_question(client: SessionClient, offset: int = 2) -> None:
    await wait_until(
        lambda: find_call(client, offset).get("state") == "awaiting_approval"
    )


async def wait_for_end(client: SessionClient, offset: int) -> Entry:
    def has_ended() -> Entry | None:
        entry = find(client, offset)
        return entry if entry is not None and not entry.is_streaming else None

    ended: Entry = await wait_until(has_ended)
    return ended


async def test_a_decision_on_another_node_and_another_answer(
    servers: Servers, redis_process: RedisProcess
) -> None:
    environment = {**RESPONDER, "REDIS_URL": redis_process.url}
    first, second = servers.start_pair(config=SESSION_CONFIG, environment=environment)
    token = first.create_token()
    async with make_client(first, token) as asker:
        await asker.request({"order": 7})
        await wait_for_question(asker)
        async with make_client(second, token, asker.session) as decider:
            await wait_for_question(decider)
            await decider.approve(2, "c1", note="a regular")
            await decider.approve(2, "c1")
            with pytest.raises(RequestFailed, match="conflict"):
                await decider.deny(2, "c1")
            outcome = {"state": "approved", "by": asker.hello["author"]}
            for client in (asker, decider):
                entry = await wait_for_end(client, 2)
                assert (entry.state, entry.text) == ("done", "Order 7: approved.")
                assert find_call(client)["approval"] == {**outcome, "note": "a regular"}
            ack = await decider.regenerate(2)
            assert ack.offset == 3
            await wait_for_question(asker, 3)
            await asker.deny(3, "c1")
            entry = await wait_for_end(decider, 3)
            assert (entry.replaces, entry.text) == (2, "Order 7: denied.")


async def test_a_wait_survives_the_death_of_its_node(
    servers: Servers, redis_process: RedisProcess
) -> None:
    environment = {**RESPONDER, "REDIS_URL": redis_process.url}
    first, second = servers.start_pair(config=SESSION_CONFIG, environment=environment)
    token = first.create_token()
    async with (
        make_client(first, token) as asker,
        make_client(second, token) as other,
    ):
        await asker.request({"order": 7})
        await wait_for_question(asker)
        first.kill()
        await wait_until(lambda: asker.state != "open")
        async with make_client(second, token, asker.session) as decider:
            await wait_for_question(decider)
            await decider.approve(2, "c1")
            entry = await wait_for_end(decider, 2)
            assert (entry.state, entry.text) == ("done", "Order 7: approved.")
            call = find_call(decider)
            assert (call["state"], call["result"]) == ("done", {"refunded": 7})
            assert call["arguments"] == '{"order": 7}'
        assert other.state == "open"


async def test_a_wait_survives_the_restart_of_the_only_node(servers: Servers) -> None:
    server = servers.start(config=SESSION_CONFIG, environment=RESPONDER)
    token = server.create_token()
    async with make_client(server, token) as client:
        await client.request({"order": 7})
        await wait_for_question(client)
        connection = client.hello["connection"]
        server.terminate()
        server.start()
        await wait_until(lambda: client.hello["connection"] != connection)
        await client.deny(2, "c1", note="no")
        entry = await wait_for_end(client, 2)
        assert (entry.state, entry.text) == ("done", "Order 7: denied.")
