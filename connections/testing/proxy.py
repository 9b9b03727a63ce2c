"""A TCP proxy that spoils connections on purpose."""

import asyncio
import contextlib
from collections.abc import Callable

_SUBSCRIBE = b"SUBSCRIBE"


class Proxy:
    """
    Carries bytes between clients and one server, until told otherwise.

    `loses_replies` drops what the server says, so that a command happens and
    its caller never learns; `loses_requests` what the clients say;
    `loses_messages` what Redis tells its subscribers unasked. `delay_seconds` is
    how late comes each thing that the server says. cut() holds
    everything back both ways, as a partition does: no reset, no end.
    """

    def __init__(self, target_port: int) -> None:
        self.loses_replies = False
        self.loses_requests = False
        self.loses_messages = False
        self.delay_seconds = 0.0
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where Redis is, through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
        # A cancelled one would be logged by asyncio as an error: it ends by itself.
        self.mend()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Hold back all that is said, both ways, until mend()."""
        self._is_open.clear()

    def mend(self) -> None:
        """Carry again, beginning with what was held back."""
        self._is_open.set()

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
        try:
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
            self._writers.add(server_writer)
            said: set[bytes] = set()
            there = self._carry(
                reader, server_writer, lambda: self.loses_requests, said
            )
            back = self._carry(
                server_reader,
                writer,
                lambda: self.loses_replies or (self.loses_messages and bool(said)),
                is_answer=True,
            )
            await asyncio.wait(
                (asyncio.create_task(there), asyncio.create_task(back)),
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            pass
        finally:
            for one in (writer, server_writer):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_lost: Callable[[], bool],
        said: set[bytes] | None = None,
        *,
        is_answer: bool = False,
    ) -> None:
        """Carry bytes; what of _SUBSCRIBE they hold is added to what was said."""
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if is_answer and self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._is_open.wait()
                if said is not None and _SUBSCRIBE in chunk:
                    said.add(_SUBSCRIBE)
                if not is_lost():
                    writer.write(chunk)
                    await writer.drain()
