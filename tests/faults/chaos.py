"""Run a cluster with churning clients and faults, all derived from one seed."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from connections.testing import (
    CLOSE,
    PING,
    PONG,
    LiveServer,
    RawClient,
    Servers,
    build_frame,
    wait_until,
)
from connections.testing.waiting import scale
from tests.faults.history import Attempt, History, Promises, Record
from tests.faults.nemesis import Nemesis, Scene
from tests.faults.stores import SharedStore, Way

LIMIT = 3
LEASE_SECONDS = scale(1.2)
_SLACK_SECONDS = scale(0.75)
CONFIG: dict[str, object] = {
    "max_connections_per_client": LIMIT,
    # Bystanders say nothing, and stay for the whole run.
    "idle_timeout_seconds": 7200,
    "node__beat_seconds": 0.25,
    "node__lease_seconds": LEASE_SECONDS,
    "node__node_timeout_seconds": scale(1),
    # A link that loses replies stays open: threads wait for them until it is cut.
    "node__database_timeout_seconds": scale(0.5),
    "evict_grace_seconds": 1,
    "drain__grace_seconds": 1.5,
    # Clients are identified by their addresses.
    "anonymous": "true",
}
_CLIENTS = 6
_BYSTANDERS = 2
_PAUSE_SECONDS = (0.05, 0.5)
"""The range of pauses between two actions of a client."""

_HANDSHAKE_SECONDS = scale(2)


class Chaos:
    """
    One run on a cluster of nodes that share a database and the store of a pool.

    Each node reaches the store through a proxy of its own. What is tried and broken,
    in which order and for how long, follows from the seed; the rest is timing.
    """

    def __init__(
        self,
        *,
        seed: int,
        servers: Servers,
        folder: Path,
        environment: dict[str, str],
        store: SharedStore | None,
        nodes: int = 3,
        config: dict[str, object] | None = None,
        kinds: Sequence[str] = (),
        read_records: Callable[[], list[Record]] | None = None,
    ) -> None:
        self.history = History(
            seed=seed,
            promises=Promises(
                limit=LIMIT, lease_seconds=LEASE_SECONDS, slack_seconds=_SLACK_SECONDS
            ),
        )
        self._servers = servers
        self._folder = folder
        self._environment = environment
        self._store = store
        self.config = {**CONFIG, **(config or {})}
        self._ways: list[Way] = []
        self.scene = Scene()
        self.nodes: list[LiveServer] = []
        self._count = nodes
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._kinds = kinds
        self._read_records = read_records
        self._clients = [
            _Client(f"127.0.0.{number + 10}", self) for number in range(_CLIENTS)
        ] + [
            _Bystander(f"127.0.0.{number + 30}", self) for number in range(_BYSTANDERS)
        ]

    def now(self) -> float:
        """Return the seconds since the start of the run."""
        return self._loop.time() - self._started

    async def run(self, seconds: float) -> History:
        """
        Start the cluster, run clients and faults, and disconnect all clients.

        The nodes keep their ways to the store until all records are written. Without
        a store there are no faults, and the nodes share no limits.
        """
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(self._count):
                await self._add_node(stack)
            await asyncio.gather(*(self._start(one) for one in self.nodes))
            self._started = self._loop.time()
            coming = [asyncio.create_task(one.live()) for one in self._clients]
            if self._store is None:
                await asyncio.sleep(seconds)
            else:
                nemesis = Nemesis(
                    self.history,
                    self.nodes,
                    self._ways,
                    self._store,
                    scene=self.scene,
                    now=self.now,
                    kinds=self._kinds,
                )
                await nemesis.go_on(seconds)
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)
            for client in self._clients:
                await client.leave_all()
            self.history.leaked = await self._find_leaks()
            if self._read_records is not None:
                await self._wait_for_records(self._read_records)
        return self.history

    async def _add_node(self, stack: contextlib.AsyncExitStack) -> None:
        environment = dict(self._environment)
        if self._store is not None:
            way, own = await self._store.open_way(stack)
            self._ways.append(way)
            environment.update(own)
        self.nodes.append(
            self._servers.make(
                folder=self._folder,
                config=self.config,
                environment=environment,
                arguments=("--no-sweeper",),
            )
        )

    async def _start(self, node: LiveServer) -> None:
        await asyncio.to_thread(node.start)

    async def _wait_for_records(self, read: Callable[[], list[Record]]) -> None:
        """Read the records until they are right, or for so long as that may take."""

        def are_right() -> bool:
            self.history.records = read()
            return not list(self.history.find_bad_records())

        with contextlib.suppress(TimeoutError):
            await wait_until(are_right, 20)

    async def _find_leaks(self) -> list[str]:
        """Return what is left in the pool after every client has disconnected."""
        if self._store is None:
            return []
        deadline = self.now() + 2 * LEASE_SECONDS + scale(5)
        left: list[str] = []
        while self.now() < deadline:
            left = self._store.find_leaks()
            if not left:
                break
            await asyncio.sleep(0.2)
        return left


class _Client:
    """One address that opens more sockets than its limit."""

    def __init__(self, address: str, chaos: Chaos) -> None:
        self._address = address
        self._chaos = chaos
        self._random = random.Random(f"{chaos.history.seed} {address}")
        self._open: dict[RawClient, Attempt] = {}
        self._following: dict[RawClient, asyncio.Task[None]] = {}

    async def live(self) -> None:
        """Open, close, abort and reopen sockets until cancelled."""
        actions: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (10, self._connect),
            (2, self._replace),
            (4, self._close),
            (3, self._vanish),
        )
        weights = [weight for weight, _ in actions]
        while True:
            await asyncio.sleep(self._random.uniform(*_PAUSE_SECONDS))
            await self._chaos.scene.is_lively.wait()
            (chosen,) = self._random.choices(actions, weights)
            act = self._connect if self._chaos.scene.is_greedy else chosen[1]
            with self._chaos.scene.acting():
                await act()

    async def leave_all(self) -> None:
        """Close every socket."""
        while self._open:
            await self._leave(next(iter(self._open)), is_polite=True)

    async def _connect(self, query: str = "") -> None:
        nodes = self._chaos.nodes
        number = self._random.choice(
            [n for n in range(len(nodes)) if n not in self._chaos.scene.avoided]
        )
        node = nodes[number]
        attempt = Attempt(client=self._address, node=number, asked_at=self._chaos.now())
        self._chaos.history.attempts.append(attempt)
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                client = await RawClient.open(
                    node.port,
                    f"/ws/echo/{query}",
                    f"Origin: {node.url}",
                    source=self._address,
                )
        except (OSError, TimeoutError) as exc:
            attempt.failure = str(exc) or type(exc).__name__
            attempt.ended_at = self._chaos.now()
            return
        except asyncio.CancelledError:
            attempt.is_left, attempt.ended_at = True, self._chaos.now()
            raise
        attempt.opened_at = self._chaos.now()
        attempt.connection_id = client.headers.get("x-connection-id", "")
        self._open[client] = attempt
        self._following[client] = asyncio.create_task(self._follow(client, attempt))

    async def _replace(self) -> None:
        """Abort a connection and open another with `replaces`."""
        chosen = self._choose()
        if chosen is not None:
            connection_id = self._open[chosen].connection_id
            await self._leave(chosen, is_polite=False)
            await self._connect(f"?replaces={connection_id}")

    async def _close(self) -> None:
        chosen = self._choose()
        if chosen is not None:
            await self._leave(chosen, is_polite=True)

    async def _vanish(self) -> None:
        chosen = self._choose()
        if chosen is not None:
            await self._leave(chosen, is_polite=False)

    def _choose(self) -> RawClient | None:
        avoided = self._chaos.scene.avoided
        choice = [one for one in self._open if self._open[one].node not in avoided]
        return self._random.choice(choice) if choice else None

    async def _leave(self, client: RawClient, *, is_polite: bool) -> None:
        attempt = self._open.pop(client)
        following = self._following.pop(client)
        following.cancel()
        await asyncio.wait([following])
        if attempt.ended_at is None:
            attempt.is_left, attempt.ended_at = True, self._chaos.now()
            with contextlib.suppress(OSError):
                if is_polite:
                    await client.send(build_frame(CLOSE, (1000).to_bytes(2, "big")))
        if is_polite:
            client.close()
        else:
            client.reset()

    async def _follow(self, client: RawClient, attempt: Attempt) -> None:
        """Read until the end, and note it."""
        with contextlib.suppress(OSError):
            while attempt.ended_at is None:
                frame = await client.read_frame(seconds=3600)
                if frame.opcode == PING:
                    await client.send(build_frame(PONG, frame.payload))
                elif frame.opcode == CLOSE:
                    attempt.code = frame.close_code
                    attempt.reason = frame.close_reason
                    attempt.ended_at = self._chaos.now()
                    await client.send(build_frame(CLOSE, frame.payload))
        if attempt.ended_at is None:
            attempt.ended_at = self._chaos.now()
        if self._open.pop(client, None) is not None:
            del self._following[client]
        client.close()


class _Bystander(_Client):
    """One address with one socket less than its limit; none may be closed."""

    async def live(self) -> None:
        """Keep the sockets open until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*_PAUSE_SECONDS))
            await self._chaos.scene.is_lively.wait()
            if len(self._open) < LIMIT - 1:
                with self._chaos.scene.acting():
                    await self._connect()
