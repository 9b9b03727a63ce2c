"""
Keep garbage collections short, so that they do not stop the event loop.

A full collection visits every container: 0.7 s at 10,000 connections. So objects
that survive a long one are frozen, and later collections visit newer objects only.
Reference counting frees most connections. A consumer that is part of a cycle, frozen
or old, is made young again by make_young() when its connection has ended, so that a
short collection frees it. Other frozen objects that become a cycle later stay;
collect_all() frees them.
"""

import asyncio
import ctypes
import gc
import time
import types
from collections import deque
from typing import Any

from connections.units import Clock

_LONG_SECONDS = 0.01
"""CPU time of a collection that has visited some ten thousand objects."""

_YOUNG_OBJECTS = 10_000
"""How many new objects begin a collection, in place of Python's 700 (2,000 in 3.13)."""

_MIDDLE_COLLECTIONS = 5
"""Collections before a full one: half of Python's, which halves a full one's work."""

_FULL = 2
"""The index of the oldest generation."""

_MAX_YOUNG = 1_000
"""Objects that make_young() visits."""

_SLICE_SECONDS = 0.002

_MAX_ITEMS = 1_000
"""Items of a container that make_young() enters."""

_CONTAINERS = frozenset((dict, list, tuple, set, frozenset, deque))
_SHARED = (type, types.ModuleType, asyncio.AbstractEventLoop)
_OWN = ("connections.", "sessions_history.")
_PER_CONNECTION = ("connections.connection.", "connections.hub.connection")

# The C interface of CPython, part of its stable ABI. Both take a tracked object.
_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_track = ctypes.pythonapi.PyObject_GC_Track
for _function in (_untrack, _track):
    _function.argtypes = [ctypes.py_object]
    _function.restype = None


class Freezer:
    """Freezes objects that survive a long full collection; one per process."""

    def __init__(self, clock: Clock) -> None:
        self.is_on = False
        self.freezes = 0
        """Freezes since the last collection of all objects."""

        self._clock = clock
        self._began_at = 0.0
        self._former_threshold = gc.get_threshold()

    def begin(self) -> None:
        """Freeze all present objects, and from now on those that survive."""
        if not self.is_on:
            self.is_on = True
            gc.collect()
            gc.freeze()
            self._former_threshold = gc.get_threshold()
            _, middle, _ = self._former_threshold
            gc.set_threshold(_YOUNG_OBJECTS, middle, _MIDDLE_COLLECTIONS)
            gc.callbacks.append(self.on_collection)

    def end(self) -> None:
        """Leave collections to Python again, for a process that outlives its server."""
        if self.is_on:
            self.is_on = False
            gc.callbacks.remove(self.on_collection)
            gc.set_threshold(*self._former_threshold)
            gc.unfreeze()

    def on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Time a collection; the signature is that of gc.callbacks."""
        if info["generation"] != _FULL:
            return
        if phase == "start":
            self._began_at = self._clock()
        elif self._clock() - self._began_at > _LONG_SECONDS:
            gc.freeze()
            self.freezes += 1

    def collect_all(self) -> None:
        """Collect all objects, frozen ones too; the process stands still meanwhile."""
        gc.unfreeze()
        gc.collect()
        self._freeze_again()
        self.freezes = 0

    def list_all(self) -> list[Any]:
        """Return all containers, frozen ones too: 10 ms for 350,000 of them."""
        # What is frozen as garbage stays; what is garbage of late is freed here.
        gc.collect(1)
        gc.unfreeze()
        found = gc.get_objects()
        self._freeze_again()
        return found

    def _freeze_again(self) -> None:
        if self.is_on:
            gc.freeze()


_freezer = Freezer(time.thread_time)
keep_collections_short = _freezer.begin
leave_collections_to_python = _freezer.end
collect_all = _freezer.collect_all
list_all = _freezer.list_all


def count_freezes() -> int:
    """Return the freezes since the last collection of all objects."""
    return _freezer.freezes


def make_young(*roots: object) -> None:
    """
    Move objects, and what they refer to, into the youngest generation.

    The next collection of that generation frees them if only cycles of these objects
    refer to them, whether they were frozen or not. Nothing changes for objects in
    use. Classes, modules, event loops and the parts of a node are not entered,
    because all connections share them.
    """
    seen = {id(one) for one in roots}
    waiting = deque(roots)
    while waiting:
        one = waiting.popleft()
        if not gc.is_tracked(one):
            continue
        _untrack(one)
        _track(one)
        if len(seen) > _MAX_YOUNG:
            continue
        for referent in gc.get_referents(one):
            if id(referent) not in seen and not is_shared(referent):
                seen.add(id(referent))
                waiting.append(referent)


class YoungObjects:
    """Makes what ended connections leave young, in slices of the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[list[Any]] = deque()

    def add(self, roots: list[Any]) -> None:
        """Call make_young() soon; a mass of ends must not stop the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._work)
        self._waiting.append(roots)

    def _work(self) -> None:
        ends_at = time.perf_counter() + _SLICE_SECONDS
        while self._waiting and time.perf_counter() < ends_at:
            make_young(*self._waiting.popleft())
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._work)


def is_shared(one: object) -> bool:
    """Return True if make_young() does not enter an object."""
    # Not isinstance(): it would evaluate Django's lazy objects.
    kind = type(one)
    if kind in _CONTAINERS:
        is_module = kind is dict and "__loader__" in one  # type: ignore[operator]
        return is_module or len(one) > _MAX_ITEMS  # type: ignore[arg-type]
    module = kind.__module__
    if module.startswith(_OWN):
        return not module.startswith(_PER_CONNECTION)
    return issubclass(kind, _SHARED)
