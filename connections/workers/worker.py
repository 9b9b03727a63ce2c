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
from connections.metrics.merging import Families
from connections.workers.assignment import Assignment
from connections.workers.board import Board
from connections.workers.channel import Channel

logger = logging.getLogger(__name__)

OnQuestion = Callable[["Worker", str, Any], Awaitable[Any]]
"""Answers a question of a worker: its subject and its content."""


class Worker:
    """A process that serves on the socket of its parent."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel,
        *,
        slot: int,
        cell: int,
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
        self._process = process
        self._channel = channel
        self._on_question = on_question
        self._started_at = time.monotonic()
        self._is_stopping = False
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

    async def wait_ready(self, timeout_seconds: float) -> bool:
        """
        Wait until it accepts connections; return False if it ends before.

        One that takes too long is killed: else nobody would start another one.
        """
        ready = asyncio.ensure_future(self._ready.wait())
        done, _ = await asyncio.wait(
            {ready, self.ended},
            timeout=timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
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
        await self.ended
        return False

    def stop(self) -> None:
        """Let it drain, unless it does already."""
        if not self._is_stopping and not self.is_retiring:
            self._is_stopping = True
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
        """Read its messages until the process ends; return the exit code."""
        async for message in self._channel:
            kind = message["type"]
            if kind == "ready":
                self._ready.set()
            elif kind == "final":
                self.families = message["families"]
            elif kind == "answer":
                self._take_answer(message)
            elif kind == "ask":
                self._tasks.start(self._reply(message), "The answer to a worker")
        code = await self._process.wait()
        self.lived_seconds = time.monotonic() - self._started_at
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)
        await self._tasks.stop()
        self._channel.close()
        return code

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
    slot: int,
    cell: int,
    board: Board,
    listening: socket.socket,
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
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=assignment.make_environment(),
                pass_fds=(listening.fileno(), theirs.fileno(), board.fd),
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    channel = await Channel.open(ours)
    return Worker(process, channel, slot=slot, cell=cell, on_question=on_question)
