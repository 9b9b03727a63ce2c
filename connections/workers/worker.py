"""One worker, as its parent sees it: a process and the channel to it."""

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from connections.background import BackgroundTasks
from connections.metrics.merging import Families, overlay
from connections.workers.assignment import Assignment
from connections.workers.board import Board
from connections.workers.channel import Channel

logger = logging.getLogger(__name__)

OnQuestion = Callable[["Worker", str, Any], Awaitable[Any]]
"""Answers a question of a worker: its subject and its content."""

_LAST_SECONDS = 1
"""How long the last messages of an ended process may take."""


class Worker:
    """A process that serves on the socket of its parent."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel,
        *,
        slot: int,
        cell: int,
        drain_seconds: float,
        on_question: OnQuestion,
    ) -> None:
        self.slot = slot
        """The place among the workers, which a successor takes."""
        self.cell = cell
        """The cell of the board, which no two running workers share."""
        self.pid = process.pid
        self.is_retiring = False
        """True once the parent has asked it to drain for a successor."""
        self.failures = 0
        """How many workers of this slot ended soon before this one."""
        self.families: Families = []
        """The metrics that it reported last."""
        self.lived_seconds = 0.0
        self.drain_seconds = drain_seconds
        """
        How long its handshakes and its drain may take, as it says.

        One of a release before 0.2 says nothing: the parent's own time holds then.
        """
        self._process = process
        self._channel = channel
        self._on_question = on_question
        self._started_at = time.monotonic()
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self._questions = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks = BackgroundTasks()
        self.ended = asyncio.ensure_future(self._follow())
        """Done when the process has ended, with its exit code."""

    @property
    def was_ready(self) -> bool:
        """True once it accepts connections."""
        return self._ready.is_set()

    @property
    def has_failed(self) -> bool:
        """True if the process has ended otherwise than after a signal to stop."""
        # One that still started had no handler for the signal yet.
        return self._process.returncode not in (None, 0, -signal.SIGTERM)

    async def wait_ready(self, timeout_seconds: float) -> bool:
        """
        Wait until it accepts connections; return False if it ends or stops before.

        One that takes too long is killed: else nobody would start another one.
        """
        ready = asyncio.ensure_future(self._ready.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        done, _ = await asyncio.wait(
            {ready, stopping, self.ended},
            timeout=timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
        stopping.cancel()
        if done:
            return self.was_ready
        logger.error(
            "Worker %s, process %s, is not ready after %g s and is killed",
            self.slot,
            self.pid,
            timeout_seconds,
            extra={"event": "worker_not_ready", "pid": self.pid},
        )
        self.send_signal(signal.SIGKILL)
        await asyncio.wait({self.ended})
        return False

    async def wait_drained(self, margin_seconds: float) -> None:
        """
        Wait until it has ended, after retire() or stop().

        One that takes too long is killed: its event loop may be blocked for ever.
        """
        timeout_seconds = self.drain_seconds + margin_seconds
        # No plain `await`, whose cancellation would cancel what follows the process.
        done, _ = await asyncio.wait({self.ended}, timeout=timeout_seconds)
        if done:
            return
        logger.warning(
            "Worker %s, process %s, has not drained after %g s and is killed",
            self.slot,
            self.pid,
            timeout_seconds,
            extra={"event": "worker_not_drained", "pid": self.pid},
        )
        self.send_signal(signal.SIGKILL)
        await asyncio.wait({self.ended})

    def stop(self) -> None:
        """Let it drain, unless it does already."""
        if not self._stopping.is_set() and not self.is_retiring:
            self._stopping.set()
            self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    def retire(self) -> None:
        """Let it finish its handshakes and drain."""
        self.is_retiring = True
        self._channel.send({"type": "retire"})

    def tell(self, subject: str, content: dict[str, Any]) -> None:
        """Send it a message that has no answer."""
        self._channel.send({"type": "tell", "subject": subject, "content": content})

    def describe_exit(self) -> str:
        """Return how the process ended, as the end of a sentence."""
        code = self._process.returncode or 0
        if code < 0:
            return f"by {signal.Signals(-code).name}"
        return f"with exit code {code}"

    async def ask(self, subject: str, timeout_seconds: float) -> Any:
        """Return its answer to a question; None if it gives none in time."""
        number = next(self._questions)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"type": "ask", "id": number, "subject": subject})
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    async def _follow(self) -> int:
        """Take its messages until the process ends; return the exit code."""
        reading = self._tasks.start(self._read(), "The line to a worker")
        code = await self._process.wait()
        self.lived_seconds = time.monotonic() - self._started_at
        # No longer: a child that it forked may hold its end of the channel open.
        await asyncio.wait({reading}, timeout=_LAST_SECONDS)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)
        await self._tasks.stop()
        self._channel.close()
        return code

    async def _read(self) -> None:
        async for message in self._channel:
            kind = message["type"]
            if kind == "hello":
                self.drain_seconds = message["drain_seconds"]
            elif kind == "ready":
                self._ready.set()
            elif kind == "final":
                # A node's own: its process told the others when it was last asked.
                self.families = overlay(self.families, message["families"])
            elif kind == "answer":
                self._take_answer(message)
            elif kind == "ask":
                self._tasks.start(self._reply(message), "The answer to a worker")

    def _take_answer(self, message: dict[str, Any]) -> None:
        if message["subject"] == "metrics":
            self.families = message["content"]
        answer = self._waiting.get(message["id"])
        if answer is not None and not answer.done():
            answer.set_result(message["content"])

    async def _reply(self, message: dict[str, Any]) -> None:
        content = await self._on_question(self, message["subject"], message["content"])
        if message["id"] is not None:
            reply = {"type": "answer", "id": message["id"], "content": content}
            self._channel.send(reply)


async def start_worker(
    command: Sequence[str],
    *,
    folder: str,
    slot: int,
    cell: int,
    pool: str,
    board: Board,
    listening: socket.socket,
    drain_seconds: float,
    on_question: OnQuestion,
) -> Worker:
    """
    Start a worker by exec, in a process group of its own.

    Ctrl-C in a terminal thus reaches the parent alone, which passes it on.

    Raises:
        OSError: there is no process or no descriptor left.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        assignment = Assignment(
            listening_fd=listening.fileno(),
            channel_fd=theirs.fileno(),
            board_fd=board.fd,
            cell=cell,
            pool=pool,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=assignment.make_environment(),
                pass_fds=(listening.fileno(), theirs.fileno(), board.fd),
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    channel = await Channel.open(ours)
    return Worker(
        process,
        channel,
        slot=slot,
        cell=cell,
        drain_seconds=drain_seconds,
        on_question=on_question,
    )
