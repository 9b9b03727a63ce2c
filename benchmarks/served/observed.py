"""
Observe the event loop and the CPU time by layer from within the server's process.

BENCHMARKS_OBSERVED names the output file and enables this. SIGUSR1 restarts the
observation; SIGUSR2 writes the results and stops it, because it costs CPU time.
"""

import asyncio
import collections
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

_TICK_SECONDS = 0.005
_SAMPLE_SECONDS = 0.001


def observe(application: Any) -> Any:
    """Return the application, observed if BENCHMARKS_OBSERVED is set."""
    place = os.environ.get("BENCHMARKS_OBSERVED")
    return Observed(application, Path(place)) if place else application


class Observed:
    """An application whose event loop and stack are sampled."""

    def __init__(self, application: Any, place: Path) -> None:
        self._application = application
        self._place = place
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None
        self._is_watching = False
        self._layers: collections.Counter[str] = collections.Counter()
        self._lateness: list[tuple[float, float]] = []
        self._due, self._cpu_at_tick = 0.0, 0.0
        self._samples_layers = "BENCHMARKS_LAYERS" in os.environ
        self._collecting_since = 0.0
        self._longest_collection = 0.0
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._write)
        gc.callbacks.append(self._record_collection)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        await self._application(scope, receive, send)

    async def _watch(self) -> None:
        """Record delays of the event loop, in wall time and CPU time of the thread."""
        while self._is_watching:
            self._due = time.monotonic() + _TICK_SECONDS
            self._cpu_at_tick = time.thread_time()
            await asyncio.sleep(_TICK_SECONDS)
            self._record_delay()

    def _record_delay(self) -> None:
        late = time.monotonic() - self._due
        busy = time.thread_time() - self._cpu_at_tick
        if late > _TICK_SECONDS:
            self._lateness.append((late, min(late, busy)))

    def _begin(self, number: int, frame: FrameType | None) -> None:
        self._layers.clear()
        self._lateness.clear()
        self._longest_collection = 0.0
        if self._loop is not None and not self._is_watching:
            self._due, self._cpu_at_tick = time.monotonic(), time.thread_time()
            self._is_watching = True
            self._loop.call_soon_threadsafe(self._start_watch)
        if self._samples_layers:
            signal.signal(signal.SIGPROF, self._sample)
            signal.setitimer(signal.ITIMER_PROF, _SAMPLE_SECONDS, _SAMPLE_SECONDS)

    def _start_watch(self) -> None:
        self._watching = asyncio.ensure_future(self._watch())

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self._layers[_name_layer(frame)] += 1

    def _record_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.monotonic()
        else:
            took = time.monotonic() - self._collecting_since
            self._longest_collection = max(self._longest_collection, took)

    def _write(self, number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self._is_watching:
            # The signal may interrupt a block, which the watch records at its end.
            self._record_delay()
        self._is_watching = False
        draft = self._place.with_suffix(".draft")
        draft.write_text(
            json.dumps(
                {
                    "layers": self._layers,
                    "late_seconds": [late for late, _ in self._lateness],
                    "busy_seconds": [busy for _, busy in self._lateness],
                    "longest_collection_seconds": self._longest_collection,
                }
            )
        )
        draft.rename(self._place)


def _name_layer(frame: FrameType) -> str:
    """Return the package or module of a frame."""
    name: str = frame.f_globals.get("__name__", "?")
    parts = name.split(".")
    if parts[0] in ("connections", "daphne", "twisted", "autobahn", "uvicorn"):
        return ".".join(parts[:3])
    if parts[0] in sys.stdlib_module_names:
        return "selectors" if parts[0] in ("selectors", "select") else parts[0]
    return parts[0]
