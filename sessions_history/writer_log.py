"""
Run the session log that this process writes into, and hand it work from any thread.

In the process of a node it is the log of the node. Any other process has a log of
its own, on an event loop in a thread, which renews the leases of its streams while
the code that writes into them is busy.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from connections.background import BackgroundTasks
from connections.bus import Bus
from connections.config.loader import WebSocketConfig, get_config
from connections.node.current import find_running
from connections.node.node import Node
from connections.pool import require_usable_pool
from connections.pool.choice import (
    choose_pool,
    get_listen_url,
    get_redis_url,
    is_in_redis,
)
from connections.storage.database import Database
from sessions_history.log import SessionLog, get_log
from sessions_history.producers import RecordError
from sessions_history.responders import AnyResponder
from sessions_history.work import Takes

Result = TypeVar("Result")
Work = Callable[[SessionLog], Coroutine[Any, Any, Result]]

_WORK_SECONDS = 1
"""The longest time between two renewals of leases."""

_IDLE_SECONDS = 30
"""A log without work for so long closes its connections."""


def submit(work: Work[Result]) -> "Future[Result]":
    """
    Run work with the log of this process, on the event loop of the log.

    Raises:
        ConfigError: the configuration has problems.
    """
    running = find_running()
    if running is None:
        return _WriterLog.submit_to_current(work)
    loop, node = running
    return asyncio.run_coroutine_threadsafe(_run_on_node(node, work), loop)


async def _run_on_node(node: Node, work: Work[Result]) -> Result:
    return await work(get_log(node))


def close() -> None:
    """End the streams of this process, unless it is a node, and its connections."""
    with _WriterLog.lock:
        current, _WriterLog.current = _WriterLog.current, None
    if current is not None:
        current.close()


def choose_renewal_seconds(config: WebSocketConfig) -> float:
    """Return the time between two renewals of leases, which last two beats or more."""
    return min(_WORK_SECONDS, config.node.beat_seconds)


def make_owner() -> str:
    """Return the id by which a process that is no node owns its work."""
    return os.urandom(16).hex()


def make_log(
    database: Database,
    config: WebSocketConfig,
    owner: str,
    *,
    takes: Takes = Takes.NONE,
    responder: AnyResponder | None = None,
    record_error: RecordError | None = None,
) -> tuple[SessionLog, Bus | None]:
    """Return a log that is of no node, and the bus that its hints go over."""
    redis_url = get_redis_url()
    pool = choose_pool(config, redis_url)
    bus = None
    if pool == "postgres":
        from connections.postgres.bus import PostgresBus

        bus = PostgresBus(database, node_id=owner, listen_url=get_listen_url())
    log = SessionLog(
        database,
        node_id=owner,
        config=config,
        redis_url=redis_url if is_in_redis(pool) else None,
        bus=bus,
        responder=responder,
        takes=takes,
        record_error=record_error,
    )
    return log, bus


class _WriterLog:
    """The log of a process that is no node, on an event loop in a thread."""

    current: "_WriterLog | None" = None
    lock = threading.Lock()

    def __init__(self) -> None:
        self._config = get_config()
        self._config.require_valid()
        require_usable_pool(self._config, get_redis_url())
        self._under_way = 0
        self._used_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._is_closing = asyncio.Event()
        self._log: asyncio.Future[SessionLog] = self._loop.create_future()
        # The process may end while it is idle: nothing is under way then.
        self._thread = threading.Thread(
            target=self._serve, name="sessions-writer", daemon=True
        )
        self._thread.start()

    @classmethod
    def submit_to_current(cls, work: Work[Result]) -> "Future[Result]":
        """Run work with the log of this process, which the first call makes."""
        with cls.lock:
            if cls.current is None:
                cls.current = cls()
            current = cls.current
            current._under_way += 1
        running = asyncio.run_coroutine_threadsafe(current._run(work), current._loop)
        running.add_done_callback(current._finish)
        return running

    @classmethod
    def forget(cls) -> None:
        """Leave the log to the parent of a forked process."""
        cls.current, cls.lock = None, threading.Lock()

    def close(self) -> None:
        """End the streams as interrupted, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._is_closing.set)
        self._thread.join()

    async def _run(self, work: Work[Result]) -> Result:
        return await work(await asyncio.shield(self._log))

    def _finish(self, done: "Future[Any]") -> None:
        with self.lock:
            self._under_way -= 1
            self._used_at = time.monotonic()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._keep_log())

    async def _keep_log(self) -> None:
        """Keep the log until it was idle for a while, or is closed."""
        database = Database()
        log, bus = make_log(database, self._config, make_owner())
        self._log.set_result(log)
        tasks = BackgroundTasks()
        work_seconds = choose_renewal_seconds(self._config)

        async def check_work() -> None:
            await asyncio.sleep(work_seconds)
            await log.check_work()

        tasks.repeat(check_work, "The check of work", work_seconds)
        while not self._is_closing.is_set() and not self._retire():
            try:
                async with asyncio.timeout(_WORK_SECONDS):
                    await self._is_closing.wait()
            except TimeoutError:
                continue
        await tasks.stop()
        await log.stop()
        if bus is not None:
            await bus.close()
        await database.close()

    def _retire(self) -> bool:
        """Make the next call begin another log, if this one is idle."""
        with self.lock:
            is_idle = time.monotonic() - self._used_at > _IDLE_SECONDS
            if self._under_way or not is_idle or _WriterLog.current is not self:
                return False
            _WriterLog.current = None
            return True


os.register_at_fork(after_in_child=_WriterLog.forget)
