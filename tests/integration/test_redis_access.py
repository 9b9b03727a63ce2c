"""Test Redis behind TLS, and behind Sentinel through a fail-over."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connections.checks import check_redis_policy
from connections.layers.redis import RedisLayer
from connections.pool import make_bus, make_pool
from connections.pool.base import Pool, Slot
from connections.redis.bus import RedisBus
from connections.testing import Proxy, free_port, wait_until
from connections.testing.communicators import make_config
from tests.integration.redis_process import RedisProcess
from tests.integration.sentinels import Sentinels

OPTIONS = {"node": {"lease_seconds": 3}}


def make_slot(name: str) -> Slot:
    return Slot(
        connection_id=name,
        client_id="c",
        node_id="a",
        opened_at=float(name),
        limit=10,
    )


def make_node_pool(url: str, node_id: str = "a") -> Pool:
    """Return a pool as a node creates it."""
    return make_pool(
        make_config(**OPTIONS),
        redis_url=url,
        bus=make_bus(url, node_id=node_id),
        on_taken=lambda renewal: None,
    )


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost, with its key beside it."""
    certificate = tmp_path / "redis.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-keyout", certificate.with_suffix(".key"), "-out", certificate),
            *("-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


@pytest.fixture
def tls_port(authority: Path) -> Iterator[int]:
    """The port of a Redis that accepts only TLS."""
    port = free_port()
    process = RedisProcess(
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(authority)),
        *("--tls-key-file", str(authority.with_suffix(".key"))),
        *("--tls-ca-cert-file", str(authority)),
    ).start()
    yield port
    process.remove()


async def test_redis_behind_tls(tls_port: int, authority: Path) -> None:
    """The pool, the bus and the layer work; an unknown certificate is rejected."""
    url = f"rediss://localhost:{tls_port}/0?ssl_ca_certs={authority}"
    pool = make_node_pool(url)
    await pool.acquire(make_slot("1"))
    assert not pool.is_degraded
    layer = RedisLayer([url])
    channel = await layer.new_channel()
    reading = asyncio.create_task(layer.receive(channel))
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    assert await asyncio.wait_for(reading, 10) == {"type": "x"}
    stranger = make_node_pool(f"rediss://localhost:{tls_port}/0", "b")
    await stranger.renew([])
    assert "CERTIFICATE_VERIFY_FAILED" in (stranger.degraded_reason or "")
    await layer.flush()
    await stranger.close()
    await pool.close()


async def test_a_fail_over(sentinels: Sentinels) -> None:
    """The node is degraded until the replica takes over, and keeps its connections."""
    pool = make_node_pool(sentinels.url)
    await pool.acquire(make_slot("1"))
    sentinels.primary.kill()
    await pool.acquire(make_slot("2"))
    assert pool.is_degraded
    await wait_until(lambda: not pool.is_degraded, 30)
    await pool.acquire(make_slot("3"))
    with sentinels.replica.connect() as client:
        held = client.zrange("{orchestra:pool}:leases", 0, -1)
    assert set(held) == {"1", "2", "3"}
    await pool.close()


async def test_a_fail_over_behind_one_address() -> None:
    """Open connections stay at the former master, which only reads from then on."""
    one = RedisProcess().start()
    other = RedisProcess("--replicaof", "127.0.0.1", str(one.port)).start()
    try:
        async with Proxy(one.port) as address:
            bus = RedisBus(address.url, node_id="a", probe_seconds=0.5)
            pool = make_pool(
                make_config(**OPTIONS),
                redis_url=address.url,
                bus=bus,
                on_taken=lambda renewal: None,
            )
            await pool.acquire(make_slot("1"))
            await wait_until(lambda: bus.is_subscribed)
            received: list[str] = []
            bus.on_message("test", lambda message: received.append(message["text"]))
            with one.connect() as former, other.connect() as master:
                master.replicaof("NO", "ONE")
                former.replicaof("127.0.0.1", other.port)
                address.target_port = other.port
                await pool.acquire(make_slot("2"))
                assert not pool.is_degraded
                assert "2" in master.zrange("{orchestra:pool}:leases", 0, -1)

                def is_received() -> bool:
                    master.publish(f"{bus.channels}all", '{"kind":"test","text":"x"}')
                    return bool(received)

                await wait_until(is_received, 20)
            await pool.close()
    finally:
        one.remove()
        other.remove()


async def make_cluster(nodes: list[RedisProcess]) -> None:
    """Give the first node all hash slots but the pool's, which the second gets."""
    with nodes[0].connect() as first, nodes[1].connect() as second:
        own: int = first.cluster("KEYSLOT", "{orchestra:pool}:leases")
        for start, end in ((0, own - 1), (own + 1, 16383)):
            first.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end)
        second.execute_command("CLUSTER", "ADDSLOTS", own)
        second.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        bus_port = nodes[0].bus_port
        second.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus_port)

        def is_complete() -> bool:
            found = [client.cluster("INFO") for client in (first, second)]
            return all(
                one["cluster_known_nodes"] == "2"
                and one["cluster_slots_assigned"] == "16384"
                and one["cluster_state"] == "ok"
                for one in found
            )

        await wait_until(is_complete, 30)


async def test_the_pool_follows_its_keys_in_a_cluster() -> None:
    """Whichever node REDIS_URL names; messages reach the subscribers of all."""
    nodes = [RedisProcess.clustered().start() for _ in range(2)]
    try:
        await make_cluster(nodes)
        pools = [
            make_node_pool(node.url, name)
            for node, name in zip(nodes, "ab", strict=True)
        ]
        for number, pool in enumerate(pools):
            await pool.acquire(make_slot(str(number + 1)))
        assert [(pool.degraded_reason) for pool in pools] == [None, None]
        assert [(await pool.get_usage()).slots for pool in pools] == [2, 2]
        for pool in pools:
            await pool.close()
    finally:
        for node in nodes:
            node.remove()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
async def test_a_redis_that_may_remove_keys_is_warned_of(
    policy: str, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    process = RedisProcess("--maxmemory-policy", policy).start()
    try:
        pool = make_node_pool(process.url)
        await pool.acquire(make_slot("1"))
        await pool.renew([])
        expected = policy != "noeviction"

        def find_events() -> list[Any]:
            return [getattr(one, "event", None) for one in caplog.records]

        if expected:
            await wait_until(lambda: "redis_evicts" in find_events())
        await pool.close()
        assert ("redis_evicts" in find_events()) == expected
        settings.REDIS_URL = process.url
        found = await asyncio.to_thread(check_redis_policy)
        assert [one.id for one in found] == ["connections.W016"] * expected
    finally:
        process.remove()
