"""Test what nodes share in a Redis Cluster, through a fail-over."""

import asyncio
from pathlib import Path

from connections.layers.redis import RedisLayer
from connections.pool.base import Renewal
from connections.redis.bus import RedisBus
from connections.testing import RawClient, Servers, read_close, wait_until
from tests.connections.pool_nodes import RedisNodePool, is_recovering
from tests.integration.echo import assert_alive, opened
from tests.integration.group_socket import GroupSocket, say_until_heard
from tests.integration.redis_cluster import RedisCluster
from tests.integration.session_client import SessionClient

LIMIT = 3
SLOW = {
    # Beats and reads too slow to find what a message between nodes did not tell.
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
    "sessions__position_seconds": 60,
}


def test_a_killed_primary_is_failed_over_with_its_keys(
    redis_cluster: RedisCluster,
) -> None:
    """The replica that takes its place has what the primary had acknowledged."""
    primary = redis_cluster.find_primary("key")
    with primary.connect() as client:
        client.set("key", "value")
        assert client.wait(1, 5000) == 1
    primary.kill()
    redis_cluster.wait_for_failover(primary)
    successor = redis_cluster.find_primary("key")
    assert successor is not primary
    with successor.connect() as client:
        assert client.get("key") == "value"


async def test_the_limits_are_exact_again_after_a_failover(
    redis_cluster: RedisCluster,
) -> None:
    """The slots are on the replica, so that no connection is dropped."""
    pool = RedisNodePool(redis_cluster.url, "a", lease_seconds=60)
    primary = redis_cluster.find_primary("{orchestra:pool}:state")
    with primary.connect() as client:
        client.hset("{orchestra:pool}:state", "generation", "1")
    slots = await pool.take("1", "2", limit=2)
    with primary.connect() as client:
        assert client.wait(1, 5000) == 1
    primary.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)
    assert await pool.renew(slots) == Renewal()
    assert not await is_recovering(pool)
    assert await pool.acquire(pool.slot("3", 9, limit=2)) == (slots[0],)
    await pool.close()


async def test_messages_arrive_while_a_named_node_is_away(
    redis_cluster: RedisCluster,
) -> None:
    """Bus and layer pass through another node of the URL."""
    killed, _ = redis_cluster.nodes[:2]
    killed.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, killed)
    one, other = (RedisBus(redis_cluster.url, node_id=name) for name in "ab")
    heard: list[object] = []
    one.on_message("said", lambda message: heard.append(message["text"]))
    await one.start()
    await wait_until(lambda: one.is_subscribed)
    assert await other.publish("said", {"text": "hello"})
    await wait_until(lambda: heard == ["hello"])
    layer = RedisLayer([redis_cluster.url])
    channel = await layer.new_channel()
    reading = asyncio.create_task(layer.receive(channel))
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    assert await asyncio.wait_for(reading, 10) == {"type": "x"}
    await layer.flush()
    await one.close()
    await other.close()


async def test_groups_and_limits_outlive_a_primary(
    servers: Servers, redis_cluster: RedisCluster, tmp_path: Path
) -> None:
    """Two nodes go on while the primary with the slots is killed and failed over."""
    pair = servers.start_pair(
        command="daphne",
        application="tests.integration.consumers:application",
        config={**SLOW, "anonymous": "true", "max_connections_per_client": LIMIT},
        environment={
            "REDIS_URL": redis_cluster.url,
            "SEEN": str(tmp_path / "seen"),
            "LOG_FORMAT": "json",
        },
    )

    async def open_socket(node: int, source: str) -> RawClient:
        origin = f"Origin: {pair[node].url}"
        return await RawClient.open(pair[node].port, "/group/", origin, source=source)

    members = [
        GroupSocket(await open_socket(node, f"127.0.0.2{node}")) for node in (0, 1)
    ]
    await say_until_heard(members[0], "before", members)
    held = [await open_socket(node, "127.0.0.10") for node in (0, 0, 1)]

    primary = redis_cluster.find_primary("{orchestra:pool}:state")
    primary.kill()
    # No client is refused meanwhile; each node counts its own.
    late = [GroupSocket(await open_socket(node, f"127.0.0.3{node}")) for node in (0, 1)]
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)
    for node in pair:
        await wait_until(lambda node=node: '"pool_restored"' in node.log(), 60)

    everyone = [*members, *late]
    await say_until_heard(members[0], "after", everyone)
    await say_until_heard(late[1], "after as well", everyone)
    assert all(one.is_there for one in everyone)
    newest = await open_socket(1, "127.0.0.10")
    assert await read_close(held[0]) == (4005, "evicted")
    for one in (*held[1:], newest):
        await GroupSocket(one).say("still there")
    await wait_until(
        lambda: all(one.texts.count("still there") == LIMIT for one in members), 30
    )


async def test_kicks_and_hints_outlive_a_node_that_the_url_names(
    servers: Servers, redis_cluster: RedisCluster
) -> None:
    pair = servers.start_pair(
        config=SLOW,
        environment={
            "REDIS_URL": redis_cluster.url,
            "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
        },
    )
    token, other = pair[0].create_token(), pair[0].create_token("bob")
    here, there = SessionClient(other), SessionClient(other)
    await here.connect(pair[0])
    there.session_id = here.session_id
    await there.connect(pair[1])
    await here.say({"text": "before"})
    await there.wait(lambda: "before" in there.texts().values())

    killed = redis_cluster.nodes[0]
    killed.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, killed)

    async def is_heard() -> bool:
        await here.say({"text": "after"})
        return "after" in there.texts().values()

    # What is said before the subscription is back reaches nobody.
    await wait_until(is_heard, 60)
    async with opened(pair[0], token, 1) as near, opened(pair[1], token, 1) as far:
        kick = ("connections", "kick", "--client", "alice")
        # Nothing is recorded before the first beat, so the command finds nobody.
        await asyncio.to_thread(pair[0].manage, *kick, is_checked=False)
        for connection in (*near, *far):
            assert await read_close(connection, seconds=10) == (4009, "kicked")
    await here.cut()
    await there.cut()
    async with opened(pair[1], other, 1) as (bystander,):
        await assert_alive(bystander)
