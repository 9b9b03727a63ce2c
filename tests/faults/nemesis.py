"""Break parts of a cluster in an order and for times derived from a seed."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence

from connections.testing import LiveServer
from connections.testing.waiting import scale
from tests.faults.history import LONE_FAULTS, SHARED_FAULTS, Fault, History
from tests.faults.stores import SharedStore, Way

_CALM_SECONDS = scale(1.5)
"""
After each fault, and what it excuses, nobody does anything for longer than a client
may be over its limit: its next connection would put right what is wrong.
"""

_LIVELY_SECONDS = scale(0.5)
"""The pause in which clients fill up again."""

_TWO_AT_ONCE = 0.3
"""The probability of a second node's fault at the same time."""

_QUIET_RETURN = 0.7
"""The probability that no client connects while a node recovers."""

_NODE_FAULTS = ("killed", "frozen", "partitioned", "reset")


class Scene:
    """Shared state that tells clients whether to act, and which nodes to avoid."""

    def __init__(self) -> None:
        self.is_lively = asyncio.Event()
        self.is_lively.set()
        self.avoided: set[int] = set()
        self.is_greedy = False
        """Whether clients only come, and none of them leaves."""
        self._acting = 0
        self._is_still = asyncio.Event()
        self._is_still.set()

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Count the block as an action of a client."""
        self._acting += 1
        self._is_still.clear()
        try:
            yield
        finally:
            self._acting -= 1
            if not self._acting:
                self._is_still.set()

    @contextlib.contextmanager
    def greedy(self) -> Iterator[None]:
        """Let clients only open connections during the block."""
        self.is_greedy = True
        try:
            yield
        finally:
            self.is_greedy = False

    async def hush(self) -> None:
        """Stop new actions; return when running ones have finished."""
        self.is_lively.clear()
        await self._is_still.wait()


class Nemesis:
    """Break and mend parts of a cluster, of the given kinds or of all."""

    def __init__(
        self,
        history: History,
        nodes: Sequence[LiveServer],
        ways: Sequence[Way],
        store: SharedStore,
        *,
        scene: Scene,
        now: Callable[[], float],
        kinds: Sequence[str] = (),
    ) -> None:
        self._history = history
        self._lease_seconds = history.promises.lease_seconds
        self._nodes = nodes
        self._ways = ways
        self._store = store
        self._scene = scene
        self._now = now
        self._random = random.Random(f"{history.seed} faults")
        on_node: dict[str, Callable[[int, float], Awaitable[None]]] = {
            "killed": self._kill,
            "drained": self._drain,
            "frozen": self._freeze,
            "outlived": self._outlive,
        }
        if all(ways):
            on_node |= {
                "partitioned": self._partition,
                "islanded": self._island,
                "replies_lost": self._lose_replies,
                "reset": self._reset,
            }
        on_store: dict[str, Callable[[float], Awaitable[None]]] = {
            f"{store.name}_paused": self._pause_store,
            f"{store.name}_restarted": self._restart_store,
            f"{store.name}_flushed": self._flush_store,
        }
        self._on_node, self._on_store = on_node, on_store
        known = [*on_node, *on_store]
        self._kinds = list(kinds) or known
        for kind in self._kinds:
            if kind not in known:
                raise ValueError(f"no fault {kind!r}; there are {', '.join(known)}")

    async def go_on(self, seconds: float) -> None:
        """Run faults in rounds of all kinds; some rounds break two nodes at once."""
        kinds: list[str] = []
        while self._now() < seconds:
            if not kinds:
                kinds = list(self._kinds)
                self._random.shuffle(kinds)
            first, second = self._random.sample(range(len(self._nodes)), 2)
            breaking = [self._break(kinds.pop(), first)]
            if self._random.random() < _TWO_AT_ONCE:
                others = [kind for kind in _NODE_FAULTS if kind in self._on_node]
                breaking.append(self._break(self._random.choice(others), second))
            await asyncio.gather(*breaking)
            self._scene.is_lively.clear()
            await asyncio.sleep(_CALM_SECONDS)
            self._scene.is_lively.set()
            await asyncio.sleep(_LIVELY_SECONDS)

    async def _break(self, kind: str, node: int) -> None:
        """Cause a fault and end it; return when it excuses nothing any more."""
        length_seconds = self._random.uniform(0.3, 1.7) * self._lease_seconds
        # The effect decides what is excused, not the duration.
        effect = {"outlived": "frozen", "islanded": "partitioned"}.get(kind, kind)
        fault = Fault(kind=effect, began_at=self._now())
        self._history.faults.append(fault)
        is_quiet = self._random.random() < _QUIET_RETURN
        # New connections matter while the pool is recovering as well.
        quiet_after_seconds = self._random.choice((0, self._lease_seconds / 3))
        if kind in self._on_node:
            fault.node = node
            await self._on_node[kind](node, length_seconds)
        else:
            await self._on_store[kind](length_seconds)
        fault.ended_at = self._now()
        if effect in (*SHARED_FAULTS, *LONE_FAULTS):
            if is_quiet:
                await asyncio.sleep(quiet_after_seconds)
                await self._scene.hush()
            excused_until = fault.ended_at + self._history.promises.recovery_seconds
            await asyncio.sleep(excused_until - self._now())

    # Nodes

    async def _kill(self, node: int, length_seconds: float) -> None:
        await asyncio.to_thread(self._nodes[node].kill)
        await asyncio.to_thread(self._nodes[node].start)

    async def _drain(self, node: int, length_seconds: float) -> None:
        await asyncio.to_thread(self._nodes[node].terminate)
        await asyncio.to_thread(self._nodes[node].start)

    async def _freeze(self, node: int, length_seconds: float) -> None:
        self._nodes[node].signal(signal.SIGSTOP)
        await asyncio.sleep(length_seconds)
        self._nodes[node].signal(signal.SIGCONT)

    async def _outlive(self, node: int, length_seconds: float) -> None:
        """
        Freeze a node beyond its leases while clients fill up on other nodes.

        No admission hides the node's own behaviour when it resumes.
        """
        self._scene.avoided.add(node)
        await self._scene.hush()
        self._nodes[node].signal(signal.SIGSTOP)
        await asyncio.sleep(self._lease_seconds + 0.2)
        self._scene.is_lively.set()
        with self._scene.greedy():
            await asyncio.sleep(length_seconds)
        await self._scene.hush()
        self._nodes[node].signal(signal.SIGCONT)
        self._scene.avoided.discard(node)

    async def _partition(self, node: int, length_seconds: float) -> None:
        self._ways[node].cut()
        await asyncio.sleep(length_seconds)
        self._ways[node].mend()

    async def _island(self, node: int, length_seconds: float) -> None:
        """Cut a node off beyond its leases; no client connects on its return."""
        self._ways[node].cut()
        with self._scene.greedy():
            await asyncio.sleep(self._lease_seconds + length_seconds)
        await self._scene.hush()
        self._ways[node].mend()

    async def _lose_replies(self, node: int, length_seconds: float) -> None:
        self._ways[node].loses_replies = True
        await asyncio.sleep(length_seconds)
        self._ways[node].loses_replies = False

    async def _reset(self, node: int, length_seconds: float) -> None:
        self._ways[node].reset()

    # The store

    async def _pause_store(self, length_seconds: float) -> None:
        self._store.pause()
        with self._scene.greedy():
            await asyncio.sleep(length_seconds)
        self._store.resume()

    async def _restart_store(self, length_seconds: float) -> None:
        self._store.kill()
        with self._scene.greedy():
            await asyncio.sleep(length_seconds)
        await asyncio.to_thread(self._store.start)

    async def _flush_store(self, length_seconds: float) -> None:
        self._store.flush()
