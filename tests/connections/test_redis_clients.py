import socket
from collections.abc import Iterator

import pytest
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from connections.redis.clients import (
    ask,
    close_client,
    make_client,
    make_cluster_client,
    make_layer_host,
    parse_sentinel_url,
)
from connections.redis.cluster import parse_cluster_url
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess


def test_tls_is_redis_pys_own() -> None:
    client = make_client("rediss://host/2?ssl_ca_certs=/etc/ca.pem", timeout_seconds=1)
    pool = client.connection_pool
    assert pool.connection_class is SSLConnection
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert pool.connection_kwargs["db"] == 2


def test_options_in_the_url_win() -> None:
    client = make_client("redis://host?socket_timeout=7", timeout_seconds=1)
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 7
    assert client.connection_pool.connection_kwargs["socket_connect_timeout"] == 3


def test_a_sentinel_url_names_hosts_service_and_database() -> None:
    url = "redis+sentinel://user:p%40ss@one:1,two/3?service=main&client_name=x"
    assert parse_sentinel_url(url) == {
        "sentinels": [("one", 1), ("two", 26379)],
        "master_name": "main",
        "db": 3,
        "client_name": "x",
        "username": "user",
        "password": "p@ss",
        "sentinel_kwargs": {
            "username": "user",
            "password": "p@ss",
            "socket_timeout": 0.3,
            "socket_connect_timeout": 0.3,
            "retry": Retry(NoBackoff(), 0),
        },
    }


def test_a_client_asks_the_sentinels() -> None:
    url = "rediss+sentinel://one:1/0?service=main"
    pool = make_client(url, timeout_seconds=1).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    assert pool.connection_kwargs["socket_connect_timeout"] == 3


def test_a_sentinel_url_needs_a_service() -> None:
    with pytest.raises(ValueError, match="service"):
        make_client("redis+sentinel://:secret@one:1/0", timeout_seconds=1)


def test_a_cluster_url_names_nodes_and_options() -> None:
    url = "redis+cluster://user:p%40ss@one:1,two?client_name=x"
    assert parse_cluster_url(url) == (
        [("one", 1), ("two", 6379)],
        {"client_name": "x", "username": "user", "password": "p@ss"},
    )


def test_a_client_of_a_cluster_with_tls_encrypts() -> None:
    url = "rediss+cluster://one:1,two:2?ssl_ca_certs=/etc/ca.pem"
    pool = make_client(url, timeout_seconds=1).connection_pool
    assert issubclass(pool.connection_class, SSLConnection)
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    whole = make_cluster_client(url, timeout_seconds=1)
    node, _ = whole.nodes_manager.startup_nodes.values()
    assert (node.host, node.connection_class) == ("one", SSLConnection)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+cluster://", "no node of a cluster"),
        ("redis+cluster://one,", "no node of a cluster"),
        ("redis+cluster://one:x", "[Pp]ort"),
        ("redis+cluster://:secret@one/3", "no database but 0"),
    ],
)
def test_a_malformed_cluster_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        make_client(url, timeout_seconds=1)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host", "host:6379", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        make_client(url, timeout_seconds=1)


def test_the_layers_host_is_the_url_or_the_sentinels() -> None:
    assert make_layer_host("redis://host/1", socket_timeout=3) == {
        "socket_timeout": 3,
        "address": "redis://host/1",
    }
    host = make_layer_host("redis+sentinel://one/1?service=main")
    assert host["master_name"] == "main"


def test_redis_py_does_not_time_replies() -> None:
    """Its own timer would give up on a reply that came during a stall."""
    client = make_client("redis://host", timeout_seconds=1)
    assert client.connection_pool.connection_kwargs["socket_timeout"] is None


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose host drops packets: the queue of its listener is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


async def test_a_node_that_drops_packets_is_passed_over(
    redis_server: RedisProcess, silent_port: int
) -> None:
    """Whichever is drawn first, a command is answered in time."""
    url = f"redis+cluster://127.0.0.1:{silent_port},127.0.0.1:{redis_server.port}"
    for _ in range(8):
        client = make_client(url, timeout_seconds=scale(1))
        assert await ask(client.ping(), scale(1))
        await close_client(client)
