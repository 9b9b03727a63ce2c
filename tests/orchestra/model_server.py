"""A local HTTP server that speaks chat completions, or what a test has it say."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

EVENTS = "text/event-stream"


class Pause(float):
    """Seconds that pass before the next chunk."""


class Model:
    """Answers what a test has prepared, and notes what it was asked."""

    def __init__(self) -> None:
        self.base_url = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.asked: dict[str, Any] = {}
        self.all_asked: list[dict[str, Any]] = []
        self.status = "200 OK"
        self.content_type = EVENTS
        self.chunks: list[bytes | float] = []
        """What is sent, and the seconds that pass in between."""
        self.turns: list[list[bytes | float]] = []
        """What is sent instead, to one request after the other."""
        self.head_pause = 0.0
        """The seconds before the head, in which the caller is expected to go."""
        self.is_whole = True
        self.has_hung_up = asyncio.Event()

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._read(reader)
            if self.turns:
                self.chunks = self.turns.pop(0)
            if self.head_pause:
                await asyncio.wait_for(reader.read(1), self.head_pause)
            head = f"HTTP/1.1 {self.status}\r\nContent-Type: {self.content_type}\r\n"
            writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for chunk in self.chunks:
                if isinstance(chunk, Pause):
                    await asyncio.sleep(chunk)
                    continue
                if isinstance(chunk, float):
                    await asyncio.wait_for(reader.read(1), chunk)
                    self.has_hung_up.set()
                    return
                writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await writer.drain()
            if self.is_whole:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (TimeoutError, ConnectionError):
            self.has_hung_up.set()
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.path = head[0].split()[1]
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        self.headers = {name.lower(): value for name, value in pairs}
        length = int(self.headers["content-length"])
        self.asked = json.loads(await reader.readexactly(length))
        self.all_asked.append(self.asked)


def event(text: str = "", **choice: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def call(*calls: tuple[str, str, str], text: str = "") -> list[bytes | float]:
    """Return a response that asks for tools: their ids, names and arguments."""
    asked = [
        {"index": index, "id": call_id, "function": {"name": name, "arguments": given}}
        for index, (call_id, name, given) in enumerate(calls)
    ]
    chunk = {"choices": [{"index": 0, "delta": {"content": text, "tool_calls": asked}}]}
    first = f"data: {json.dumps(chunk)}\n\n".encode()
    return [first, event("", finish_reason="tool_calls"), DONE]


@contextlib.asynccontextmanager
async def serve_model() -> AsyncIterator[Model]:
    """Serve a model on a free port of 127.0.0.1."""
    model = Model()
    server = await asyncio.start_server(model.answer, "127.0.0.1", 0)
    model.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield model
    finally:
        server.close()
        await server.wait_closed()
