"""
Keeping garbage collection from stopping the event loop.

A full collection looks at every container there is: 0.7 s at 10,000 connections.
So what has survived a long one is frozen, out of its sight, and each looks only at
what came since. Connections need no collection: their parts are freed by reference
counts, once both the client and the consumer have gone. Only what is frozen and
becomes a circle later stays; collect_all() is for that.
"""

import contextlib
import gc
import time
from collections.abc import Iterator

from connections.units import Clock

_LONG_SECONDS = 0.01
"""Of CPU: a collection that took so much has looked at some ten thousand objects."""

_MIDDLE_COLLECTIONS = 5
"""Before a full one, half as many as Python's: it then has half as much to look at."""

_FULL = 2
"""The number of the oldest generation."""


class Freezer:
    """Freezes what survives a long full collection; a process needs one."""

    def __init__(self, clock: Clock) -> None:
        self.is_on = False
        self.freezes = 0
        """How often something was frozen since everything was looked at."""

        self._clock = clock
        self._began_at = 0.0

    def begin(self) -> None:
        """Freeze what is loaded by now, and from now on what survives."""
        if not self.is_on:
            self.is_on = True
            gc.collect()
            gc.freeze()
            young, middle, _ = gc.get_threshold()
            gc.set_threshold(young, middle, _MIDDLE_COLLECTIONS)
            gc.callbacks.append(self.on_collection)

    def on_collection(self, phase: str, facts: dict[str, int]) -> None:
        """Be told when a collection begins and ends, as gc.callbacks are."""
        if facts["generation"] != _FULL:
            return
        if phase == "start":
            self._began_at = self._clock()
        elif self._clock() - self._began_at > _LONG_SECONDS:
            gc.freeze()
            self.freezes += 1

    @contextlib.contextmanager
    def thawed(self) -> Iterator[None]:
        """Collect everything, and have gc.get_referrers() see what was frozen."""
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
    """Return how often something was frozen since everything was looked at."""
    return _freezer.freezes


def collect_all() -> None:
    """Look through everything, what is frozen too; stops the process meanwhile."""
    with thawed():
        return
