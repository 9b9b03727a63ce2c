"""
Keep garbage collections short, so that they do not stop the event loop.

A full collection visits every container: 0.7 s at 10,000 connections. So objects
that survive a long one are frozen, and later collections visit newer objects only.
Connections need no collection: reference counting frees them once the client and
the consumer have gone. Frozen objects that become a cycle later stay; collect_all()
frees them.
"""

import contextlib
import gc
import time
from collections.abc import Iterator

from connections.units import Clock

_LONG_SECONDS = 0.01
"""CPU time of a collection that has visited some ten thousand objects."""

_MIDDLE_COLLECTIONS = 5
"""Collections before a full one: half of Python's, which halves a full one's work."""

_FULL = 2
"""The index of the oldest generation."""


class Freezer:
    """Freezes objects that survive a long full collection; one per process."""

    def __init__(self, clock: Clock) -> None:
        self.is_on = False
        self.freezes = 0
        """Freezes since the last collection of all objects."""

        self._clock = clock
        self._began_at = 0.0

    def begin(self) -> None:
        """Freeze all present objects, and from now on those that survive."""
        if not self.is_on:
            self.is_on = True
            gc.collect()
            gc.freeze()
            young, middle, _ = gc.get_threshold()
            gc.set_threshold(young, middle, _MIDDLE_COLLECTIONS)
            gc.callbacks.append(self.on_collection)

    def on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Time a collection; the signature is that of gc.callbacks."""
        if info["generation"] != _FULL:
            return
        if phase == "start":
            self._began_at = self._clock()
        elif self._clock() - self._began_at > _LONG_SECONDS:
            gc.freeze()
            self.freezes += 1

    @contextlib.contextmanager
    def thawed(self) -> Iterator[None]:
        """Collect all objects, and keep them unfrozen for gc.get_referrers()."""
        gc.unfreeze()
        gc.collect()
        try:
            yield
        finally:
            if self.is_on:
                gc.freeze()
                self.freezes = 0


_freezer = Freezer(time.thread_time)
keep_collections_short = _freezer.begin
thawed = _freezer.thawed


def count_freezes() -> int:
    """Return the freezes since the last collection of all objects."""
    return _freezer.freezes


def collect_all() -> None:
    """Collect all objects, frozen ones too; the process stands still meanwhile."""
    with thawed():
        return
