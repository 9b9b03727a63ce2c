"""Start workers on one listening socket, restart them, and stop them."""

import asyncio
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from connections.background import BackgroundTasks
from connections.metrics.merging import MergedMetrics
from connections.pool.parent import PoolHost
from connections.workers.board import Board
from connections.workers.worker import Worker, start_worker

logger = logging.getLogger(__name__)

_STABLE_SECONDS = 60
"""A worker that lived for so long is restarted at once."""

_MAX_PAUSE_SECONDS = 30
_READY_SECONDS = 300
MARGIN_SECONDS = 15
"""How long a worker may take to end beyond its handshakes and its drain."""

_COLLECT_SECONDS = 1
"""How long a worker may take to answer a question of the parent."""

_POLL_SECONDS = 5
"""Between polls of the counters, which are kept if a worker is killed."""


class Parent:
    """
    The process above the workers of `serve --workers`.

    It holds the listening socket, so that no client is refused while a worker is
    replaced, and the pool of workers without Redis. It serves nothing, but has loaded
    the settings and apps of the project for its checks. SIGHUP starts new workers by
    exec, so that they read new code; their environment is that of the parent.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: str,
        count: int,
        listening: socket.socket,
        pool: PoolHost,
        drain_seconds: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._argv = command
        self._folder = folder
        self._count = count
        self._listening = listening
        self._pool = pool
        self._drain_seconds = drain_seconds
        self._on_ready = on_ready
        self.ready_seconds: float = _READY_SECONDS
        """How long a worker may take until it accepts connections."""
        self.margin_seconds: float = MARGIN_SECONDS
        # In containers all parents are process 1. The column takes ten characters.
        self._pool_name = f"w:{os.urandom(4).hex()}"
        self._board = Board.create()
        self._cells = itertools.cycle(range(2 * count))
        self._current: list[Worker | None] = [None] * count
        self._workers: set[Worker] = set()
        """The workers whose process runs, those that drain included."""
        self._metrics = MergedMetrics()
        self._tasks = BackgroundTasks()
        self._signals = 0
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        has_started = await self._start_all()
        if has_started and not self._stopping.is_set():
            self._on_ready()
            for step, name in (
                (self._reload_when_wanted, "The reload of workers"),
                (self._poll_counters, "The poll of workers' counters"),
            ):
                self._tasks.repeat(step, name, _POLL_SECONDS)
            await self._stopping.wait()
        await self._tasks.stop()
        workers = list(self._workers)
        for worker in workers:
            worker.stop()
        waiting = [one.wait_drained(self.margin_seconds) for one in workers]
        await asyncio.gather(*waiting)
        has_failed = any(one.has_failed for one in workers)
        return 0 if has_started and not has_failed else 1

    async def _start_all(self) -> bool:
        """Start all workers; return True if each became ready, or none failed."""
        started: list[Worker] = []
        try:
            while len(started) < self._count and not self._stopping.is_set():
                started.append(await self._start(len(started)))
        except OSError as exc:
            logger.error(
                "No worker can be started: %s",
                exc,
                extra={"event": "worker_not_started"},
            )
            return False
        waiting = [one.wait_ready(self.ready_seconds) for one in started]
        have_started = all(await asyncio.gather(*waiting))
        if self._stopping.is_set():
            return not any(one.has_failed for one in started)
        if have_started:
            self._current = list(started)
            for worker in started:
                if worker.ended.done():
                    self._on_end(worker)
        return have_started

    async def _start(self, slot: int) -> Worker:
        taken = {one.cell for one in self._workers}
        cell = next(one for one in self._cells if one not in taken)
        worker = await start_worker(
            self._argv,
            folder=self._folder,
            slot=slot,
            cell=cell,
            pool=self._pool_name,
            board=self._board,
            listening=self._listening,
            drain_seconds=self._drain_seconds,
            on_question=self._answer,
        )
        self._workers.add(worker)
        worker.ended.add_done_callback(lambda _: self._on_end(worker))
        if self._stopping.is_set():
            worker.stop()
        return worker

    # The end of a worker

    def _on_end(self, worker: Worker) -> None:
        """Forget a worker that has ended; restart it unless its end was asked for."""
        self._workers.discard(worker)
        self._board.leave(worker.cell)
        self._metrics.keep(worker.families)
        self._pool.forget(worker)
        if (
            self._stopping.is_set()
            or worker.is_retiring
            or self._current[worker.slot] is not worker
        ):
            return
        self._tasks.start(self._restart(worker), "The restart of a worker")

    async def _restart(self, ended: Worker) -> None:
        has_lived = ended.lived_seconds >= _STABLE_SECONDS
        failures = 0 if has_lived else ended.failures
        pause_seconds = min(2**failures - 1, _MAX_PAUSE_SECONDS)
        logger.error(
            "Worker %s, process %s, ended %s; another one starts in %s s",
            ended.slot,
            ended.pid,
            ended.describe_exit(),
            pause_seconds,
            extra={"event": "worker_ended", "pid": ended.pid},
        )
        while True:
            await asyncio.sleep(pause_seconds)
            if self._current[ended.slot] is not ended:
                return
            failures += 1
            try:
                worker = await self._start(ended.slot)
            except OSError as exc:
                pause_seconds = min(2**failures - 1, _MAX_PAUSE_SECONDS)
                logger.error(
                    "Worker %s cannot be started and is tried again in %s s: %s",
                    ended.slot,
                    pause_seconds,
                    exc,
                    extra={"event": "worker_not_started"},
                )
            else:
                break
        if self._current[ended.slot] is not ended:
            worker.stop()  # A reload was faster.
            return
        self._current[ended.slot] = worker
        worker.failures = failures
        await worker.wait_ready(self.ready_seconds)

    # Signals

    def _stop(self, number: int) -> None:
        """Pass a signal on: the second skips the grace, the third ends at once."""
        self._signals += 1
        if self._signals == 1:
            name = signal.Signals(number).name
            logger.info("%s: stopping", name, extra={"event": "workers_stop"})
            self._stopping.set()
        for worker in self._workers:
            if self._signals == 1:
                worker.stop()
            else:
                worker.send_signal(
                    signal.SIGTERM if self._signals == 2 else signal.SIGKILL
                )

    async def _reload_when_wanted(self) -> None:
        await self._reload_wanted.wait()
        self._reload_wanted.clear()
        try:
            await self._reload()
        except OSError as exc:
            logger.error(
                "No new worker can be started; the others go on with the old code: %s",
                exc,
                extra={"event": "workers_reload_failed"},
            )

    async def _reload(self) -> None:
        """Replace the workers one by one; each old one drains beside its successor."""
        logger.info("SIGHUP: replacing all workers", extra={"event": "workers_reload"})
        for slot in range(self._count):
            worker = await self._start(slot)
            if not await worker.wait_ready(self.ready_seconds):
                logger.error(
                    "The new worker ended %s; the others go on with the old code",
                    worker.describe_exit(),
                    extra={"event": "workers_reload_failed"},
                )
                return
            old, self._current[slot] = self._current[slot], worker
            if old is not None and old in self._workers:
                old.retire()
                await old.wait_drained(self.margin_seconds)
        logger.info("All workers are replaced", extra={"event": "workers_reloaded"})

    # Questions of workers

    async def _poll_counters(self) -> None:
        await asyncio.sleep(_POLL_SECONDS)
        await self._collect("metrics")

    async def _collect(self, subject: str) -> list[Any]:
        """Return the answers of all ready workers that answer in time."""
        workers = [one for one in self._workers if one.was_ready]
        asked = [one.ask(subject, _COLLECT_SECONDS) for one in workers]
        found = await asyncio.gather(*asked)
        return [answer for answer in found if answer is not None]

    async def _answer(self, worker: Worker, subject: str, content: Any) -> Any:
        """Return the answer of the pool, or of all workers, to a question of one."""
        if subject == "pool":
            return await self._pool.run(worker, content)
        found = await self._collect(subject)
        if subject == "metrics":
            return self._metrics.merge([one.families for one in self._workers])
        return {"count": self._count, "reports": found}
