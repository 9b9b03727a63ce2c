"""The nodes and services of a soak, and the failures that it causes."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connections.testing import LiveServer
from tests.faults.databases import Store
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.project import make_server

SERVERS = ("serve", "daphne", "uvicorn")
PLANTS = ("memory", "files", "tasks")
"""Leaks that benchmarks.soak.application can plant."""

_STOP_SECONDS = 60
_CONFIG: dict[str, object] = {
    "anonymous": "true",
    "echo_endpoint": "true",
    "max_connections_per_client": 5,
    "max_session_history": 20,
    "sessions__max_open_streams": 10,
    "node__node_timeout_seconds": 3,
    "node__lease_seconds": 6,
    "drain__grace_seconds": 3,
    "handshake__per_address_per_second": 10_000,
    "handshake__per_address_burst": 10_000,
    # Rows are pruned during the soak.
    "retention__closed_connections_days": 0,
    "buffers__send_stall_seconds": 2,
}


def has_services() -> bool:
    """Return True if Redis and PostgreSQL are installed."""
    has_postgres = any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    has_postgres = has_postgres or shutil.which("postgres") is not None
    return has_postgres and shutil.which("redis-server") is not None


@dataclass(kw_only=True)
class Cluster:
    """Nodes that share a database, and Redis if there are several."""

    nodes: list[LiveServer]
    store: Store
    redis: RedisProcess | None
    disturbances: dict[str, int] = field(default_factory=dict)
    """Counts of killed and drained nodes."""

    @property
    def steady(self) -> LiveServer:
        """The node that is never disturbed, whose resources are sampled."""
        return self.nodes[0]

    async def kill(self, node: LiveServer) -> None:
        """Kill a node like a crash, and restart it."""
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        self._count("killed")

    async def drain(self, node: LiveServer) -> None:
        """
        Drain a node, and restart it.

        Raises:
            RuntimeError: the node did not exit with 0.
        """
        node.signal(signal.SIGTERM)
        code = await asyncio.to_thread(node.wait, _STOP_SECONDS)
        if code != 0:
            raise RuntimeError(
                f"a drained node ended with {code}: {node.log()[-2000:]}"
            )
        await asyncio.to_thread(node.start)
        self._count("drained")

    def count_rows(self, table: str, condition: str = "true") -> int:
        """Return the number of rows in a table."""
        ((count,),) = self.store.ask(f"select count(*) from {table} where {condition}")
        return int(count)

    def count_keys(self) -> int:
        """Return the number of keys in Redis."""
        if self.redis is None:
            return 0
        with self.redis.connect() as client:
            return int(client.dbsize())

    def _count(self, what: str) -> None:
        self.disturbances[what] = self.disturbances.get(what, 0) + 1


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    nodes: int,
    server: str,
    plant: str | None = None,
    config: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """
    Start nodes, their services and a sweeper; stop them on exit.

    One node uses SQLite; several use PostgreSQL and Redis. The configuration and the
    environment are added to those of every soak.
    """
    with contextlib.ExitStack() as stack:
        store, redis_process = Store(folder=folder), None
        if nodes > 1:
            postgres = PostgresProcess()
            stack.callback(postgres.remove)
            postgres.create()
            redis_process = RedisProcess()
            stack.callback(redis_process.remove)
            redis_process.start()
            url = postgres.create_database("soak")
            store = Store(
                folder=folder,
                environment={"DATABASE_URL": url},
                postgres=postgres,
                name="soak",
            )
        migrating = make_server(folder, environment=store.environment)
        migrating.manage("migrate", "--verbosity", "0")
        options: dict[str, Any] = {
            "config": {**_CONFIG, **(config or {})},
            "environment": {
                **store.environment,
                **(environment or {}),
                "DJANGO_SETTINGS_MODULE": "benchmarks.soak.settings",
                "SESSIONS_RESPONDER": "tests.integration.responders.Counting",
                "LOG_LEVEL": "WARNING",
            },
        }
        if redis_process is not None:
            options["environment"]["REDIS_URL"] = redis_process.url
        if plant is not None:
            options["environment"]["SOAK_PLANT"] = plant
        sweeper = make_server(
            folder,
            command="sweep_idle_connections",
            arguments=("--interval", "0.5"),
            **options,
        )
        if server == "serve":
            options["arguments"] = ("--no-sweeper",)
        options["application"] = "benchmarks.soak.application:application"
        started = [make_server(folder, command=server, **options) for _ in range(nodes)]
        for one in (sweeper, *started):
            stack.callback(one.stop)
        for one in started:
            one.start()
        sweeper.start(is_ready=False)
        yield Cluster(nodes=started, store=store, redis=redis_process)
