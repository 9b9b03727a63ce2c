"""A worker's end of the channel to its parent."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from connections.error_log import get_logger
from connections.metrics.merging import Families
from connections.node.current import get_node
from connections.server.drain import DrainedServer, finish_handshakes
from connections.workers.channel import Channel

logger = get_logger(__name__)

_ANSWER_SECONDS = 3

Reports = Mapping[str, Callable[[], Any]]
"""What a worker answers to its parent, by subject."""


class WorkerLink:
    """
    Answers the parent, asks it about all workers, and follows its orders.

    Without a parent no worker is restarted and nobody holds the socket: the worker
    then drains and ends.
    """

    def __init__(self, fd: int, reports: Reports) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._reports = reports
        self._channel: Channel | None = None
        self._opened = asyncio.Event()
        self._listeners: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._questions = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def run(self, server: DrainedServer) -> None:
        """Tell the parent that the server is ready, then follow its messages."""
        channel = self._channel = await Channel.open(self._socket)
        self._opened.set()
        seconds = server.config.drain_seconds
        channel.send({"type": "hello", "drain_seconds": seconds})
        await get_node().start()
        channel.send({"type": "ready"})
        async for message in channel:
            kind = message["type"]
            if kind == "ask":
                self._report(channel, message)
            elif kind == "answer":
                answer = self._waiting.get(message["id"])
                if answer is not None and not answer.done():
                    answer.set_result(message["content"])
            elif kind == "tell" and message["subject"] in self._listeners:
                with _end_alone(message):
                    self._listeners[message["subject"]](message["content"])
            elif kind == "retire":
                server.tasks.start(_retire(server), "The end of a replaced worker")
        channel.close()
        logger.error(
            "The parent of this worker is gone: draining",
            extra={"event": "parent_gone"},
        )
        os.kill(os.getpid(), signal.SIGTERM)

    async def ask(self, subject: str, content: dict[str, Any] | None = None) -> Any:
        """
        Return the answer of the parent.

        Raises:
            TimeoutError: the parent gave none in time.
        """
        number = next(self._questions)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._opened.wait()
                self._send_question(number, subject, content)
                return await answer
        finally:
            del self._waiting[number]

    def tell(self, subject: str, content: dict[str, Any]) -> None:
        """Send a message that has no answer, in order with the questions."""
        self._send_question(None, subject, content)

    def listen(self, subject: str, take: Callable[[dict[str, Any]], None]) -> None:
        """Call a function with each message of the parent on a subject."""
        self._listeners[subject] = take

    def _send_question(
        self, number: int | None, subject: str, content: dict[str, Any] | None
    ) -> None:
        if self._channel is not None:
            question = {"id": number, "subject": subject, "content": content}
            self._channel.send({"type": "ask", **question})

    def finish(self, families: Families) -> None:
        """Send the last counts of this worker, which the parent keeps."""
        if self._channel is not None:
            self._channel.send({"type": "final", "families": families})

    def _report(self, channel: Channel, message: dict[str, Any]) -> None:
        report = self._reports.get(message["subject"])
        if report is None:
            return
        answer = {key: message[key] for key in ("id", "subject")}
        # Without an answer the parent keeps what it was told last.
        with _end_alone(message):
            channel.send({"type": "answer", **answer, "content": report()})


@contextmanager
def _end_alone(message: dict[str, Any]) -> Iterator[None]:
    """Log a failure over one message: without its link the worker would drain."""
    try:
        yield
    except Exception as exc:
        logger.error(
            "A message of the parent on %r failed: %s",
            message["subject"],
            exc,
            exc_info=exc,
            extra={"event": "parent_message_failed"},
        )


async def _retire(server: DrainedServer) -> None:
    await finish_handshakes(server)
    os.kill(os.getpid(), signal.SIGTERM)
