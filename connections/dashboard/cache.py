"""Cache snapshots and panels for all views and sockets of one process."""

import threading
from dataclasses import replace

from connections.dashboard.filters import Selection
from connections.dashboard.panels import Panels, render_panels
from connections.dashboard.snapshot import Snapshot, Snapshots
from connections.dashboard.statistics import StatisticsCache


class SnapshotCache:
    """
    Cache snapshots, statistics and the panels rendered from them.

    The database is read at most once a second, and panels are rendered once
    per selection, for any number of viewers. Thread-safe.
    """

    def __init__(self) -> None:
        self._snapshots = Snapshots()
        self._statistics = StatisticsCache()
        self._lock = threading.Lock()
        self._number = 0
        self._drawn: dict[tuple[Selection, frozenset[str]], Panels] = {}

    def get_snapshot(self) -> Snapshot:
        """
        Return a snapshot at most one second old.

        Raises:
            django.db.Error: the database did not answer.
        """
        return self._snapshots.get()

    def get_panels(self, selection: Selection, allowed: frozenset[str]) -> Panels:
        """
        Return the panels for a selection, at most one second old.

        They offer the allowed actions.

        Raises:
            django.db.Error: the database did not answer.
        """
        snapshot = self.get_snapshot()
        statistics = self._statistics.get(selection.range, selection.node)
        key = (replace(selection, problems=()), allowed)
        with self._lock:
            if snapshot.number != self._number:
                self._number = snapshot.number
                self._drawn.clear()
            panels = self._drawn.get(key)
            if panels is None:
                panels = render_panels(snapshot, statistics, selection, allowed)
                self._drawn[key] = panels
            return panels


shared = SnapshotCache()
"""The cache of this process."""
