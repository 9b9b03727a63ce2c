"""
Sample the live state of a node's connections while a dashboard is open.

A dashboard requests samples by writing a row for each live node. The node answers
in that row, in one write for all of its connections, and stops when no request has
come for a while. So it works across nodes with the database alone, and costs nothing
while no dashboard is open.
"""

import asyncio
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from connections.config.loader import WebSocketConfig
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.models import Node, NodePicture
from connections.node.top import Report, TopCounter, encode_report
from connections.storage.database import Database
from connections.units import Clock

_ACTIVE_SECONDS = 10
"""How long a connection counts as active after application data."""

_LIMITED_SECONDS = 10
"""How long a connection counts as limited after a message was dropped."""

_NEAR_IDLE_PART = 0.8
_AT_ONCE = 500
"""Connections sampled before the event loop runs other tasks."""

_PER_SECOND = 5_000
"""Connections sampled a second: 10,000 are sampled every two seconds."""


class LiveState(StrEnum):
    """The state of a connection; the first that applies, in this order."""

    DRAINING = "draining"
    SLOW = "slow"
    LIMITED = "limited"
    ACTIVE = "active"
    NEAR_IDLE = "near_idle"
    QUIET = "quiet"


class ConnectionState(NamedTuple):
    """An open connection as its node sampled it last; opened_at is Unix time."""

    connection_id: str
    client_id: str
    user_id: str
    token_id: str
    route: str
    address: str
    opened_at: float
    state: str
    idle_seconds: float
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    errors: int = 0
    in_per_second: float = 0.0
    out_per_second: float = 0.0
    rtt_ms: float | None = None
    unsent_bytes: int = 0


class LiveStateSampler:
    """Samples the connections of one node."""

    def __init__(
        self,
        *,
        hub: Hub,
        database: Database,
        config: WebSocketConfig,
        node_id: str,
        is_draining: Callable[[], bool],
        top: TopCounter,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._database = database
        self._config = config
        self._node_id = node_id
        self._is_draining = is_draining
        self._top = top
        self._clock = clock
        self._taken_at: float | None = None
        # Messages in and out by connection, at the sample before.
        self._before: dict[str, tuple[int, int]] = {}

    async def sample(self) -> bool:
        """
        Take a sample if one is requested and due; return False if a connection failed.

        Raises:
            DatabaseUnavailable: the next sample is a beat later.
        """
        now = self._clock()
        if self._taken_at is not None:
            wait_seconds = len(self._hub) / _PER_SECOND
            if now - self._taken_at < wait_seconds:
                return True
        if not await self._database.read(_is_requested, self._node_id):
            if self._taken_at is not None:
                self._taken_at = None
                self._before = {}
                await self._database.write(_forget, self._node_id)
            return True
        states, is_whole = await self._take()
        await self._top.count()
        report = self._top.describe()
        await self._database.write(_store, self._node_id, states, report)
        return is_whole

    async def _take(self) -> tuple[list[ConnectionState], bool]:
        """Describe every connection, a few hundred at a time."""
        now = self._clock()
        elapsed = now - self._taken_at if self._taken_at is not None else None
        self._taken_at = now
        is_draining = self._is_draining()
        states: list[ConnectionState] = []
        before: dict[str, tuple[int, int]] = {}

        def take(live: LiveConnection) -> None:
            state = classify(live, now, self._config, is_draining=is_draining)
            known = self._before.get(live.connection_id)
            states.append(_describe(live, now, state, known, elapsed))
            before[live.connection_id] = (live.messages_in, live.messages_out)

        name, passes, is_whole = "The sample of live state", self._hub.passes, True
        for some in _batched(iter(self._hub), _AT_ONCE):
            for live in some:
                is_whole &= passes.attempt(name, take, live)
            await asyncio.sleep(0)
        self._before = before
        return states, passes.finish(name, is_whole=is_whole)


def classify(
    live: LiveConnection, now: float, config: WebSocketConfig, *, is_draining: bool
) -> LiveState:
    """Return the live state of a connection."""
    if is_draining or live.close_reason is not None:
        return LiveState.DRAINING
    if live.transport is not None:
        unsent_bytes = live.transport.unsent_bytes
        if unsent_bytes > config.buffers.send_high_water:
            return LiveState.SLOW
    if now - live.limited_at < _LIMITED_SECONDS:
        return LiveState.LIMITED
    return classify_idle(live.idle_seconds(now), live.limits.idle_timeout_seconds)


def classify_idle(idle_seconds: float, timeout_seconds: float) -> LiveState:
    """Return the live state that follows from activity alone."""
    if timeout_seconds and idle_seconds >= _NEAR_IDLE_PART * timeout_seconds:
        return LiveState.NEAR_IDLE
    if idle_seconds < _ACTIVE_SECONDS:
        return LiveState.ACTIVE
    return LiveState.QUIET


def read_states(
    hub: Hub,
    config: WebSocketConfig,
    now: float,
    *,
    is_draining: bool,
    before: Mapping[str, tuple[int, int]],
    elapsed: float | None,
) -> list[ConnectionState]:
    """
    Describe every connection of a hub at once; callable in any thread.

    `before` are the messages in and out of each connection, `elapsed` seconds ago.
    """
    return [
        _describe(
            live,
            now,
            classify(live, now, config, is_draining=is_draining),
            before.get(live.connection_id),
            elapsed,
        )
        for live in hub
    ]


def encode(states: list[ConnectionState]) -> bytes:
    """Encode a sample for storage, by columns, which compress better than rows."""
    columns = list(zip(*states, strict=True))
    text = json.dumps([ConnectionState._fields, columns], separators=(",", ":"))
    return zlib.compress(text.encode(), level=1)


def decode(content: bytes) -> list[ConnectionState] | None:
    """
    Return the connections of a sample; None if another version wrote it.

    During a deploy, nodes of two versions are shown at once. Connections without a
    readable sample are shown as they are recorded.
    """
    fields, columns = json.loads(zlib.decompress(content))
    if tuple(fields) != ConnectionState._fields:
        return None
    return [ConnectionState._make(row) for row in zip(*columns, strict=True)]


def request_samples() -> None:
    """Request samples from every live node, for the next quarter of a minute."""
    live = list(Node.objects.live().values_list("node_id", flat=True))
    NodePicture.objects.want(live)


def _describe(
    live: LiveConnection,
    now: float,
    state: LiveState,
    before: tuple[int, int] | None,
    elapsed: float | None,
) -> ConnectionState:
    in_per_second = out_per_second = 0.0
    if before is not None and elapsed:
        in_per_second = round((live.messages_in - before[0]) / elapsed, 1)
        out_per_second = round((live.messages_out - before[1]) / elapsed, 1)
    transport = live.transport
    rtt_seconds = transport.rtt_seconds if transport is not None else None
    return ConnectionState(
        connection_id=live.connection_id,
        client_id=live.client_id,
        user_id="" if live.user_id is None else str(live.user_id),
        token_id="" if live.token_id is None else str(live.token_id),
        route=live.route,
        address=live.address,
        opened_at=round(live.opened_at.timestamp(), 3),
        state=state.value,
        idle_seconds=round(live.idle_seconds(now), 1),
        messages_in=live.messages_in,
        messages_out=live.messages_out,
        bytes_in=live.bytes_in,
        bytes_out=live.bytes_out,
        errors=live.errors,
        in_per_second=in_per_second,
        out_per_second=out_per_second,
        rtt_ms=None if rtt_seconds is None else round(rtt_seconds * 1000, 1),
        unsent_bytes=transport.unsent_bytes if transport is not None else 0,
    )


def _batched(
    connections: Iterator[LiveConnection], count: int
) -> Iterator[list[LiveConnection]]:
    while some := list(itertools.islice(connections, count)):
        yield some


def _is_requested(node_id: str) -> bool:
    return NodePicture.objects.wanted().filter(node_id=node_id).exists()


def _store(node_id: str, states: list[ConnectionState], report: Report) -> None:
    row = NodePicture.objects.filter(node_id=node_id)
    row.put(encode(states), encode_report(report))


def _forget(node_id: str) -> None:
    NodePicture.objects.filter(node_id=node_id).put(b"")
