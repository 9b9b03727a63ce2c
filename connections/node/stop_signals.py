"""Drain a node at a stop signal, before another server than ours stops."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

from connections.background import BackgroundTasks
from connections.node.node import Node

logger = logging.getLogger(__name__)

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """
    Takes the stop signals of a process, and passes them on after the drain.

    A server with handlers of Python's signal module (uvicorn, daphne) keeps serving
    until its handler is called. hypercorn gets its signals from the event loop, and
    stops at once. A second signal skips the grace period.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Callable[[int, Any], Any]] = {}
        self._tasks = BackgroundTasks()
        self._count = 0

    def watch(self) -> None:
        """Take the signals; only the main thread can, and a server's handler only."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _NUMBERS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                self._handlers[number] = handler
                signal.signal(number, self._take)

    def release(self) -> None:
        """Give the signals back to the server."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._take:
                signal.signal(number, handler)
        self._handlers = {}

    def _take(self, number: int, frame: object) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._begin, number)
        else:
            self._handlers[number](number, frame)

    def _begin(self, number: int) -> None:
        self._count += 1
        if self._count > 1:
            self._node.skip_grace()
            return
        name = signal.Signals(number).name
        logger.info("%s: draining", name, extra={"event": "drain_began"})
        self._tasks.start(self._drain(number), "The drain")

    async def _drain(self, number: int) -> None:
        node = self._node
        try:
            node.begin_drain()
            if len(node.hub):
                await asyncio.sleep(node.config.drain.delay_seconds)
            await node.drain()
            await node.stop()
        finally:
            handler = self._handlers[number]
            self.release()
            handler(number, None)
