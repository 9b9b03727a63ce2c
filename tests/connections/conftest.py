import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.contrib import admin

from connections.dashboard.admin import LiveDashboardAdmin
from connections.dashboard.cache import SnapshotCache
from connections.models import LiveDashboard
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.pool_database import PoolDatabase
from tests.connections.pool_nodes import let_be_exact
from tests.connections.switchable_database import SwitchableDatabase
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisProcess]:
    process = RedisProcess().start()
    yield process
    process.remove()


@pytest.fixture
def redis_server(shared_redis: RedisProcess) -> RedisProcess:
    """A Redis that holds nothing, whose pool is not recovering."""
    shared_redis.flush()
    let_be_exact(shared_redis)
    return shared_redis


@pytest.fixture(scope="session")
def shared_pool_database(postgres_server: PostgresProcess) -> PoolDatabase:
    return PoolDatabase(postgres_server, "pool")


@pytest.fixture
def pool_database(shared_pool_database: PoolDatabase) -> PoolDatabase:
    """A database with an empty pool that is not recovering."""
    shared_pool_database.empty()
    return shared_pool_database


@pytest.fixture
async def recording() -> AsyncIterator[Node]:
    """A node that records, and beats when the test calls beat()."""
    database = Database()
    yield Node(make_config(), database=database, clock=FakeClock())
    await database.close()


@pytest.fixture
def dashboard() -> Iterator[LiveDashboardAdmin]:
    """The admin's dashboard with an empty snapshot cache."""
    registered: Any = admin.site.get_model_admin(LiveDashboard)
    before, registered.shared = registered.shared, SnapshotCache()
    yield registered
    registered.shared = before


@pytest.fixture
async def switchable_database() -> AsyncIterator[SwitchableDatabase]:
    """The real database, which the test can take away."""
    database = SwitchableDatabase()
    yield database
    await database.close()


@pytest.fixture
def one_thread_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let the next thread of the test fail to start, as where the system has no more.

    Other threads may start some meanwhile.
    """
    start, own = threading.Thread.start, threading.current_thread()
    failures = [RuntimeError("can't start new thread")]

    def start_or_fail(thread: threading.Thread) -> None:
        if failures and threading.current_thread() is own:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
