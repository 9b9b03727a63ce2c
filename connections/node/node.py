"""The running node: its parts, its life cycle, and its connections."""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from enum import Enum
from typing import Any

from connections import close_codes
from connections.access.expiry import ExpiryWatch
from connections.access.gate import Gate
from connections.access.reauthorisation import Reauthoriser
from connections.close_codes import CloseReason
from connections.config.loader import WebSocketConfig
from connections.credentials.verifier import Verifier
from connections.ends import end_log
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.logs import set_node
from connections.metrics.counters import Counters
from connections.metrics.meter import TICK_SECONDS, Meter
from connections.metrics.steps import PeriodicSteps
from connections.models import Node as NodeRecord
from connections.node.activity import EXPIRY_CHECK, IDLE_CHECK, ActivityWatch
from connections.node.beat import Beat
from connections.node.close_requests import AppliedRequests, IncomingRequests
from connections.node.cluster_monitor import MONITOR_BEATS, ClusterMonitor
from connections.node.commands import AppliedCommands
from connections.node.drain import Drain
from connections.node.extensions import NodeExtensions
from connections.node.heartbeat import NodeRow, describe_node
from connections.node.leaks import POLL_SECONDS, LeakWatch
from connections.node.live_state import LiveStateSampler
from connections.node.own_alerts import OwnAlerts
from connections.node.periodic import PeriodicWork
from connections.node.recorder import Recorder
from connections.node.top import COUNT_SECONDS, TopCounter
from connections.pool import make_bus, make_pool
from connections.pool.base import Renewal, Slot, Usage
from connections.storage.database import Database
from connections.units import Clock

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 2
"""How long a stopping node tries to write pending records."""


class _Phase(Enum):
    """The life cycle of a node; each phase follows the one above it."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


class Node:
    """
    One server process: the only owner of its connections.

    A node without a database limits and ends connections as usual, but records
    nothing and has no beat. A consumer that is used outside of this package's
    middleware gets such a node.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        database: Database | None = None,
        redis_url: str | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.config = config
        self.clock = clock
        self.node_id = os.urandom(16).hex()
        self.hub = Hub()
        self.counters = Counters()
        self.hub.passes.on_failure = self.counters.failures.add
        self.top = TopCounter(self.hub)
        self.meter = Meter(self.counters, self.hub, clock)
        self.steps = PeriodicSteps(clock)
        self.usage: Usage | None = None
        """The last result of get_usage()."""
        self.renewed_at = clock()
        """When the node last renewed its leases."""
        self.bus = make_bus(redis_url, node_id=self.node_id)
        self.pool = make_pool(
            config, redis_url=redis_url, bus=self.bus, on_taken=self._end_lost_slots
        )
        self.own_alerts = OwnAlerts(
            config,
            hub=self.hub,
            meter=self.meter,
            pool=self.pool,
            get_usage=lambda: self.usage,
            read_usage=self.get_usage,
            database=database,
            clock=clock,
        )
        self.leaks = LeakWatch(
            clock=clock,
            is_open=self.hub.__contains__,
            count_open=self.hub.__len__,
            get_held_ids=self.pool.get_held_ids,
        )
        self.database = database
        self.gate = Gate(config, hub=self.hub, database=database, clock=clock)
        self.reauthoriser = Reauthoriser(
            config, hub=self.hub, database=database, clock=clock
        )
        self.recorder: Recorder | None = None
        if database is not None:
            self.verifier = Verifier(database, clock, config)
            self.recorder = Recorder(
                node_id=self.node_id,
                config=config.recorder,
                database=database,
                clock=clock,
                passes=self.hub.passes,
            )
        verifier = self.verifier if database is not None else None
        self.extensions = NodeExtensions(self.hub)
        self.is_draining = False
        self._phase = _Phase.NEW
        self.periodic = PeriodicWork(self.steps, self.counters.failures.add)
        self._draining = Drain(
            config, hub=self.hub, pool=self.pool, extensions=self.extensions
        )
        self.activity = ActivityWatch(
            hub=self.hub,
            expiry=ExpiryWatch(config.expiry, verifier, self.hub.renew),
            recorder=self.recorder,
            database=database,
            clock=clock,
        )
        self._applied = AppliedRequests(
            hub=self.hub,
            recorder=self.recorder,
            reauthoriser=self.reauthoriser,
            forget=verifier.forget if verifier is not None else None,
            node_id=self.node_id,
            clock=clock,
        )
        self._requests: IncomingRequests | None = None
        self._commands: AppliedCommands | None = None
        self.cluster_monitor: ClusterMonitor | None = None
        self._row: NodeRow | None = None
        self._beat: Beat | None = None
        if database is not None and self.recorder is not None:
            self._join_cluster(database, self.recorder)

    def _join_cluster(self, database: Database, recorder: Recorder) -> None:
        """Create the parts that read and write what nodes share in a database."""
        self._row = NodeRow(node_id=self.node_id, database=database)
        self.cluster_monitor = ClusterMonitor(
            self.config, node_id=self.node_id, database=database, meter=self.meter
        )
        self._requests = IncomingRequests(
            self._applied,
            database=database,
            bus=self.bus,
            clock=self.clock,
            poll=self.poll_requests,
        )
        self._commands = AppliedCommands(
            hub=self.hub,
            database=database,
            node_id=self.node_id,
            drain=self.drain,
            serve=self.end_drain,
        )
        self._beat = Beat(
            row=self._row,
            describe=self._describe,
            recorder=recorder,
            write_used_tokens=self.verifier.beat,
            polls=(self._requests.poll, self.gate.refresh, self._commands.poll),
            hub=self.hub,
            steps=self.steps,
        )

    @property
    def has_stopped(self) -> bool:
        """True once the node has ended for good."""
        return self._phase is _Phase.STOPPED

    async def start(self) -> None:
        """Begin to beat; a second call does nothing."""
        if (
            self._requests is None
            or self._beat is None
            or self.database is None
            or self.cluster_monitor is None
            or self._phase is not _Phase.NEW
        ):
            return
        await self.database.join_test()
        if self._phase is not _Phase.NEW:
            return  # Another call was first.
        self._phase = _Phase.RUNNING
        set_node(self.node_id)
        self._requests.start()
        monitor, reauthoriser = self.cluster_monitor, self.reauthoriser
        sampler = LiveStateSampler(
            hub=self.hub,
            database=self.database,
            config=self.config,
            node_id=self.node_id,
            is_draining=lambda: self.is_draining,
            describe_top=self.top.describe,
            clock=self.clock,
        )
        beat_seconds = self.config.node.beat_seconds
        lease_seconds = self.config.node.lease_seconds
        self._beat.declare(beat_seconds)
        self.own_alerts.start(self.periodic)
        start = self.periodic.start
        start(EXPIRY_CHECK, self.activity.check_expiry, beat_seconds)
        start(IDLE_CHECK, self.activity.check_idle, beat_seconds)
        start("The beat", self.beat, beat_seconds)
        start("The renewal of leases", self.renew_leases, lease_seconds / 3)
        start("The search for leaks", self.leaks.poll, POLL_SECONDS)
        start("The cluster monitor", monitor.refresh, MONITOR_BEATS * beat_seconds)
        start("The count of the top", self.top.count, COUNT_SECONDS)
        start("The meter", self.meter.tick, TICK_SECONDS)
        start("The sample of live state", sampler.sample, beat_seconds)
        start(
            "The re-authorisation",
            reauthoriser.poll_when_due,
            expected_seconds=reauthoriser.pause_seconds,
        )
        start("The poll of announced requests", self._requests.poll_when_announced)
        extra = {"event": "node_started"}
        logger.info("Node %s started", self.node_id[:8], extra=extra)

    def begin_drain(self) -> None:
        """Refuse new connections, and report it on /readyz; open ones stay."""
        self.is_draining = True

    def end_drain(self) -> None:
        """Accept connections again; clients that got `bye` are still closed."""
        self.is_draining = False

    def skip_grace(self) -> None:
        """Cut the grace period of the drain under way short."""
        self._draining.skip_grace()

    async def drain(self) -> None:
        """Refuse new connections, and return when every open one has ended."""
        self.begin_drain()
        await self._draining.run()

    async def stop(self) -> None:
        """End the beat, and write pending records for at most two seconds."""
        if self.has_stopped:
            return
        self._phase = _Phase.STOPPED
        await self.periodic.stop()
        await self.activity.stop()
        await self.own_alerts.stop()
        if self._requests is not None:
            await self._requests.stop()
        if self._commands is not None:
            await self._commands.stop()
        self.meter.finish()
        if self.database is None or self.recorder is None or self._row is None:
            return
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self.extensions.stop()
                await self.recorder.flush()
                await self._row.stop(self._describe())
        except (DatabaseUnavailable, TimeoutError):
            if self.recorder.pending:
                logger.error(
                    "%s records could not be written; the sweeper records them as lost",
                    self.recorder.pending,
                    extra={"event": "flush_failed"},
                )
            self.database.abandon()
        else:
            await self.database.close()
        await self.pool.close()

    # Connections

    async def admit(self, connection: LiveConnection, replaces: str | None) -> None:
        """
        Take a slot for a connection, end the evicted ones, and add it to the hub.

        Raises:
            Refused: the client is banned.
            PoolFull, ClientFull, PoolUnavailable: as Pool.acquire().
        """
        self.gate.require(connection)
        slot = self._make_slot(connection)
        for given_up in await self.pool.acquire(slot, replaces=replaces):
            is_replaced = given_up.connection_id == replaces
            close_reason = close_codes.REPLACED if is_replaced else close_codes.EVICTED
            self.end_connections([given_up.connection_id], close_reason)
            connection.flight.record(
                f"has_{close_reason.reason}", given_up.connection_id
            )
        connection.flight.record("slot_taken")
        connection.slot = slot
        self.hub.join(connection)
        self.counters.record_opened(connection, len(self.hub))
        if self.recorder is not None:
            self.recorder.record_change(connection)
        self.reauthoriser.expect(connection)
        self._applied.apply_to(connection)
        self.gate.apply_to(connection)

    def leave(self, connection: LiveConnection, code: int | None, reason: str) -> None:
        """Release a connection's slot, remove it from the hub, and record its end."""
        self.pool.release(connection.connection_id)
        if not self.hub.leave(connection):
            return
        now = self.clock()
        connection.flight.record("left", reason)
        end_log.record(connection, code, reason, now - connection.opened_monotonic)
        self.counters.record_closed(connection, reason, now)
        self.top.record_closed(connection)
        if self.recorder is not None:
            self.recorder.record_closed(connection, code, reason)

    def add_viewer(self, connection: LiveConnection) -> None:
        """End a connection of the dashboard when its user may no longer view it."""
        self.hub.viewers[connection.connection_id] = connection
        connection.authorised_at = connection.arrived
        self._applied.apply_to(connection)
        self.gate.apply_to(connection)

    def remove_viewer(self, connection: LiveConnection) -> None:
        """Forget a connection of the dashboard."""
        self.hub.viewers.pop(connection.connection_id, None)

    def end_connections(
        self, connection_ids: Iterable[str], close_reason: CloseReason
    ) -> bool:
        """End those of the connections that belong to this node; False if one fails."""
        found = [self.hub.get(one) for one in connection_ids]
        return self.hub.for_each(
            "The end of connections",
            lambda connection: connection.end(close_reason),
            [one for one in found if one is not None],
        )

    async def get_usage(self) -> Usage:
        """Return how many slots of the pool are taken."""
        self.usage = await self.pool.get_usage()
        return self.usage

    def _make_slot(self, connection: LiveConnection) -> Slot:
        return Slot(
            connection_id=connection.connection_id,
            client_id=connection.client_id,
            node_id=self.node_id,
            opened_at=connection.opened_at.timestamp(),
            limit=connection.limits.max_connections_per_client,
        )

    async def renew_leases(self) -> bool:
        """
        Renew the leases of this node's slots, and end connections that lost theirs.

        Returns False if a connection could not be ended.

        Raises:
            PoolUnavailable: the pool did not answer in time.
        """
        slots = [one.slot for one in self.hub if one.slot and one.close_reason is None]
        is_whole = self._end_lost_slots(await self.pool.renew(slots))
        self.renewed_at = self.clock()
        await self.get_usage()
        return is_whole

    def _end_lost_slots(self, renewal: Renewal) -> bool:
        """End the connections whose slots another node took, or that were lost."""
        is_whole = self.end_connections(renewal.evicted, close_codes.EVICTED)
        is_whole &= self.end_connections(renewal.replaced, close_codes.REPLACED)
        return is_whole & self.end_connections(renewal.lost, close_codes.POOL_FULL)

    async def beat(self) -> bool:
        """
        Write the node's row and pending records, then poll for requests.

        A node without a database has no beat. Returns False if a part failed; the
        others have run.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        return self._beat is None or await self._beat.run()

    async def poll_requests(self) -> None:
        """
        Apply the close requests, bans and commands posted since the last poll.

        Raises:
            DatabaseUnavailable: the next poll reads them.
        """
        if self._beat is not None:
            await self._beat.poll()

    def make_row(self) -> NodeRecord:
        """
        Return the node's row as its beat would write it now; callable in any thread.

        Raises:
            RuntimeError: the node has no database.
        """
        if self._row is None:
            raise RuntimeError("a node without a database has no row")
        return self._row.make(self._describe())

    def _describe(self) -> dict[str, Any]:
        return describe_node(
            is_draining=self.is_draining,
            open_connections=len(self.hub),
            degraded_reason=self.pool.degraded_reason,
            usage=self.usage,
            meter=self.meter,
            recorder=self.recorder,
            leak_suspects=len(self.leaks.suspects),
            overdue_steps=self.steps.find_overdue(),
            full_pool=self.own_alerts.full_pool.describe(),
        )
