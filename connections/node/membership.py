"""The parts of a node that read and write what nodes share in a database."""

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from connections.access.gate import Gate
from connections.config.loader import WebSocketConfig
from connections.credentials.verifier import Verifier
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable
from connections.hub.hub import Hub
from connections.metrics.meter import Meter
from connections.metrics.steps import PeriodicSteps
from connections.models import Node as NodeRecord
from connections.node.beat import Beat
from connections.node.close_requests import AppliedRequests, IncomingRequests
from connections.node.cluster_monitor import MONITOR_BEATS, ClusterMonitor
from connections.node.commands import AppliedCommands
from connections.node.extensions import NodeExtensions
from connections.node.heartbeat import NodeRow
from connections.node.live_state import LiveStateSampler
from connections.node.periodic import PeriodicWork
from connections.node.recorder import Recorder
from connections.node.refusals import Refusals
from connections.node.top import TopCounter
from connections.storage.database import Database
from connections.units import Clock, count_of

if TYPE_CHECKING:
    from connections.bus import Bus


logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 2
"""How long a stopping node tries to write pending records."""


class Membership:
    """
    The membership of one node in its cluster.

    It writes the node's row, records and live state, and applies the close
    requests, bans and commands that staff and other nodes post.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        node_id: str,
        pool_kind: str,
        hub: Hub,
        database: Database,
        bus: "Bus | None",
        recorder: Recorder,
        refusals: Refusals,
        verifier: Verifier,
        gate: Gate,
        meter: Meter,
        steps: PeriodicSteps,
        applied: AppliedRequests,
        top: TopCounter,
        is_draining: Callable[[], bool],
        drain: Callable[[], Coroutine[Any, Any, None]],
        end_drain: Callable[[], None],
        describe: Callable[[], dict[str, Any]],
        clock: Clock,
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._refusals = refusals
        self._database = database
        self._describe = describe
        self._has_begun = False
        self._row = NodeRow(node_id=node_id, pool=pool_kind, database=database)
        self.cluster_monitor = ClusterMonitor(
            config, node_id=node_id, database=database, meter=meter
        )
        self._requests = IncomingRequests(
            applied, database=database, bus=bus, clock=clock, poll=self.poll
        )
        self._commands = AppliedCommands(
            hub=hub,
            database=database,
            node_id=node_id,
            drain=drain,
            serve=end_drain,
        )
        self._beat = Beat(
            row=self._row,
            describe=describe,
            recorder=recorder,
            write_refusals=refusals.flush,
            write_used_tokens=verifier.beat,
            polls=(self._requests.poll, gate.refresh, self._commands.poll),
            hub=hub,
            steps=steps,
        )
        self._sampler = LiveStateSampler(
            hub=hub,
            database=database,
            config=config,
            node_id=node_id,
            is_draining=is_draining,
            top=top,
            clock=clock,
        )

    def start(self, periodic: PeriodicWork) -> None:
        """Begin to beat."""
        self._has_begun = True
        self._requests.start()
        beat_seconds = self._config.node.beat_seconds
        self._beat.declare(beat_seconds)
        start, monitor = periodic.start, self.cluster_monitor
        start("The beat", self.beat, beat_seconds)
        start("The cluster monitor", monitor.refresh, MONITOR_BEATS * beat_seconds)
        start("The sample of live state", self._sampler.sample, beat_seconds)
        start("The poll of announced requests", self._requests.poll_when_announced)

    async def stop(self, extensions: NodeExtensions) -> None:
        """
        Take no more requests, and write pending records for at most two seconds.

        The extensions stop within the same time. A stall of the loop does not count.
        """
        await self._requests.stop()
        await self._commands.stop()
        try:
            async with deadline(_FLUSH_SECONDS):
                await extensions.stop()
                await self._recorder.flush()
                await self._refusals.flush()
                # The node of a single request never begins, and has no row.
                if self._has_begun:
                    await self._row.stop(self._describe())
        except (DatabaseUnavailable, TimeoutError):
            if self._recorder.pending:
                logger.error(
                    "%s could not be written; the sweeper records them as lost",
                    count_of(self._recorder.pending, "record"),
                    extra={"event": "flush_failed"},
                )
            self._database.abandon()
        else:
            await self._database.close()

    async def beat(self) -> bool:
        """
        Write the node's row and pending records, then poll; False if a part failed.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        return await self._beat.run()

    async def poll(self) -> None:
        """
        Apply the close requests, bans and commands posted since the last poll.

        Raises:
            DatabaseUnavailable: the next poll reads them.
        """
        await self._beat.poll()

    def make_row(self) -> NodeRecord:
        """Return the node's row as its beat would write it now; for any thread."""
        return self._row.make(self._describe())
