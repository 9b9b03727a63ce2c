"""Test approvals and regeneration on live nodes, one of which is killed."""

import pytest

from connections.client import RequestFailed
from connections.testing import Servers, wait_until
from orchestra.agents import PLANNER, RESEARCHER, SEARCH_WEB, WRITER
from tests.integration.approving import (
    find_call,
    make_client,
    wait_for_end,
    wait_for_question,
)
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SESSION_CONFIG

RESPONDER = {"SESSIONS_RESPONDER": "tests.integration.responders.Careful"}


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


async def test_the_agents_of_the_page_go_on_after_the_death_of_their_node(
    servers: Servers, redis_process: RedisProcess
) -> None:
    environment = {
        "SESSIONS_RESPONDER": "orchestra.agents.AgentsResponder",
        "AGENTS_DELAY_SECONDS": "0",
        "REDIS_URL": redis_process.url,
    }
    first, second = servers.start_pair(config=SESSION_CONFIG, environment=environment)
    token = first.create_token()
    async with make_client(first, token) as asker:
        await asker.request({"text": "Search the web for slow readers"})
        part_id = f"{SEARCH_WEB}-2"
        await wait_for_question(asker, part_id=part_id)
        async with make_client(second, token, asker.session) as decider:
            await wait_for_question(decider, part_id=part_id)
            first.kill()
            await decider.approve(2, part_id)
            entry = await wait_for_end(decider, 2)
            assert entry.state == "done"
            assert find_call(decider, part_id=part_id)["state"] == "done"
            authors = [one["author"] for one in entry.parts]
            kinds = [one["type"] for one in entry.parts if one["type"] != "source"]
            assert kinds == [
                *("reasoning", "tool_call", "tool_call", "reasoning", "text", "usage")
            ]
            assert list(dict.fromkeys(authors)) == [PLANNER, RESEARCHER, WRITER]
            assert "The web adds" in entry.parts[3]["text"]


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
