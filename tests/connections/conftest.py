from collections.abc import AsyncIterator, Iterator

import pytest

from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
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


@pytest.fixture
async def recording() -> AsyncIterator[Node]:
    """A node that records, and beats when the test calls beat()."""
    database = Database()
    yield Node(make_config(), database=database, clock=FakeClock())
    await database.close()
