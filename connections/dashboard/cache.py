"""Cache snapshots and panels for all views and sockets of one process."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from django.db import Error as DatabaseError
from django.urls import get_script_prefix

from connections.dashboard.filters import Selection
from connections.dashboard.memory import (
    add_own,
    list_own_minutes,
    take_from_memory,
)
from connections.dashboard.panels import Panels, render_panels
from connections.dashboard.sites import linking_within
from connections.dashboard.snapshot import Snapshot, take_snapshot
from connections.dashboard.statistics import (
    Statistics,
    StatisticsCache,
    add_minutes,
)
from connections.node.live_state import request_samples
from connections.storage.failures import AWAY, describe_failure, explain_failure
from connections.units import Clock

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS = 1.0
_WANT_EVERY_SECONDS = 5
"""A database that failed at once is asked again as often."""

_PATIENCE = 5
"""How many times longer than it was waited for the failed database is left alone."""


class Snapshots:
    """
    Take at most one snapshot a second, for any number of threads.

    Without the database the snapshot is that of this process's node. With a
    database that takes no writes, other nodes are shown as they were.
    """

    def __init__(
        self,
        take: Callable[[int], Snapshot] = take_snapshot,
        want: Callable[[], None] = request_samples,
        take_own: Callable[[int, Snapshot | None], Snapshot] = take_from_memory,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._take = take
        self._want = want
        self._take_own = take_own
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._taken_at = 0.0
        self._due_at: float | None = None
        self._problem = ""
        self._can_read = True
        self._numbers = count(1)

    def get(self) -> Snapshot:
        """
        Return the last snapshot if it is younger than a second, else a new one.

        The call may wait for the database, so it must not run on an event loop.
        """
        with self._lock:
            age_seconds = self._clock() - self._taken_at
            if self._last is None or age_seconds >= MAX_AGE_SECONDS:
                self._last = self._take_next(next(self._numbers))
                self._taken_at = self._clock()
            return self._last

    def _take_next(self, number: int) -> Snapshot:
        began_at = self._clock()
        if self._due_at is None or began_at >= self._due_at:
            self._request()
            now = self._clock()
            # A locked database answers after its time-out alone, while viewers wait.
            wait_seconds = _PATIENCE * (now - began_at) if self._problem else 0
            self._due_at = now + _WANT_EVERY_SECONDS + wait_seconds
        if self._can_read:
            try:
                snapshot = self._take(number)
            except DatabaseError as exc:
                self._can_read = False
                self._problem = describe_failure(exc)
            else:
                return self._complete(snapshot) if self._problem else snapshot
        return replace(self._take_own(number, self._last), problem=self._problem)

    def _request(self) -> None:
        """Request samples from all nodes; the answer says if the database works."""
        before, self._problem, self._can_read = self._problem, "", True
        try:
            self._want()
        except DatabaseError as exc:
            self._problem = describe_failure(exc)
            self._can_read = self._problem != AWAY
            if not before:
                logger.warning(
                    "The dashboard shows what this node has in memory: %s",
                    explain_failure(exc),
                    extra={"event": "dashboard_without_database"},
                )

    def _complete(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with this process's node from memory, which is newer."""
        own = self._take_own(snapshot.number, self._last)
        return replace(add_own(snapshot, own), problem=self._problem)


class SnapshotCache:
    """
    Cache snapshots, statistics and the panels rendered from them.

    The database is read at most once a second, and panels are rendered once
    per selection, for any number of viewers. Thread-safe.
    """

    def __init__(self, snapshots: Snapshots | None = None) -> None:
        self._snapshots = snapshots or Snapshots()
        self._statistics = StatisticsCache()
        self._lock = threading.Lock()
        self._number = 0
        self._drawn: dict[tuple[Selection, frozenset[str], str], Panels] = {}

    def get_snapshot(self) -> Snapshot:
        """Return a snapshot at most one second old."""
        return self._snapshots.get()

    def get_panels(self, selection: Selection, allowed: frozenset[str]) -> Panels:
        """
        Return the panels for a selection, at most one second old.

        They offer the allowed actions; none while the database fails.
        """
        snapshot = self.get_snapshot()
        statistics = self._get_statistics(snapshot, selection)
        if snapshot.problem:
            allowed = frozenset()
        key = (replace(selection, problems=()), allowed, get_script_prefix())
        with self._lock:
            if snapshot.number != self._number:
                self._number = snapshot.number
                self._drawn.clear()
            panels = self._drawn.get(key)
            if panels is None:
                with linking_within(selection.site):
                    panels = render_panels(snapshot, statistics, selection, allowed)
                self._drawn[key] = panels
            return panels

    def _get_statistics(self, snapshot: Snapshot, selection: Selection) -> Statistics:
        if not snapshot.is_from_memory:
            try:
                return self._statistics.get(selection.range, selection.node)
            except DatabaseError as exc:
                logger.warning("Statistics: %s", explain_failure(exc))
        minutes = list_own_minutes(selection.node)
        return add_minutes(selection.range, minutes)


shared = SnapshotCache()
"""The cache of this process."""
