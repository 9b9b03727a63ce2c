from collections.abc import Iterator

import pytest

from tests.integration.redis_process import RedisProcess


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisProcess]:
    process = RedisProcess().start()
    yield process
    process.remove()


@pytest.fixture
def redis_server(shared_redis: RedisProcess) -> RedisProcess:
    """A Redis that holds nothing, whose pool is not recovering."""
    shared_redis.flush()
    with shared_redis.connect() as client:
        client.hset("{orchestra:pool}:state", "generation", "1")
    return shared_redis
