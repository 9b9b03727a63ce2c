"""Test what nodes share in a Redis Cluster, through a fail-over."""

from tests.integration.redis_cluster import RedisCluster


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
