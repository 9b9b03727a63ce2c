"""A TCP proxy that disturbs connections on purpose."""

import asyncio
import contextlib
from collections.abc import Callable

_SUBSCRIBE = b"SUBSCRIBE"


class Proxy:
    """
    Carries bytes between clients and one server, and disturbs them on demand.

    `loses_replies` drops the server's bytes, so that a command takes effect and
    its caller never learns; `loses_requests` drops the clients' bytes;
    `loses_messages` drops messages that Redis pushes to subscribers.
    `delay_seconds` delays the server's bytes. cut() holds all bytes back in both
    directions, like a partition: no reset, no end. New connections go to
    `target_port`, which may change.
    """

    def __init__(self, target_port: int) -> None:
        self.loses_replies = False
        self.loses_requests = False
        self.loses_messages = False
        self.delay_seconds = 0.0
        self._silences = 0
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.port = 0
        self.target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The URL of Redis through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
        # asyncio logs a cancelled handler as an error, so the task ends by itself.
        self.mend()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Hold all bytes back, in both directions, until mend()."""
        self._is_open.clear()

    def mend(self) -> None:
        """Carry again, starting with the bytes held back."""
        self._is_open.set()

    def silence(self) -> None:
        """Drop all bytes of the connections that are open now, for ever."""
        self._silences += 1

    def reset(self) -> None:
        """Drop every connection at once, with a RST."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        server_writer = None
        carriers: list[asyncio.Task[None]] = []
        try:
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
            self._writers.add(server_writer)
            subscribed: set[bytes] = set()
            silences = self._silences
            there = self._carry(
                reader,
                server_writer,
                lambda: self.loses_requests or silences != self._silences,
                subscribed,
            )
            back = self._carry(
                server_reader,
                writer,
                lambda: (
                    self.loses_replies
                    or silences != self._silences
                    or (self.loses_messages and bool(subscribed))
                ),
                is_answer=True,
            )
            carriers = [asyncio.create_task(one) for one in (there, back)]
            await asyncio.wait(carriers, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for carrier in carriers:
                carrier.cancel()
            for one in (writer, server_writer):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_lost: Callable[[], bool],
        subscribed: set[bytes] | None = None,
        *,
        is_answer: bool = False,
    ) -> None:
        """Carry bytes, and remember the channels that they subscribe to."""
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if is_answer and self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._is_open.wait()
                if subscribed is not None and _SUBSCRIBE in chunk:
                    subscribed.add(_SUBSCRIBE)
                if not is_lost():
                    writer.write(chunk)
                    await writer.drain()
