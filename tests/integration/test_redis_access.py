"""Test Redis behind TLS, and behind Sentinel through a fail-over."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from connections.layers.redis import RedisLayer
from connections.pool import make_bus, make_pool
from connections.pool.base import Pool, Slot
from connections.testing import free_port, wait_until
from connections.testing.communicators import make_config
from tests.integration.redis_process import RedisProcess, find_redis_server

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


class Sentinel:
    """A Redis, its replica, and one sentinel with a quorum of one."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisProcess().start()
        replicates = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = RedisProcess(*replicates).start()
        port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{port}/0?service=main"
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        self._process = subprocess.Popen(
            [find_redis_server(), str(file), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def remove(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self.master.remove()
        self.replica.remove()


@pytest.fixture
async def sentinel(tmp_path: Path) -> AsyncIterator[Sentinel]:
    made = Sentinel(tmp_path)

    def has_replica() -> bool:
        with made.replica.connect() as client:
            status: str | None = client.info("replication").get("master_link_status")
        return status == "up"

    await wait_until(has_replica, 20)
    yield made
    made.remove()


async def test_a_fail_over(sentinel: Sentinel) -> None:
    """The node is degraded until the replica takes over, and keeps its connections."""
    pool = make_node_pool(sentinel.url)
    await wait_until(lambda: _has_answered(pool), 20)
    await pool.acquire(make_slot("1"))
    sentinel.master.kill()
    await pool.acquire(make_slot("2"))
    assert pool.is_degraded
    await wait_until(lambda: not pool.is_degraded, 30)
    await pool.acquire(make_slot("3"))
    with sentinel.replica.connect() as client:
        assert client.info("replication")["role"] == "master"
        held = client.zrange("{orchestra:pool}:leases", 0, -1)
    assert set(held) == {"1", "2", "3"}
    await pool.close()


async def _has_answered(pool: Pool) -> bool:
    """The sentinel needs a moment to discover the replica."""
    await pool.renew([])
    return not pool.is_degraded
