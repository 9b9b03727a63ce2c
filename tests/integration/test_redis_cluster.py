"""Test what nodes share in a Redis Cluster, through a fail-over."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from connections.exceptions import PoolFull, PoolUnavailable
from connections.layers.redis import RedisLayer
from connections.pool.base import Renewal, Slot
from connections.pool.codec import encode_word
from connections.pool.sharded import SHARDS, name_shards
from connections.redis.bus import RedisBus
from connections.testing import (
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    Servers,
    build_frame,
    read_close,
    wait_until,
)
from connections.testing.waiting import scale
from tests.connections.pool_nodes import ShardedNodePool, is_recovering, leased_in
from tests.integration.echo import assert_alive, opened
from tests.integration.group_socket import GroupSocket, say_until_heard
from tests.integration.redis_cluster import RedisCluster
from tests.integration.redis_process import RedisProcess
from tests.integration.session_client import SessionClient

TAGS = name_shards("orchestra")
LIMIT = 3
SLOW = {
    # Beats and reads too slow to find what a message between nodes did not tell.
    "node__beat_seconds": 60,
    "node__lease_seconds": 180,
    "node__node_timeout_seconds": 180,
    "sessions__position_seconds": 60,
    # Clients here do not answer pings all the time.
    "ping_interval_seconds": 600,
}


def test_a_killed_primary_is_failed_over_with_its_keys(
    redis_cluster: RedisCluster,
) -> None:
    """The replica that takes its place has what the primary had acknowledged."""
    primary = redis_cluster.find_primary("key")
    with primary.connect() as client:
        client.set("key", "value")
        assert client.wait(1, round(scale(4000))) == 1
    primary.kill()
    redis_cluster.wait_for_failover(primary)
    successor = redis_cluster.find_primary("key")
    assert successor is not primary
    with successor.connect() as client:
        assert client.get("key") == "value"


def test_a_primary_that_takes_over_again_has_another_master_replid(
    redis_cluster: RedisCluster,
) -> None:
    """Its run_id is the same, so the scripts of the pool compare both."""
    first = redis_cluster.find_primary("key")
    replica = find_replica(redis_cluster, first)
    before = read_ids(first)
    for successor in (replica, first):
        redis_cluster.fail_over_to(successor, "key")
    run_id, replication_id = read_ids(first)
    assert run_id == before[0]
    assert replication_id != before[1]


def find_replica(cluster: RedisCluster, primary: RedisProcess) -> RedisProcess:
    for node in cluster.nodes:
        with node.connect() as client:
            role: Any = client.role()
        if role[0] == "slave" and int(role[2]) == primary.port:
            return node
    raise LookupError("the primary has no replica")


def read_ids(server: RedisProcess) -> tuple[str, str]:
    """Return what the scripts of the pool know a primary by."""
    with server.connect() as client:
        found: Any = client.info()
    return found["run_id"], found["master_replid"]


def make_pool(cluster: RedisCluster, node_id: str, **options: Any) -> ShardedNodePool:
    return ShardedNodePool(
        cluster.url, node_id, shards=SHARDS, lease_seconds=scale(60), **options
    )


def find_shard(cluster: RedisCluster, word: str) -> RedisProcess:
    """Return the primary with the slots of the client whose id ends with a word."""
    for tag in TAGS:
        primary = cluster.find_primary(f"{{{tag}}}:slots")
        with primary.connect() as client:
            if any(one.endswith(word) for one in client.smembers(f"{{{tag}}}:clients")):
                return primary
    raise LookupError(f"no shard has slots of {word}")


def let_shards_be_exact(cluster: RedisCluster) -> None:
    """Let the pool in an empty cluster be one that is not recovering."""
    for tag in TAGS:
        with cluster.find_primary(f"{{{tag}}}:state").connect() as client:
            client.hset(f"{{{tag}}}:state", "generation", "1")


def test_every_primary_has_shards(redis_cluster: RedisCluster) -> None:
    primaries = [redis_cluster.find_primary(f"{{{tag}}}:state") for tag in TAGS]
    assert sorted(Counter(primaries).values()) == [2, 3, 3]


async def test_the_limits_are_exact_again_after_a_failover(
    redis_cluster: RedisCluster,
) -> None:
    """The slots are on the replica, so that no connection is dropped."""
    let_shards_be_exact(redis_cluster)
    pool = make_pool(redis_cluster, "a")
    slots = await pool.take("1", "2", limit=2, client="alice")
    primary = find_shard(redis_cluster, "alice")
    with primary.connect() as client:
        assert client.wait(1, round(scale(4000))) == 1
    primary.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)
    assert await pool.renew(slots) == Renewal()
    assert not await is_recovering(pool)
    newest = pool.slot("3", 9, limit=2, client="alice")
    assert await pool.acquire(newest) == (slots[0],)
    await pool.close()


async def test_a_primary_that_is_silent_for_ever_is_passed_over(
    redis_cluster: RedisCluster,
) -> None:
    """As one whose host is gone: no connection to it breaks, none answers."""
    let_shards_be_exact(redis_cluster)
    pool = make_pool(redis_cluster, "a", timeout_seconds=scale(2))
    slots = await pool.take("1", client="alice")
    silent = find_shard(redis_cluster, "alice")
    silent.pause()
    await asyncio.to_thread(redis_cluster.wait_for_failover, silent)

    async def is_renewed() -> bool:
        with contextlib.suppress(PoolUnavailable):
            return await pool.renew(slots) == Renewal()
        return False

    await wait_until(is_renewed, 60)
    silent.resume()
    await pool.close()


@pytest.mark.parametrize("key", ["{orchestra:pool:total}:total", "the fullest shard"])
async def test_the_total_is_full_and_not_exceeded_through_a_failover(
    redis_cluster: RedisCluster, key: str
) -> None:
    """Places are lent on, whichever primary is killed, and none is there twice."""
    let_shards_be_exact(redis_cluster)
    pools = [make_pool(redis_cluster, name, max_total=20) for name in "ab"]

    async def fill(first: int) -> list[Slot]:
        taken: list[Slot] = []
        for number in range(first, first + 40):
            pool = pools[number % 2]
            slot = pool.slot(f"{number}", number, client=f"client {number}")
            with contextlib.suppress(PoolFull):
                await pool.acquire(slot)
                taken.append(slot)
        return taken

    slots = await fill(0)
    assert len(slots) == 20
    for slot in slots[:10]:
        pools[slots.index(slot) % 2].release(slot.connection_id)
    primary = redis_cluster.find_primary(key) if "total" in key else None
    if primary is None:
        primary = find_shard(redis_cluster, encode_word(slots[-1].client_id))
    primary.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)

    async def is_released() -> bool:
        return (await pools[0].get_usage()).slots == 10

    await wait_until(is_released, 30)
    later = await fill(100)
    assert len(later) == 10
    primaries = {redis_cluster.find_primary(f"{{{tag}}}:leases") for tag in TAGS}
    held = {one.connection_id for one in (*slots[10:], *later)}
    await wait_until(lambda: leased_in(*primaries) == held)
    for pool in pools:
        await pool.close()


async def test_the_total_of_two_nodes_holds_through_a_failover(
    servers: Servers, redis_cluster: RedisCluster
) -> None:
    """Connections stay, and not one more is admitted than before."""
    total = 9
    config = {**SLOW, "anonymous": "true", "max_total_connections": total}
    environment = {"REDIS_URL": redis_cluster.url, "LOG_FORMAT": "json"}
    pair = servers.start_pair(config=config, environment=environment)
    assert all("pool: cluster" in node.log() for node in pair)
    sources = (f"127.0.1.{number}" for number in range(1, 200))

    async def open_one(number: int) -> RawClient:
        node = pair[number % 2]
        return await RawClient.open(
            node.port, "/ws/echo/", f"Origin: {node.url}", source=next(sources)
        )

    async def say(client: RawClient) -> Frame:
        """Return what the server answers, an echo or the end."""
        await client.send(build_frame(TEXT, b"hello"))
        while (frame := await client.read_frame()).opcode == PING:
            await client.send(build_frame(PONG, frame.payload))
        return frame

    async def is_admitted(number: int) -> bool:
        """Return True for a connection that stays; else it was refused."""
        client = await open_one(number)
        frame = await say(client)
        if frame.opcode == TEXT:
            held.append(client)
        else:
            assert (frame.close_code, frame.close_reason) == (4103, "pool_full")
        return frame.opcode == TEXT

    held: list[RawClient] = []
    for number in range(total):
        assert await is_admitted(number)
    assert not await is_admitted(0)
    assert not await is_admitted(1)
    primary = redis_cluster.find_primary("{orchestra:pool:total}:total")
    primary.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)
    for number in (0, 1):
        # A node alone with the killed primary still counted its own.
        async def is_refused(number: int = number) -> bool:
            return not await is_admitted(number)

        await wait_until(is_refused, 60)
    for client in held[:total]:
        assert (await say(client)).opcode == TEXT


async def test_messages_arrive_while_a_named_node_is_away(
    redis_cluster: RedisCluster,
) -> None:
    """Bus and layer pass through another node of the URL."""
    killed, _ = redis_cluster.nodes[:2]
    killed.kill()
    await asyncio.to_thread(redis_cluster.wait_for_failover, killed)
    times: Any = {"timeout_seconds": scale(5), "probe_seconds": scale(5)}
    one, other = (RedisBus(redis_cluster.url, node_id=name, **times) for name in "ab")
    heard: list[object] = []
    one.on_message("said", lambda message: heard.append(message["text"]))
    await one.start()
    await wait_until(lambda: one.is_subscribed)
    assert await other.publish("said", {"text": "hello"})
    await wait_until(lambda: heard == ["hello"])
    layer = RedisLayer([redis_cluster.url], **times)
    channel = await layer.new_channel()
    reading = asyncio.create_task(layer.receive(channel))
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    assert await asyncio.wait_for(reading, scale(10)) == {"type": "x"}
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

    primary = find_shard(redis_cluster, "127.0.0.10")
    primary.kill()
    # No client is refused meanwhile; each node counts its own.
    late = [GroupSocket(await open_socket(node, f"127.0.0.3{node}")) for node in (0, 1)]
    await asyncio.to_thread(redis_cluster.wait_for_failover, primary)
    for node in pair:
        # One that had nothing to do with that primary has not noticed.
        if '"pool_degraded"' in node.log():
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
