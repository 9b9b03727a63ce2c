"""Test who is present in a session, and who types there."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from connections.bus import Bus
from connections.postgres.bus import PostgresBus
from connections.redis.bus import RedisBus
from connections.testing import wait_until
from sessions_history.fan_out import FanOut
from sessions_history.presence import TypingEvents
from tests.connections.conversations import receive_close
from tests.connections.pool_database import ForeignDatabase, PoolDatabase
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, start_talk, talk

ASKED: dict[str, Any] = {"presence": 1}
QUICK: dict[str, Any] = {"node": {"beat_seconds": 0.2}}


async def read_members(one: Talk) -> list[str]:
    await one.send(type="present")
    listed = await one.receive_type("present")
    return [member["member"] for member in listed["members"]]


@pytest.mark.django_db(transaction=True)
async def test_a_client_that_asks_hears_who_joins_and_is_listed(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node, **ASKED) as alice:
        member = alice.hello["member"]
        assert member.startswith("guest:")
        joined = await alice.receive_type("presence.joined")
        assert joined["room"] == f"session:{alice.session_id}"
        assert [one["member"] for one in joined["members"]] == [member]
        assert await read_members(alice) == [member]
    await node.stop()


@pytest.mark.django_db(transaction=True)
async def test_a_client_that_does_not_ask_gets_nothing_of_it(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with talk(node) as plain, talk(node, plain.session_id, **ASKED) as asking:
        assert "member" not in plain.hello
        await asking.receive_type("presence.joined")
        await asking.send(type="typing", active=True)
        assert await read_members(asking) == [asking.hello["member"]]
        for kind in ("typing", "present"):
            await plain.send(type=kind, active=True)
            error = await plain.receive()
            assert (error["type"], error["code"]) == ("error", "invalid_message")
            assert "presence=1" in error["message"]


@pytest.mark.django_db(transaction=True)
async def test_typing_reaches_the_other_connections_and_ends_with_the_message(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    async with (
        talk(node, **ASKED) as here,
        talk(node, here.session_id, **ASKED) as there,
    ):
        await here.send(type="typing", active=True)
        event = await there.receive_type("typing")
        assert event == {
            "type": "typing",
            "member": here.hello["member"],
            "connection": here.hello["connection"],
            "active": True,
        }
        await here.say("done")
        assert (await there.receive_type("typing"))["active"] is False
        await there.receive_type("entry")
        await there.send(type="typing", active=True)
        assert (await here.receive_type("typing"))["connection"] == (
            there.hello["connection"]
        )


@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_ends_types_no_longer(make_node: MakeNode) -> None:
    node = make_node(**QUICK)
    async with talk(node, **ASKED) as stays:
        async with talk(node, stays.session_id, **ASKED) as leaves:
            await leaves.send(type="typing", active=True)
            assert (await stays.receive_type("typing"))["active"] is True
        event = await stays.receive_type("typing")
        assert event["active"] is False
        assert event["connection"] == leaves.hello["connection"]


@pytest.mark.django_db(transaction=True)
async def test_repeated_typing_is_sent_once(make_node: MakeNode) -> None:
    node = make_node(**QUICK)
    async with (
        talk(node, **ASKED) as here,
        talk(node, here.session_id, **ASKED) as there,
    ):
        for active in (True, True, True, False):
            await here.send(type="typing", active=active)
        received = [await there.receive_type("typing") for _ in range(2)]
        assert [one["active"] for one in received][-1] is False


@pytest.mark.django_db(transaction=True)
async def test_typing_is_stored_nowhere(make_node: MakeNode) -> None:
    node = make_node(**QUICK)
    async with (
        talk(node, **ASKED) as here,
        talk(node, here.session_id, **ASKED) as there,
    ):
        await here.send(type="typing", active=True)
        await there.receive_type("typing")
        await here.say("hello")
        assert (await there.receive_type("entry"))["offset"] == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("wrong", [None, 1, "true", []])
async def test_wrong_typing_is_refused(make_node: MakeNode, wrong: Any) -> None:
    async with talk(make_node(**QUICK), **ASKED) as alice:
        await alice.send(type="typing", active=wrong)
        error = await alice.receive_type("error")
        assert (error["code"], error["message"]) == (
            "invalid_message",
            "active: true or false",
        )


@pytest.mark.django_db(transaction=True)
async def test_a_wrong_query_is_refused(make_node: MakeNode) -> None:
    communicator = start_talk(make_node(), presence="yes")
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4002
    await communicator.disconnect()


MakeFanOut = Callable[[str], FanOut]


@pytest.fixture(scope="module")
def bus_database(postgres_server: PostgresProcess) -> PoolDatabase:
    return PoolDatabase(postgres_server, "typing")


@pytest.fixture(params=["redis", "postgres", "relay"])
async def make_fan_out(request: pytest.FixtureRequest) -> AsyncIterator[MakeFanOut]:
    """Makes the fan-out of each node, over each way between nodes."""
    made: list[Any] = []

    def make(node_id: str) -> FanOut:
        bus: Bus | None = None
        url = None
        database: Any = None
        if request.param == "postgres":
            server: PoolDatabase = request.getfixturevalue("bus_database")
            database = ForeignDatabase(server.port, server.name)
            bus = PostgresBus(
                database, node_id=node_id, listen_url=server.server.url(server.name)
            )
        else:
            redis: RedisProcess = request.getfixturevalue("redis_process")
            url = redis.url
            if request.param == "redis":
                bus = RedisBus(url, node_id=node_id)
        fan_out = FanOut(
            database,
            node_id=node_id,
            redis_url=None if bus else url,
            passes=None,  # type: ignore[arg-type]
            bus=bus,
        )
        made.extend(one for one in (fan_out, bus, database) if one is not None)
        return fan_out

    yield make
    for one in made:
        await one.close()


async def test_typing_reaches_the_other_nodes(make_fan_out: MakeFanOut) -> None:
    nodes = [make_fan_out(node_id) for node_id in ("a", "b")]
    events = [TypingEvents(one) for one in nodes]
    heard: list[list[Any]] = [[], []]
    for fan_out, typing, received in zip(nodes, events, heard, strict=True):
        typing.join("s", f"of {len(received)}", received.append)
        await fan_out.listen("s")
    event = {"type": "typing", "member": "m", "connection": "c", "active": True}

    sent = 0

    def send_until_heard() -> bool:
        nonlocal sent
        sent += 1
        # An event that is sent before the other node listens is lost.
        events[0].send("s", event)
        return event in heard[1]

    await wait_until(send_until_heard)
    assert heard[0].count(event) == sent


async def test_what_a_client_posts_reaches_its_connection_on_another_node(
    make_fan_out: MakeFanOut,
) -> None:
    nodes = [make_fan_out(node_id) for node_id in ("a", "b")]
    events = [TypingEvents(one) for one in nodes]
    heard: list[list[Any]] = [[], []]
    for fan_out, typing, received in zip(nodes, events, heard, strict=True):
        typing.join("s", f"of {fan_out is nodes[1]}", received.append)
        await fan_out.listen("s")
    posted = {"type": "typing", "member": "m", "connection": "of True", "active": True}

    def post_until_heard() -> bool:
        # A message that is sent before the other node listens is lost.
        events[0].post("s", posted)
        return posted in heard[1]

    await wait_until(post_until_heard)
    # The connection sends the event itself; nobody else gets what was posted.
    assert heard[0] == []


async def test_a_node_without_listeners_ignores_typing(
    make_fan_out: MakeFanOut,
) -> None:
    typing = TypingEvents(make_fan_out("a"))
    heard: list[Any] = []
    typing.join("s", "c", heard.append)
    typing.leave("s", "c")
    typing.leave("s", "c")
    typing.send("s", {"type": "typing", "connection": "d", "active": True})
    assert heard == []
