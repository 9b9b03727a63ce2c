"""
Sweep idle connections, dead nodes and old rows of the whole cluster.

The sweeper works through the database alone, from any process. It releases no
slots, because leases expire by themselves.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from connections import close_codes
from connections.alerts.email import deliver
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import read_measurements
from connections.announcements import post_close_requests
from connections.config.loader import WebSocketConfig
from connections.exceptions import ConnectionsError
from connections.metrics.counters import record_failure
from connections.models import (
    Alert,
    Ban,
    CloseRequest,
    Connection,
    ErrorEvent,
    MinuteRollup,
    Node,
    NodeCommand,
    Sweep,
)
from connections.models.alias import get_connection
from connections.models.sweep import delete_some
from connections.sweeper.rollups import roll_up
from connections.sweeper.tasks import get_sweep_tasks
from connections.units import Clock, count_of

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

INTERVAL_SECONDS = 10
BATCH_SIZE = 500
_SWEEP = "connections"
_AUTHOR = "sweeper"
_STALL_SECONDS = 3
"""A wait that takes so much longer means that the process or host was paused."""


class AllNodesSilent(ConnectionsError):
    """Every node looks dead at once, most likely after an outage of the database."""

    def __str__(self) -> str:
        return (
            "every node looks dead at once, as after an outage of the database;"
            " try again later, or use --force if the nodes really are gone"
        )


@dataclass(slots=True, kw_only=True)
class Swept:
    """The counts of one sweep; of a dry run, what it would do."""

    is_leader: bool = True
    idle_requested: int = 0
    nodes_lost: int = 0
    connections_lost: int = 0
    connections_pruned: int = 0
    errors_pruned: int = 0
    close_requests_pruned: int = 0
    nodes_pruned: int = 0
    minutes_rolled: int = 0
    rollups_pruned: int = 0
    alerts_pruned: int = 0
    bans_pruned: int = 0
    orders_pruned: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    """The counts of tasks that other packages added, by name."""


@dataclass(frozen=True, slots=True)
class _ObservedBeat:
    """A node's counter, and when this sweeper first read that value."""

    beat: tuple[int, int]
    since: float


class Sweeper:
    """
    One sweeper; any number may run, and one of them works at a time.

    A node is dead when its counter stood still for node_timeout_seconds, while
    every call of this sweeper to the database succeeded without delay. So neither
    an outage of the database nor a wrong clock makes a live node look dead.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        idle_seconds: float | None = None,
        batch_size: int = BATCH_SIZE,
        is_dry: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self._config = config
        self._idle_seconds = idle_seconds or config.idle_timeout_seconds
        self._is_sooner = idle_seconds is not None
        self._batch_size = batch_size
        self._is_dry = is_dry
        self.clock = clock
        self._holder_id = os.urandom(16).hex()
        self._beats: dict[str, _ObservedBeat] = {}
        # The last slow call; before its end, nodes may have been delayed as well.
        self._delayed_at = float("-inf")

    def sweep(self) -> Swept:
        """Sweep once, as one of many rounds of this sweeper."""
        if not self._is_dry and not self._call(self._take_lead):
            self.forget()
            return Swept(is_leader=False)
        return self._sweep(self._find_dead())

    def sweep_once(self, *, is_forced: bool = False) -> Swept:
        """
        Sweep a single time, with the silence of nodes by the database's clock.

        Raises:
            AllNodesSilent: every live node looks dead, and is_forced is not set.
        """
        timeout = timedelta(seconds=self._config.node.node_timeout_seconds)
        silent = list(Node.objects.silent_since(Now() - timeout))
        if len(silent) > 1 and not is_forced and len(silent) == self._count_live():
            raise AllNodesSilent
        return self._sweep(silent)

    def give_up(self) -> None:
        """Let another sweeper take over at once."""
        Sweep.objects.give_up(_SWEEP, self._holder_id)

    def forget(self) -> None:
        """Forget the observed beats, after a failure or a pause."""
        self._beats.clear()

    def _sweep(self, dead: list[Node]) -> Swept:
        swept = Swept(idle_requested=self._request_idle())
        swept.nodes_lost = self._mark_nodes_lost(dead)
        swept.connections_lost = self._mark_connections_lost(dead)
        if not self._is_dry:
            swept.minutes_rolled = self._call(lambda: roll_up(self._batch_size))
        self._prune(swept)
        self._run_tasks(swept)
        if not self._is_dry:
            self._call(self._record_finished)
        if swept.connections_lost:
            logger.warning(
                "%s of dead nodes recorded as lost",
                count_of(swept.connections_lost, "connection"),
                extra={"event": "connections_lost", "count": swept.connections_lost},
            )
        if not self._is_dry:
            # Last, so that a failure of the alerts does not affect the sweep.
            self._call(self._evaluate_alerts)
            deliver(self._config)
        return swept

    def _take_lead(self) -> bool:
        timeout_seconds = self._config.node.node_timeout_seconds
        return Sweep.objects.take(_SWEEP, self._holder_id, timeout_seconds)

    def _record_finished(self) -> None:
        finished = {"finished_at": Now()}
        Sweep.objects.update_or_create(name=_SWEEP, defaults=finished)

    def _evaluate_alerts(self) -> None:
        Evaluator(self._config.alerts).evaluate(read_measurements())

    def _call(self, work: Callable[[], Answer]) -> Answer:
        """Call the database, and record when a call was slow."""
        started = self.clock()
        answer = work()
        answered = self.clock()
        if answered - started >= self._config.node.node_timeout_seconds / 3:
            self._delayed_at = answered
        return answer

    def _find_dead(self) -> list[Node]:
        nodes = self._call(lambda: list(Node.objects.live()))
        now = self.clock()
        dead = []
        beats: dict[str, _ObservedBeat] = {}
        for node in nodes:
            beat = (node.generation, node.beat)
            known = self._beats.get(node.node_id)
            if known is None or known.beat != beat:
                known = _ObservedBeat(beat, now)
            beats[node.node_id] = known
            silent_since = max(known.since, self._delayed_at)
            if now - silent_since >= self._config.node.node_timeout_seconds:
                dead.append(node)
        self._beats = beats
        return dead

    def _count_live(self) -> int:
        return Node.objects.live().count()

    def _request_idle(self) -> int:
        """Post close requests for idle connections, which the nodes check again."""
        if not self._idle_seconds:
            return 0
        moment = timezone.now() - timedelta(seconds=self._idle_seconds)
        pending = (
            CloseRequest.objects.recent()
            .filter(reason=close_codes.IDLE.reason)
            .values("value")
        )
        candidates = (
            Connection.objects.idle_since(moment)
            .filter(node__state__in=("serving", "draining"))
            .exclude(connection_id__in=pending)
        )
        if not self._is_sooner:
            candidates = candidates.timed_as_configured()
        idle = candidates.order_by("last_activity_at").values_list(
            "connection_id", flat=True
        )
        if self._is_dry:
            return idle.count()
        count = 0
        while chunk := self._call(lambda: list(idle[: self._batch_size])):
            post_close_requests(*map(self._make_request, chunk))
            count += len(chunk)
            if len(chunk) < self._batch_size:
                break
        return count

    def _make_request(self, connection_id: str) -> CloseRequest:
        return CloseRequest(
            target=CloseRequest.Target.CONNECTION,
            value=connection_id,
            reason=close_codes.IDLE.reason,
            author=_AUTHOR,
            idle_seconds=self._idle_seconds,
        )

    def _mark_nodes_lost(self, dead: list[Node]) -> int:
        if self._is_dry:
            return len(dead)
        lost = self._call(lambda: list(filter(Node.objects.mark_lost, dead)))
        for node in lost:
            logger.warning(
                "Node %s is dead: recorded as lost",
                node,
                extra={"event": "node_lost", "lost_node_id": node.node_id},
            )
        return len(lost)

    def _mark_connections_lost(self, dead: list[Node]) -> int:
        if self._is_dry:
            of_dead = Connection.objects.open().filter(node__in=dead)
            return of_dead.count() + Connection.objects.of_dead_nodes().count()
        return self._repeat(lambda: Connection.objects.mark_lost(self._batch_size))

    def _prune(self, swept: Swept) -> None:
        retention = self._config.retention
        gone_before = _days_ago(retention.closed_connections_days)
        connections = Connection.objects.filter(closed_at__lt=gone_before)
        errors = ErrorEvent.objects.filter(at__lt=_days_ago(retention.errors_days))
        requests = CloseRequest.objects.filter(created_at__lt=_days_ago(1))
        rollups_before = _days_ago(retention.rollups_days)
        oldest_minute = rollups_before.timestamp() // 60
        alerts = Alert.objects.filter(resolved_at__lt=rollups_before)
        rollups = MinuteRollup.objects.filter(minute__lt=oldest_minute)
        nodes = Node.objects.gone_before(gone_before)
        # Bans and commands are kept as long as the connections that they ended.
        bans = Ban.objects.filter(until__lt=gone_before)
        commands = NodeCommand.objects.filter(created_at__lt=gone_before)
        swept.connections_pruned = self._delete(connections)
        swept.errors_pruned = self._delete(errors)
        swept.close_requests_pruned = self._delete(requests)
        swept.nodes_pruned = self._delete(nodes)
        swept.rollups_pruned = self._delete(rollups)
        swept.alerts_pruned = self._delete(alerts)
        swept.bans_pruned = self._delete(bans)
        swept.orders_pruned = self._delete(commands)

    def _run_tasks(self, swept: Swept) -> None:
        for task in get_sweep_tasks():
            work = partial(task.work, self._config, self._batch_size)
            if self._is_dry:
                swept.tasks[task.name] = task.count(self._config)
            else:
                swept.tasks[task.name] = self._repeat(work)

    def _delete(self, rows: "QuerySet[Any]") -> int:
        if self._is_dry:
            return rows.count()
        return self._repeat(lambda: delete_some(rows, self._batch_size))

    def _repeat(self, step: Callable[[], int]) -> int:
        """Repeat a step of one short transaction until it finds nothing more."""
        total = 0
        while count := self._call(step):
            total += count
            if count < self._batch_size:
                break
        return total


class BackgroundSweeper:
    """A sweeper in a thread of its own, within `serve`."""

    def __init__(
        self, config: WebSocketConfig, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._sweeper = Sweeper(config)
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="connections-sweeper", daemon=True
        )

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Wait at most two seconds for the sweep under way, then stop."""
        self._stopping.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        run_sweeper(self._sweeper, self._interval_seconds, self._stopping)


def run_sweeper(
    sweeper: Sweeper,
    interval_seconds: float,
    stopping: threading.Event,
    report: Callable[[Swept], None] = lambda swept: None,
) -> None:
    """Sweep at an interval until stopping is set; a sweep that fails is repeated."""
    while not stopping.is_set():
        close_old_connections()
        try:
            report(sweeper.sweep())
        except Exception as exc:
            sweeper.forget()
            logger.error(
                "A sweep failed and will be tried again: %s",
                exc,
                exc_info=exc,
                extra={"event": "sweep_failed"},
            )
            record_failure("The sweep")
        waiting_since = sweeper.clock()
        stopping.wait(interval_seconds)
        if sweeper.clock() - waiting_since > interval_seconds + _STALL_SECONDS:
            sweeper.forget()  # This host stood still, and the nodes on it as well.
    try:
        sweeper.give_up()
    except DatabaseError as exc:
        logger.warning(
            "The lead could not be given up; another sweeper waits for its end: %s",
            exc,
            extra={"event": "give_up_failed"},
        )
    finally:
        get_connection().close()


def _days_ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)
