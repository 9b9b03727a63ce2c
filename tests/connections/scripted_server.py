"""A server on a real socket that follows the script of a test."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from connections.testing.waiting import scale

HELLO = {
    "type": "hello",
    "connection": "c1",
    "session": "s1",
    "epoch": "e1",
    "offset": 0,
    "outcome": "new",
    "gap": None,
    "heartbeat_seconds": 3600,
}


class Scripted:
    """A server whose connections a test takes one after the other."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Conversation] = asyncio.Queue()
        self.url = ""

    async def serve_one(self, socket: ServerConnection) -> None:
        conversation = Conversation(socket)
        await self.waiting.put(conversation)
        await socket.wait_closed()

    async def next(self, hello: dict[str, Any] | None = None) -> "Conversation":
        """Return the next connection, greeted."""
        async with asyncio.timeout(scale(10)):
            conversation = await self.waiting.get()
        with contextlib.suppress(ConnectionClosed):
            await conversation.send(HELLO | (hello or {}))
        return conversation


@contextlib.asynccontextmanager
async def serve_script(subprotocol: str) -> AsyncIterator[Scripted]:
    """Serve a scripted server that selects a subprotocol, on a free port."""
    scripted = Scripted()
    async with serve(
        scripted.serve_one,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(subprotocol)],
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        scripted.url = f"ws://127.0.0.1:{port}/ws/sessions/"
        yield scripted


class Conversation:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        request = socket.request
        assert request is not None
        self.path = urlsplit(request.path).path
        query = parse_qs(urlsplit(request.path).query)
        self.query = {name: values[0] for name, values in query.items()}
        self.authorization = request.headers.get("Authorization")

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(scale(10)):
            received: dict[str, Any] = json.loads(await self.socket.recv())
            return received

    async def acknowledge(self, offset: int) -> dict[str, Any]:
        received = await self.receive()
        await self.send({"type": "ack", "id": received["id"], "offset": offset})
        return received

    async def end(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def cut(self) -> None:
        self.socket.transport.abort()


def entry(offset: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "entry",
        "offset": offset,
        "kind": "message",
        "from": "client",
        "at": "2026-01-01T00:00:00Z",
        "data": {"text": f"text {offset}"},
        "state": "done",
        **changes,
    }
