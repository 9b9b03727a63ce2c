"""
Sweep idle connections, dead nodes and old rows of the whole cluster.

The sweeper works through the database alone, from any process. It releases no
slots, because leases expire by themselves.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from django.db.models import QuerySet
from django.utils import timezone

from connections import close_codes
from connections.alerts.email import deliver
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import read_measurements
from connections.announcements import post_close_requests
from connections.config.enforcement import OBSERVE
from connections.config.loader import WebSocketConfig
from connections.metrics.counters import record_failure
from connections.metrics.steps import PeriodicSteps
from connections.models import (
    Alert,
    Ban,
    CloseRequest,
    Connection,
    ErrorEvent,
    HourRollup,
    MinuteRollup,
    Node,
    NodeCommand,
    RefusedHandshake,
    Sweep,
)
from connections.models.alias import get_connection
from connections.models.clock import Now
from connections.models.connection import ConnectionQuerySet
from connections.models.sweep import count_some, delete_some
from connections.node.records import send_lost
from connections.passes import Passes
from connections.storage.deadlines import deadlines
from connections.sweeper.results import AllNodesSilent, SweepIncomplete, Swept
from connections.sweeper.rollups import roll_up, roll_up_hours
from connections.sweeper.tasks import SweepTask, get_sweep_tasks, has_more
from connections.units import Clock, count_of

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BATCH_SIZE = 500

PART_SECONDS = 2
"""How long a part of a repeated sweep goes on; the next sweep does the rest."""

_UNREAD_DAYS = 1
"""How long rows are kept at least that nodes have to read."""

_MEASURED_DAYS = 2 / 24
"""How long rows are kept at least that alerts measure, and that become an hour."""

_SWEEP = "connections"
_AUTHOR = "sweeper"

_PRUNED = {
    "connections": "The deletion of old connections",
    "errors": "The deletion of old errors",
    "close_requests": "The deletion of old close requests",
    "nodes": "The deletion of old nodes",
    "rollups": "The deletion of old minutes",
    "hours": "The deletion of old hours",
    "alerts": "The deletion of old alerts",
    "bans": "The deletion of ended bans",
    "orders": "The deletion of old node commands",
    "refusals": "The deletion of old refused handshakes",
}
_IDLE = "The close of idle connections"
_DEAD = "The search for dead nodes"
_LOST = "The record of lost connections"
_ROLLUP = "The rollup of minutes"
_HOURS = "The rollup of hours"
_ALERTS = "The evaluation of alerts"
_MAILS = "The delivery of alerts"
_PARTS = (_IDLE, _DEAD, _LOST, _ROLLUP, _HOURS, *_PRUNED.values(), _ALERTS, _MAILS)


OnBatch = Callable[[str, int, Callable[[], int]], None]
"""Called with a part, the rows that it has done, and a count of those left."""


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
        on_batch: OnBatch | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._config = config
        self._idle_seconds = idle_seconds or config.idle_timeout_seconds
        self._is_sooner = idle_seconds is not None
        self._batch_size = batch_size
        self._is_dry = is_dry
        self._on_batch = on_batch
        self._part = ""
        self._part_seconds = math.inf
        self.clock = clock
        self._holder_id = os.urandom(16).hex()
        self._beats: dict[str, _ObservedBeat] = {}
        # The last outage or slow call: until its end nodes may have been delayed too.
        self._delayed_at = float("-inf")
        self._passes = Passes(record_failure)
        self._steps = PeriodicSteps(clock)
        self.interval_seconds: float | None = None
        """The interval of repeated sweeps, by which nodes find overdue parts."""
        self._failed: list[str] = []
        self._is_leader = False

    def sweep(self) -> Swept:
        """
        Sweep once, as one of many rounds of this sweeper.

        Raises:
            SweepIncomplete: parts failed; the others have run.
        """
        if not self._is_dry and not self._call(self._take_lead):
            self.forget()
            self._is_leader = False
            return Swept(is_leader=False)
        if not self._is_leader:
            self._is_leader = True
            for name in (*_PARTS, *map(_name_part, get_sweep_tasks())):
                self._steps.declare(name, self.interval_seconds or 0)
        self._part_seconds = PART_SECONDS
        return self._sweep(self._find_dead())

    def sweep_once(self, *, is_forced: bool = False) -> Swept:
        """
        Sweep a single time, with the silence of nodes by the database's clock.

        Raises:
            AllNodesSilent: every live node looks dead, and is_forced is not set.
            SweepIncomplete: parts failed; the others have run.
        """
        timeout = timedelta(seconds=self._config.node.node_timeout_seconds)
        silent = list(Node.objects.silent_since(Now() - timeout))
        if (
            len(silent) > 1
            and not is_forced
            and len(silent) == Node.objects.live().count()
        ):
            raise AllNodesSilent
        return self._sweep(silent)

    def give_up(self) -> None:
        """Let another sweeper take over at once."""
        Sweep.objects.give_up(_SWEEP, self._holder_id)

    def forget(self) -> None:
        """Forget the observed beats, after a failure or a pause."""
        self._beats.clear()
        self._delayed_at = self.clock()

    def _sweep(self, dead: list[Node]) -> Swept:
        self._failed = []
        run = self._run_part
        swept = Swept()
        swept.idle_requested = run(_IDLE, self._request_idle) or 0
        swept.nodes_lost = run(_DEAD, lambda: self._mark_nodes_lost(dead)) or 0
        swept.connections_lost = (
            run(_LOST, lambda: self._mark_connections_lost(dead)) or 0
        )
        if swept.connections_lost:
            logger.warning(
                "%s of dead nodes recorded as lost",
                count_of(swept.connections_lost, "connection"),
                extra={"event": "connections_lost", "count": swept.connections_lost},
            )
        if not self._is_dry:
            work = partial(roll_up, self._batch_size)
            swept.minutes_rolled = run(_ROLLUP, lambda: self._call(work)) or 0
            run(_HOURS, lambda: self._call(roll_up_hours))
            # Alerts do not wait for what a deletion takes.
            self._call(self._record_finished)
            run(_ALERTS, lambda: self._call(self._evaluate_alerts))
            run(_MAILS, lambda: deliver(self._config))
        self._prune(swept)
        for task in get_sweep_tasks():
            count = run(_name_part(task), partial(self._run_task, task))
            swept.tasks[task.name] = count or 0
        if self._failed:
            raise SweepIncomplete(self._failed, swept)
        return swept

    def _run_part(self, name: str, part: Callable[[], Answer]) -> Answer | None:
        """
        Run one part of a sweep; a failure is logged and counted, and ends no sweep.

        An error is raised if the connection to the database is lost, because the
        other parts would wait for it as well.
        """
        self._part = name
        try:
            answer = part()
        except Exception as exc:
            database = get_connection()
            if database.errors_occurred and not database.is_usable():
                raise
            self._failed.append(name)
            self._passes.report(name, exc)
            return None
        self._passes.finish(name, is_whole=True)
        self._steps.record_success(name)
        return answer

    def _take_lead(self) -> bool:
        timeout_seconds = self._config.node.node_timeout_seconds
        return Sweep.objects.take(_SWEEP, self._holder_id, timeout_seconds)

    def _record_finished(self) -> None:
        """Record that the sweeper works, and how long each part has not succeeded."""
        ages = self._steps.get_ages()
        result = {"interval_seconds": self.interval_seconds, "ages": ages}
        finished = {"finished_at": Now(), "result": result}
        Sweep.objects.update_or_create(name=_SWEEP, defaults=finished)

    def _evaluate_alerts(self) -> None:
        Evaluator(self._config.alerts).evaluate(read_measurements())

    def _call(self, work: Callable[[], Answer]) -> Answer:
        """Call the database, and record when a call was slow."""
        started = self.clock()
        try:
            with deadlines.limit(get_connection()):
                return work()
        finally:
            answered = self.clock()
            if answered - started >= self._config.node.node_timeout_seconds / 3:
                self._delayed_at = answered

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
        candidates: ConnectionQuerySet = (
            Connection.objects.idle_since(moment)
            .filter(node__state__in=("serving", "draining"))
            .exclude(connection_id__in=pending)
        )
        if not self._is_sooner:
            candidates = candidates.timed_as_configured()
        candidates = self._without_observed(candidates)
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

    def _without_observed(self, rows: ConnectionQuerySet) -> ConnectionQuerySet:
        """Leave out the routes on which idle connections are observed alone."""
        enforce = self._config.enforce
        routes = [one.route for one in enforce.routes]
        observed = [one for one in routes if "idle" in enforce.find_observed(one)]
        if enforce.idle == OBSERVE:
            return rows.filter(route__in=set(routes).difference(observed))
        return rows.exclude(route__in=observed)

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
        gone = Connection.objects.of_dead_nodes()
        if self._is_dry:
            of_dead = Connection.objects.open().filter(node__in=dead)
            return of_dead.count() + gone.count()
        return self._repeat(self._mark_some_lost, gone.count)

    def _mark_some_lost(self) -> int:
        connection_ids = Connection.objects.mark_lost(self._batch_size)
        send_lost(connection_ids)
        return len(connection_ids)

    def _prune(self, swept: Swept) -> None:
        """Delete old rows of each model; one that fails does not stop the others."""
        retention = self._config.retention
        gone_days = retention.closed_connections_days
        gone_before = _days_ago(gone_days)
        rollups_before = _days_ago(max(retention.rollups_days, _MEASURED_DAYS))
        oldest_minute = rollups_before.timestamp() // 60
        # Bans and commands are kept as long as the connections that they ended.
        old: dict[str, tuple[Any, str, Any]] = {
            "connections": (Connection.objects, "closed_at", gone_before),
            "errors": (ErrorEvent.objects, "at", _days_ago(retention.errors_days)),
            "close_requests": (
                CloseRequest.objects,
                "created_at",
                _days_ago(_UNREAD_DAYS),
            ),
            "nodes": (
                Node.objects.gone(),
                "stopped_at",
                _days_ago(max(gone_days, _MEASURED_DAYS)),
            ),
            "rollups": (MinuteRollup.objects, "minute", oldest_minute),
            "hours": (HourRollup.objects, "hour", oldest_minute // 60),
            "alerts": (Alert.objects, "resolved_at", rollups_before),
            "bans": (Ban.objects, "until", gone_before),
            "orders": (
                NodeCommand.objects,
                "created_at",
                _days_ago(max(gone_days, _UNREAD_DAYS)),
            ),
            "refusals": (RefusedHandshake.objects, "at", gone_before),
        }
        for name in _PRUNED:
            all_rows, column, moment = old[name]
            rows = all_rows.filter(**{f"{column}__lt": moment}).order_by(column)
            count = self._run_part(_PRUNED[name], partial(self._delete, rows))
            setattr(swept, f"{name}_pruned", count or 0)

    def _run_task(self, task: SweepTask) -> int:
        count = partial(task.count, self._config)
        if self._is_dry:
            return count()
        timeout_seconds = self._config.node.node_timeout_seconds
        if task.waits_for_nodes and self.clock() < self._delayed_at + timeout_seconds:
            return 0
        return self._repeat(partial(task.work, self._config, self._batch_size), count)

    def _delete(self, rows: "QuerySet[Any]") -> int:
        if self._is_dry:
            return count_some(rows)
        return self._repeat(lambda: delete_some(rows, self._batch_size), rows.count)

    def _repeat(self, step: Callable[[], int], count_left: Callable[[], int]) -> int:
        """Repeat a short transaction until it finds nothing more or time is up."""
        total, ends_at, goes_on = 0, self.clock() + self._part_seconds, True
        while goes_on and self.clock() < ends_at:
            count = self._call(step)
            total += count
            if count and self._on_batch is not None:
                self._on_batch(self._part, total, count_left)
            goes_on = has_more(count, self._batch_size)
        return total


def _name_part(task: SweepTask) -> str:
    return f"The sweep of {task.name}"


def _days_ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)
