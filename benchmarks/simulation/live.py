"""Real nodes over PostgreSQL, with or without Redis, and the counters of all."""

import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg

from benchmarks.processes import ServerProcess, StartFailed
from benchmarks.site import Site, make_site
from connections.capacity.load.generator import Load, LoadFailed
from connections.capacity.load.opening import KEY
from connections.capacity.load.procfs import allow_many_files, free_port
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

_LAYERS = {
    "redis": "connections.layers.redis.RedisLayer",
    "postgres": "connections.layers.postgres.PostgresLayer",
}
POOLS = tuple(_LAYERS)
_DATABASE = "simulation"
_SETTLE_SECONDS = 60
_MOST_CONNECTIONS = 100
"""Those of PostgreSQL: a node with its pool there was seen with 13."""
_ENVIRONMENT = {
    "BENCHMARKS_SERVED": "limited",
    "WEBSOCKET__MAX_TOTAL_CONNECTIONS": "100000",
    "WEBSOCKET__IDLE_TIMEOUT_SECONDS": "3600",
    # The clients of a test come from a few addresses.
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_PENDING": "100000",
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_BURST": "1000000",
    "WEBSOCKET__HANDSHAKE__PER_ADDRESS_PER_SECOND": "100000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """CPU seconds and rows: what a cluster has used, or used between two moments."""

    node_seconds: float
    """CPU of all nodes together."""

    redis_seconds: float
    """CPU of Redis; 0 without it."""

    postgres_seconds: float
    """CPU of all processes of PostgreSQL."""

    rows: int
    """Rows of connections that were written, each update counted."""

    def since(self, before: "Used") -> "Used":
        """Return the difference to an earlier moment."""
        then = asdict(before)
        return Used(**{name: now - then[name] for name, now in asdict(self).items()})


class CpuMeter:
    """The CPU of some processes, with that of threads and processes that ended."""

    def __init__(self) -> None:
        self._last: dict[Path, int] = {}
        """The nanoseconds of each thread when it was last seen."""

    def read(self, pids: Iterable[int]) -> float:
        """
        Return the CPU seconds of all threads seen so far, to the nanosecond.

        A tick of stat (10 ms) is as much as thousands of renewals take. What a thread
        does between the last read and its end is not counted.
        """
        for pid in pids:
            # A thread, or a backend of PostgreSQL, may end meanwhile.
            with suppress(OSError):
                for place in Path(f"/proc/{pid}/task").iterdir():
                    used = (place / "schedstat").read_text().split()[0]
                    self._last[place] = int(used)
        return sum(self._last.values()) / 1e9


@dataclass(kw_only=True)
class Cluster:
    """Running nodes, each with a load generator, and the servers that they share."""

    site: Site
    postgres: PostgresProcess
    redis: RedisProcess | None
    stack: ExitStack
    monitor: psycopg.Connection
    """One connection for all reads: the start of a backend takes milliseconds."""

    nodes: list[ServerProcess] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    opened: int = 0
    node_cpu: CpuMeter = field(default_factory=CpuMeter)
    postgres_cpu: CpuMeter = field(default_factory=CpuMeter)

    def read(self) -> Used:
        """Return what was used so far."""
        redis_seconds = 0.0
        if self.redis is not None:
            with self.redis.connect() as client:
                info = client.info("cpu")
            redis_seconds = info["used_cpu_sys"] + info["used_cpu_user"]
        # The counters of a backend reach others a second later at most.
        row = self.monitor.execute(
            "select n_tup_ins + n_tup_upd from pg_stat_user_tables"
            " where relname = 'connections_connection'"
        ).fetchone()
        return Used(
            node_seconds=self.node_cpu.read(node.pid for node in self.nodes),
            redis_seconds=redis_seconds,
            postgres_seconds=self.postgres_cpu.read(self.postgres.pids()),
            rows=row[0] if row else 0,
        )

    def add_node(self) -> ServerProcess:
        """Start one more node; the cluster's end stops it."""
        node = self.stack.enter_context(
            start_node(self.site, free_port(), f"node-{len(self.nodes)}")
        )
        self.nodes.append(node)
        self.loads.append(self.stack.enter_context(Load(node.port)))
        return node

    def open(self, count: int, *, at_once: int, group: str) -> None:
        """
        Open connections on each node, one node after another, `at_once` each.

        Raises:
            StartFailed: a connection was refused or closed.
        """
        rows = self.read().rows
        for node, load in zip(self.nodes, self.loads, strict=True):
            headers = self.take_headers(count)
            try:
                load.do(
                    "open",
                    group=group,
                    count=count,
                    concurrency=at_once,
                    headers=headers,
                )
            except LoadFailed as exc:
                raise StartFailed(f"{exc}: {node.log_tail()}") from exc
        self.settle(rows + count * len(self.loads))

    def close(self, group: str, count: int) -> None:
        """Close the connections of a group, of which each node has so many."""
        rows = self.read().rows
        for load in self.loads:
            load.do("drop", group=group)
        self.settle(rows + count * len(self.loads))

    def shake_one(self) -> bytes:
        """Make a handshake with the first node; return all that it answers."""
        port = self.nodes[0].port
        (headers,) = self.take_headers(1)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(
                f"GET /ws/echo/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {KEY.decode()}\r\n{headers}\r\n".encode()
            )
            answer = sock.recv(4096)
            # A connection that was accepted ends with a close frame.
            while b"\x88" not in answer and (more := sock.recv(4096)):
                answer += more
        return answer

    def settle(self, rows: int) -> None:
        """
        Wait until so many rows are written.

        Raises:
            StartFailed: they are not within a minute; it has the nodes' last lines.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (found := self.read().rows) < rows:
            if time.monotonic() > deadline:
                logs = "\n".join(node.log_tail() for node in self.nodes)
                raise StartFailed(f"{found} of {rows} rows are written: {logs}")
            self.rest(0.5)

    def take_headers(self, count: int) -> list[str]:
        """Return the credentials of the next clients, one for each connection."""
        tokens = self.site.tokens
        first, self.opened = self.opened, self.opened + count
        return [
            f"Authorization: Bearer {tokens[number % len(tokens)]}\r\n"
            for number in range(first, first + count)
        ]

    def rest(self, seconds: float) -> None:
        """Keep all connections alive for some seconds."""
        self.loads[0].do("rest", seconds=seconds)


@contextmanager
def serving(pool: str, **environment: str) -> Iterator[Cluster]:
    """
    Start PostgreSQL, Redis for the pool "redis", and one node.

    Raises:
        StartFailed: a server did not start.
    """
    allow_many_files()
    with ExitStack() as stack:
        site = Site(Path(stack.enter_context(make_site())))
        postgres = PostgresProcess(most_connections=_MOST_CONNECTIONS)
        stack.callback(postgres.remove)
        url = postgres.create().create_database(_DATABASE)
        site.environment |= {
            **_ENVIRONMENT,
            "BENCHMARKS_LAYER": _LAYERS[pool],
            "DATABASE_URL": url,
            **environment,
        }
        store = None
        if pool == "redis":
            store = RedisProcess()
            stack.callback(store.remove)
            store.start()
            site.environment["REDIS_URL"] = store.url
        site.prepare()
        monitor = stack.enter_context(postgres.connect(_DATABASE))
        monitor.autocommit = True
        cluster = Cluster(
            site=site, postgres=postgres, redis=store, stack=stack, monitor=monitor
        )
        cluster.add_node()
        yield cluster


def start_node(site: Site, port: int, name: str) -> ServerProcess:
    """Return a node of a site as a context manager."""
    return ServerProcess(
        [
            *(sys.executable, "manage.py", "serve", "--no-sweeper"),
            *("--port", str(port)),
        ],
        port=port,
        log=site.folder / f"{name}.log",
        environment=site.environment,
    )
