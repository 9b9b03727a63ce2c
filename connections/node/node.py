"""The running node: its parts, its life cycle, and its connections."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from connections import close_codes
from connections.access.expiry import ExpiryWatch
from connections.access.gate import Gate
from connections.access.reauthorisation import Reauthoriser
from connections.config.loader import WebSocketConfig
from connections.credentials.authentication import Authenticator
from connections.credentials.verifier import Verifier
from connections.ends import end_log
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.logs import set_node
from connections.metrics.counters import Counters
from connections.metrics.meter import TICK_SECONDS, Meter
from connections.metrics.steps import PeriodicSteps
from connections.models import Node as NodeRecord
from connections.node.activity import EXPIRY_CHECK, IDLE_CHECK, ActivityWatch
from connections.node.close_requests import AppliedRequests
from connections.node.cluster_monitor import ClusterMonitor
from connections.node.drain import Drain
from connections.node.extensions import NodeExtensions
from connections.node.heartbeat import describe_node
from connections.node.leaks import POLL_SECONDS, LeakWatch
from connections.node.membership import Membership
from connections.node.observer import Observer
from connections.node.own_alerts import OwnAlerts
from connections.node.periodic import PeriodicWork
from connections.node.recorder import Recorder
from connections.node.refusals import Refusals
from connections.node.slots import NodeSlots
from connections.node.top import COUNT_SECONDS, TopCounter
from connections.pool import choose_pool, is_in_redis, make_shared
from connections.pool.base import Usage
from connections.pool.parent import find_line
from connections.presence.node_presence import NodePresence
from connections.presence.stores import make_store
from connections.storage.database import Database
from connections.units import Clock

if TYPE_CHECKING:
    from connections.node.hosting import Hosting

logger = logging.getLogger(__name__)


class _Phase(Enum):
    """The life cycle of a node; each phase follows the one above it."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


class Node:
    """
    One server process: the only owner of its connections.

    A node without a database limits and ends connections as usual, but records
    nothing and has no beat.
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
        self.pool_kind = choose_pool(
            config, redis_url, has_database=database is not None
        )
        """Where the slots are, from the start of the node to its end."""
        redis_url = redis_url if is_in_redis(self.pool_kind) else None
        self.pool, self.bus = make_shared(
            self.pool_kind,
            config,
            redis_url=redis_url,
            node_id=self.node_id,
            on_taken=lambda renewal: self.slots.end_lost(renewal),
            line=find_line(self.pool_kind),
        )
        self.observer = Observer(self.counters, self.pool, clock)
        self.refusals = Refusals(database)
        self.slots = NodeSlots(
            node_id=self.node_id,
            hub=self.hub,
            pool=self.pool,
            observer=self.observer,
            refusals=self.refusals,
        )
        store = make_store(
            *(config, self.pool_kind),
            redis_url=redis_url,
            bus=self.bus,
            clock=clock,
            database=database,
        )
        self.presence = NodePresence(
            store,
            node_id=self.node_id,
            beat_seconds=config.node.beat_seconds,
            passes=self.hub.passes,
        )
        self.own_alerts = OwnAlerts(
            config,
            hub=self.hub,
            meter=self.meter,
            pool=self.pool,
            is_pool_in_database=self.pool_kind == "postgres",
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
        self.authenticator = Authenticator(
            config,
            limit_guesses=self.gate.limit_guesses,
            count_failure=self.counters.failures.add,
            clock=clock,
        )
        self.reauthoriser = Reauthoriser(
            config,
            hub=self.hub,
            database=database,
            authenticator=self.authenticator,
            clock=clock,
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
        self.has_own_server = False
        """Whether Orchestra's server runs it, which drains it at a signal."""
        self.was_refused: Callable[[str], bool] = lambda address: False
        """Whether that server has told a client of an address to return later."""
        self.hosting: Hosting | None = None
        """Its start and end under another server; None before its first call."""
        self._phase = _Phase.NEW
        self._stopping = asyncio.Lock()
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
            clear_top=self.top.clear,
            node_id=self.node_id,
            clock=clock,
        )
        self._membership: Membership | None = None
        if database is not None and self.recorder is not None:
            self._membership = Membership(
                config,
                node_id=self.node_id,
                pool_kind=self.pool_kind,
                hub=self.hub,
                database=database,
                bus=self.bus,
                recorder=self.recorder,
                refusals=self.refusals,
                verifier=self.verifier,
                gate=self.gate,
                meter=self.meter,
                steps=self.steps,
                applied=self._applied,
                top=self.top,
                is_draining=lambda: self.is_draining,
                drain=self.drain,
                end_drain=self.end_drain,
                describe=self._describe,
                clock=clock,
            )

    @property
    def is_running(self) -> bool:
        """True between start() and stop()."""
        return self._phase is _Phase.RUNNING

    @property
    def has_stopped(self) -> bool:
        """True once the node has ended for good."""
        return self._phase is _Phase.STOPPED

    async def start(self) -> None:
        """Begin the periodic work; a second call does nothing."""
        if self.database is not None and self._phase is _Phase.NEW:
            await self.database.join_test()
        if self._phase is not _Phase.NEW:
            return  # Another call was first.
        self._phase = _Phase.RUNNING
        set_node(self.node_id)
        self.presence.start()
        self.own_alerts.start(self.periodic)
        beat_seconds = self.config.node.beat_seconds
        lease_seconds = self.config.node.lease_seconds
        start, reauthoriser = self.periodic.start, self.reauthoriser
        start(EXPIRY_CHECK, self.activity.check_expiry, beat_seconds)
        start(IDLE_CHECK, self.activity.check_idle, beat_seconds)
        start("The renewal of leases", self.renew_leases, lease_seconds / 3)
        start("The search for leaks", self.leaks.poll, POLL_SECONDS)
        start("The count of the top", self.top.count, COUNT_SECONDS)
        start("The meter", self.meter.tick, TICK_SECONDS)
        start(
            "The re-authorisation",
            reauthoriser.poll_when_due,
            expected_seconds=reauthoriser.pause_seconds,
        )
        if self._membership is not None:
            self._membership.start(self.periodic)
        extra = {"event": "node_started"}
        logger.info(
            "Node %s started; pool: %s", self.node_id[:8], self.pool_kind, extra=extra
        )
        self.observer.announce(self.config.enforce)

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
        """
        End the beat, and write pending records for at most two seconds.

        A second caller waits until the first has done so.
        """
        async with self._stopping:
            if self.has_stopped:
                return
            self._phase = _Phase.STOPPED
            await self.periodic.stop()
            await self.activity.stop()
            await self.own_alerts.stop()
            await self.presence.stop()
            self.meter.finish()
            if self._membership is not None:
                await self._membership.stop(self.extensions)
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
        taken = await self.slots.take(connection, replaces)
        self.hub.join(connection)
        self.slots.end_taken(connection, taken, replaces)
        self.counters.record_opened(connection, len(self.hub))
        if self.recorder is not None:
            self.recorder.record_change(connection)
        self.reauthoriser.expect(connection)
        self._applied.apply_to(connection)
        self.gate.apply_to(connection)
        if self.is_draining:
            # A drain that began while it waited for its slot did not find it.
            connection.end(close_codes.DRAINING)

    def leave(self, connection: LiveConnection, code: int | None, reason: str) -> None:
        """Release a connection's slot, remove it from the hub, and record its end."""
        self.pool.release(connection.connection_id)
        self.presence.leave(connection.connection_id)
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

    async def get_usage(self) -> Usage:
        """Return how many slots of the pool are taken."""
        self.usage = await self.pool.get_usage()
        return self.usage

    async def renew_leases(self) -> bool:
        """
        Renew the leases of this node's slots, and end connections that lost theirs.

        Returns False if a connection could not be ended.

        Raises:
            PoolUnavailable: the pool did not answer in time.
        """
        is_whole = await self.slots.renew()
        self.renewed_at = self.clock()
        await self.get_usage()
        return is_whole

    async def beat(self) -> bool:
        """
        Write the node's row and pending records, then poll for requests.

        A node without a database has no beat. Returns False if a part failed; the
        others have run.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        return self._membership is None or await self._membership.beat()

    @property
    def cluster_monitor(self) -> ClusterMonitor | None:
        """The state of the cluster; None without a database."""
        return self._membership.cluster_monitor if self._membership else None

    def make_row(self) -> NodeRecord:
        """
        Return the node's row as its beat would write it now; callable in any thread.

        Raises:
            RuntimeError: the node has no database.
        """
        if self._membership is None:
            raise RuntimeError("a node without a database has no row")
        return self._membership.make_row()

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
            is_pool_covered=self.own_alerts.covers_pool(),
            observed=self.config.enforce.describe(),
            presence=self.presence.describe(),
        )
