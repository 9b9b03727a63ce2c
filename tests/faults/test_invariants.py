"""
Test under random faults that limits hold, no slot leaks and every close is known.

    pytest tests/faults/test_invariants.py --invariant-seconds 600
    pytest tests/faults/test_invariants.py --invariant-seed 17
    pytest tests/faults/test_invariants.py --invariant-faults outlived,islanded

The seed of a run is printed, and its history kept in var/ to be checked again.
"""

import os
import random
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from connections.testing import Servers, wait_until
from connections.testing.waiting import scale
from tests.faults.chaos import Chaos
from tests.faults.history import History, Record
from tests.faults.stores import (
    ClusterStore,
    PostgresStore,
    RedisStore,
    SharedStore,
)
from tests.integration.pgbouncer import PgBouncer
from tests.integration.redis_cluster import RedisCluster
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.project import make_server

Run = Callable[[SharedStore, str], Awaitable[list[str]]]

_RECORDS = "select connection_id, closed_at is not null, close_code, reason"


@pytest.fixture
def database_url(migrated_postgres: PostgresProcess) -> str:
    return migrated_postgres.create_database(
        f"invariants_{uuid.uuid4().hex}", template="migrated"
    )


def read_records(url: str) -> list[Record]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"{_RECORDS} from connections_connection").fetchall()
    return [
        Record(connection_id=one, is_closed=is_closed, code=code, reason=reason)
        for one, is_closed, code, reason in rows
    ]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--invariant-seed")
    if given is not None:
        return given
    # CI runs the same seed every time, so that chance does not fail a change.
    return 11 if os.environ.get("CI") else random.SystemRandom().randrange(10_000)


def keep(history: History) -> None:
    """Save a history, and print its seed and path."""
    var = Path(os.environ.get("ORCHESTRA_VAR") or "var")
    path = var / "invariants" / f"{history.seed}.json"
    history.save(path)
    print(
        f"seed {history.seed}: {len(history.attempts)} attempts,"
        f" {len(history.faults)} faults, worst excess"
        f" {history.worst_excess_seconds():.2f} s; kept in {path}"
    )


@pytest.fixture
def run(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, seed: int
) -> Run:
    """Break a cluster, save its history and return its violations."""

    async def run_on(store: SharedStore, database_url: str) -> list[str]:
        environment = {"DATABASE_URL": database_url}
        chaos = Chaos(
            seed=seed,
            servers=servers,
            folder=tmp_path,
            environment=environment,
            store=store,
            kinds=request.config.getoption("--invariant-faults"),
            read_records=lambda: read_records(database_url),
        )
        servers.start(
            folder=tmp_path,
            command="sweep_idle_connections",
            arguments=("--interval", "0.5"),
            config=chaos.config,
            environment=environment,
            is_ready=False,
        )
        history = await chaos.run(request.config.getoption("--invariant-seconds"))
        keep(history)
        return history.find_violations()

    return run_on


@pytest.mark.slow
@pytest.mark.timeout(0)
async def test_promises_hold_through_faults(
    run: Run, database_url: str, redis_process: RedisProcess
) -> None:
    assert await run(RedisStore(redis_process), database_url) == []


@pytest.mark.slow
@pytest.mark.timeout(0)
async def test_a_redis_cluster_keeps_the_promises(
    run: Run, database_url: str, redis_cluster: RedisCluster
) -> None:
    """Its primary with the total is killed and failed over, frozen, or flushed."""
    assert await run(ClusterStore(redis_cluster), database_url) == []


@pytest.fixture
def own_postgres(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PostgresProcess]:
    """A private PostgreSQL with a migrated database, `nodes`, to break."""
    server = PostgresProcess()
    try:
        url = server.create().create_database("nodes")
        migrating = make_server(
            tmp_path_factory.mktemp("nodes"), environment={"DATABASE_URL": url}
        )
        migrating.manage("migrate", "--verbosity", "0")
        yield server
    finally:
        server.remove()


@pytest.fixture
async def bouncer(own_postgres: PostgresProcess) -> AsyncIterator[PgBouncer]:
    # By default it refuses all for 15 s after one failed login.
    bouncer = PgBouncer(own_postgres, "server_login_retry = 0.5")
    await wait_until(lambda: bouncer.answers("nodes"))
    yield bouncer
    bouncer.remove()


@pytest.mark.slow
@pytest.mark.timeout(0)
async def test_postgresql_alone_keeps_the_promises(
    run: Run, own_postgres: PostgresProcess, bouncer: PgBouncer
) -> None:
    """Pool, records, bus and sweeper, through a pooler but for LISTEN."""
    store = PostgresStore(own_postgres, "nodes", bouncer)
    assert await run(store, own_postgres.url("nodes")) == []


async def test_limits_that_are_not_shared_are_found(
    servers: Servers, migrated_database: Path, tmp_path: Path, seed: int
) -> None:
    """Nodes that each count by themselves break the limit, so the run can fail."""
    shutil.copy(migrated_database, tmp_path / "db.sqlite3")
    chaos = Chaos(
        seed=seed,
        servers=servers,
        folder=tmp_path,
        environment={},
        store=None,
        nodes=2,
        config={"allow_unshared_limits": "true"},
    )
    history = await chaos.run(scale(4))
    assert any("over its limit" in one for one in history.find_violations())
