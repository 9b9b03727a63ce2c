"""Test presence that nodes share, on a real Redis."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from connections.consumers import LimitedJsonConsumer
from connections.exceptions import PresenceUnavailable
from connections.node.node import Node
from connections.presence import Presence, count, get_present, is_online
from connections.presence.base import Change
from connections.presence.redis import RedisStore
from connections.presence.stores import forget_members
from connections.redis.bus import RedisBus
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from tests.connections.conversations import open_connection, receive_type
from tests.integration.redis_process import RedisProcess
from tests.planted import find_in_redis

MakeNode = Callable[..., Node]

STATE = "{orchestra:presence}:state"


class Room(LimitedJsonConsumer):
    def presence(self) -> Any:
        return Presence("lobby", {"secret": "word"})


@pytest.fixture
async def make_shared(redis_server: RedisProcess) -> AsyncIterator[MakeNode]:
    """Make nodes that share one Redis, and beat by themselves."""
    made: list[Node] = []

    def make(**presence: Any) -> Node:
        config = make_config(
            node={"beat_seconds": 0.1, "lease_seconds": scale(1)},
            presence={"lease_seconds": scale(1), "linger_seconds": 0.5, **presence},
        )
        made.append(Node(config, redis_url=redis_server.url))
        return made[-1]

    yield make
    for node in made:
        await node.stop()
        await node.pool.close()


async def knows(room: str, members: set[str]) -> bool:
    try:
        return {one.member for one in await get_present(room)} == members
    except PresenceUnavailable:
        return False


async def test_nodes_see_each_others_members_and_events(make_shared: MakeNode) -> None:
    one, other = make_shared(), make_shared()
    first = await open_connection(Room, one, client_id="user:1")
    assert (await receive_type(first, "presence.joined"))["room"] == "lobby"
    second = await open_connection(Room, other, client_id="user:2")
    joined = await receive_type(first, "presence.joined")
    assert [one["member"] for one in joined["members"]] == ["user:2"]
    await wait_until(lambda: knows("lobby", {"user:1", "user:2"}))
    await second.disconnect()
    left = await receive_type(first, "presence.left")
    assert left["members"] == [{"member": "user:2"}]
    assert await count("lobby") == 1
    await first.disconnect()


async def test_a_process_without_a_node_asks_redis(
    make_shared: MakeNode, redis_server: RedisProcess, settings: Any
) -> None:
    settings.REDIS_URL = redis_server.url
    settings.WEBSOCKET = {}
    with pytest.raises(PresenceUnavailable, match="not yet reported"):
        await is_online("user:1")
    store = RedisStore(
        redis_server.url,
        bus=None,
        lease_seconds=15,
        linger_seconds=15,
        max_members=9,
        beat_seconds=0,
    )
    await store.renew("n", 0)
    await store.apply("n", [Change(room="online", member="user:1", is_present=True)])
    await store.close()
    assert await sync_to_async(async_to_sync(is_online))("user:1")
    assert not await is_online("user:2")


async def test_a_forgotten_member_is_in_no_key(
    make_shared: MakeNode, redis_server: RedisProcess, settings: Any
) -> None:
    """Its room, its public data and its slot are gone while its linger would last."""
    settings.REDIS_URL = redis_server.url
    node = make_shared(linger_seconds=60)
    first = await open_connection(Room, node, client_id="user:planted")
    await wait_until(lambda: knows("lobby", {"user:planted"}))
    with redis_server.connect() as client:
        assert find_in_redis(client, "planted")
        await first.disconnect()
        await wait_until(lambda: client.zcard("{orchestra:presence}:due") == 2)
        # One script reads a part of those that linger.
        others = {f"lobby\nuser:{n}": 2e12 for n in range(2000)}
        client.zadd("{orchestra:presence}:due", others)
        await forget_members(make_config(), ["user:planted"])
        assert client.zcard("{orchestra:presence}:due") == len(others)
        assert find_in_redis(client, "planted", "secret") == []


async def test_an_outage_keeps_joins_and_is_no_offline(
    make_shared: MakeNode, redis_server: RedisProcess
) -> None:
    node = make_shared()
    first = await open_connection(Room, node, client_id="user:1")
    await wait_until(lambda: knows("lobby", {"user:1"}))
    redis_server.pause()
    second = await open_connection(Room, node, client_id="user:2")
    await wait_until(lambda: node.presence.degraded_reason is not None)
    with pytest.raises(PresenceUnavailable):
        await is_online("user:3")
    assert "presence_degraded" in node.presence.describe()
    redis_server.resume()
    await wait_until(lambda: node.presence.degraded_reason is None)
    await wait_until(lambda: knows("lobby", {"user:1", "user:2"}))
    await first.disconnect()
    await second.disconnect()


async def test_a_redis_that_lost_its_keys_gets_members_quietly(
    make_shared: MakeNode, redis_server: RedisProcess
) -> None:
    """Nobody is offline meanwhile, and nobody joins again."""
    node = make_shared()
    first = await open_connection(Room, node, client_id="user:1")
    await receive_type(first, "presence.joined")
    await wait_until(lambda: knows("lobby", {"user:1"}))
    redis_server.flush()
    second = await open_connection(Room, node, client_id="user:2")
    joined = await receive_type(first, "presence.joined")
    assert [one["member"] for one in joined["members"]] == ["user:2"]
    await wait_until(lambda: knows("lobby", {"user:1", "user:2"}))
    await first.disconnect()
    await second.disconnect()


async def test_one_lost_key_of_a_node_is_noticed(
    make_shared: MakeNode, redis_server: RedisProcess
) -> None:
    node = make_shared()
    first = await open_connection(Room, node, client_id="user:1")
    await wait_until(lambda: knows("lobby", {"user:1"}))
    with redis_server.connect() as client:
        client.delete(f"{{orchestra:presence}}:held:{node.node_id}")
        client.delete("{orchestra:presence}:room:lobby")
        held = f"{{orchestra:presence}}:held:{node.node_id}"
        await wait_until(lambda: client.scard(held) == 2)
        assert client.hlen("{orchestra:presence}:room:lobby") == 1
    await first.disconnect()


async def test_a_new_subscription_after_an_outage_is_a_gap(
    make_shared: MakeNode, redis_server: RedisProcess
) -> None:
    node = make_shared()
    assert node.bus is not None
    await node.bus.start()
    first = await open_connection(Room, node, client_id="user:1")
    await wait_until(lambda: node.bus is not None and node.bus.is_subscribed)
    with redis_server.connect() as client:
        client.client_kill_filter(_type="pubsub")
    gap = await receive_type(first, "presence.gap")
    assert gap == {"type": "presence.gap", "room": "lobby"}
    await first.disconnect()


async def test_a_newer_format_is_refused(redis_server: RedisProcess) -> None:
    with redis_server.connect() as client:
        client.hset(STATE, mapping={"generation": "1", "format": 2})
    store = RedisStore(
        redis_server.url, bus=None, lease_seconds=1, linger_seconds=1, max_members=9
    )
    with pytest.raises(PresenceUnavailable, match="format 2"):
        await store.count("lobby")
    await store.close()


async def test_public_data_is_encrypted_with_the_keys(
    make_shared: MakeNode, redis_server: RedisProcess, settings: Any
) -> None:
    settings.REDIS_ENCRYPTION_KEYS = ["k" * 32]
    one, other = make_shared(), make_shared()
    first = await open_connection(Room, one, client_id="user:1")
    await receive_type(first, "presence.joined")
    second = await open_connection(Room, other, client_id="user:2")
    joined = await receive_type(first, "presence.joined")
    assert joined["members"][0]["data"] == {"secret": "word"}
    await wait_until(lambda: knows("lobby", {"user:1", "user:2"}))
    assert [one.data for one in await get_present("lobby")] == [{"secret": "word"}] * 2
    with redis_server.connect() as client:
        stored = client.hvals("{orchestra:presence}:room:lobby")
    assert len(stored) == 2
    assert not any("word" in value for value in stored)
    await first.disconnect()
    await second.disconnect()


async def test_members_linger_from_the_end_of_their_nodes_lease(
    redis_server: RedisProcess,
) -> None:
    """However late their node's members are released, a hundred at a time."""
    store = RedisStore(
        redis_server.url,
        bus=None,
        lease_seconds=15,
        linger_seconds=15,
        max_members=1000,
        beat_seconds=0,
    )
    await store.renew("a", 0)
    left = Change(room="lobby", member="user:0", is_present=False)
    with redis_server.connect() as client:
        ended_at = client.time()[0] * 1000 - 5000
        client.zadd("{orchestra:presence}:nodes", {"killed": ended_at})
        for number in range(250):
            member = f"user:{number}"
            client.sadd("{orchestra:presence}:held:killed", f"lobby\n{member}")
            client.hset("{orchestra:presence}:room:lobby", member, "0|killed|{}")
        # One of them came to this node, and left it again.
        await store.apply("a", [dataclasses.replace(left, is_present=True)])
        await store.apply("a", [left])
        await store.renew("a", 0)
        due = dict(client.zrange("{orchestra:presence}:due", 0, -1, withscores=True))
    assert len(due) == 250
    assert due.pop("lobby\nuser:0") > ended_at + 15_000
    assert set(due.values()) == {ended_at + 15_000}
    await store.close()


async def test_a_clock_of_redis_that_went_back_leaves_nobody_for_long(
    redis_server: RedisProcess,
) -> None:
    """A lease that ends later than possible is shortened."""
    bus = RedisBus(redis_server.url, node_id="a")
    store = RedisStore(
        redis_server.url,
        bus=bus,
        lease_seconds=1,
        linger_seconds=0.5,
        max_members=9,
        beat_seconds=0,
    )
    with redis_server.connect() as client:
        client.zadd("{orchestra:presence}:nodes", {"killed": 9e12})
        client.sadd("{orchestra:presence}:held:killed", "lobby\nuser:1")
        client.hset("{orchestra:presence}:room:lobby", "user:1", "0|killed|{}")

    async def is_empty() -> bool:
        await store.renew("a", 0)
        return await store.count("lobby") == 0

    await wait_until(is_empty)
    await store.close()
    await bus.close()
