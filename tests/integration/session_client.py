"""A client of the session protocol that resumes and records what it received."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from connections.testing import LiveServer
from connections.testing.waiting import scale

SESSION_CONFIG: dict[str, object] = {
    "node__beat_seconds": 0.2,
    # A node that stands still for so long on a slow machine would lose its clients.
    "node__lease_seconds": scale(1.5),
    "node__node_timeout_seconds": scale(1),
    "sessions__position_seconds": 0.5,
    "drain__grace_seconds": 4,
}
"""Short periods, for a test to wait for."""

COUNT = {"text": "count", "count": 30, "pause_seconds": 0.05}
COUNTED = "".join(f"{number} 👩‍👩‍👧 e\u0301 " for number in range(30))


class SessionClient:
    """
    One client of a session.

    It keeps received entries, resends messages that were not acked, checks the order
    of entries, and never reconnects by itself.
    """

    def __init__(self, token: str, session_id: str = "new") -> None:
        self.token = token
        self.session_id = session_id
        self.epoch: str | None = None
        self.last_offset = 0
        self.entries: dict[int, dict[str, Any]] = {}
        self.hellos: list[dict[str, Any]] = []
        self.acked: dict[str, int] = {}
        self.errors: list[dict[str, Any]] = []
        self.waiting: dict[str, Any] = {}
        self.close_code: int | None = None
        self._page = secrets.token_hex(8)
        self._sent = 0
        self._may_skip_to = 0
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def outcome(self) -> str:
        outcome: str = self.hellos[-1]["outcome"]
        return outcome

    @property
    def is_connected(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def connect(self, server: LiveServer) -> "SessionClient":
        """Attach with the held position, and resend messages that were not acked."""
        await self.cut()
        query: dict[str, Any] = {}
        if self.epoch is not None:
            query = {"epoch": self.epoch, "offset": self.last_offset}
            streaming = [
                str(offset)
                for offset, entry in self.entries.items()
                if entry["state"] == "streaming"
            ]
            if streaming:
                query["open"] = ",".join(streaming)
        url = f"{server.ws_url}/ws/sessions/{self.session_id}/?{urlencode(query)}"
        self._socket = await connect(
            url,
            subprotocols=[
                Subprotocol("orchestra.v1"),
                Subprotocol(f"bearer.{self.token}"),
            ],
            max_size=None,
            open_timeout=scale(20),
        )
        seen = len(self.hellos)
        self.close_code = None
        self._reading = asyncio.create_task(self._read(self._socket))
        await self.wait(lambda: len(self.hellos) > seen or not self.is_connected)
        if len(self.hellos) == seen:
            raise ConnectionRefusedError(self.close_code)
        for message_id, payload in list(self.waiting.items()):
            await self._send(message_id, payload)
        return self

    async def return_to(self, server: LiveServer, seconds: float = 30) -> None:
        """Retry connect() until it succeeds."""
        async with asyncio.timeout(scale(seconds)):
            while True:
                try:
                    await self.connect(server)
                    return
                except (OSError, InvalidHandshake, ConnectionClosed):
                    await asyncio.sleep(0.1)

    async def cut(self) -> None:
        """Abort the connection without a close frame, as a lost network does."""
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def say(self, payload: Any, message_id: str | None = None) -> str:
        """Send a message; it is resent on reconnects until it is acked."""
        self._sent += 1
        message_id = message_id or f"{self._page}-{self._sent}"
        self.waiting[message_id] = payload
        await self._send(message_id, payload)
        return message_id

    async def send(self, text: str) -> None:
        """Send raw text."""
        if self._socket is not None:
            await self._socket.send(text)

    async def wait(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Wait until a condition on the received messages holds."""
        async with asyncio.timeout(scale(seconds)):
            while not condition():
                self._raise_fault()
                self._changed.clear()
                await self._changed.wait()

    async def wait_disconnected(self) -> None:
        """Wait until the server or the network has ended the connection."""
        await self.wait(lambda: not self.is_connected)

    async def wait_offset(self, offset: int) -> None:
        """Wait until this entry is the last one received."""
        await self.wait(lambda: self.last_offset == offset)

    def is_done_at(self, offset: int) -> bool:
        """Return True if this entry is the last one and every entry is done."""
        return self.last_offset == offset and all(
            entry["state"] == "done" for entry in self.entries.values()
        )

    async def wait_acked(self, seconds: float = 30) -> None:
        """Wait until every message is acked."""
        await self.wait(lambda: not self.waiting, seconds)

    def texts(self) -> dict[int, str]:
        """Return the texts of the entries by offset."""
        return {
            offset: entry["data"]["text"]
            for offset, entry in sorted(self.entries.items())
        }

    def _raise_fault(self) -> None:
        """Raise what ended the reading, if a message broke the protocol."""
        reading = self._reading
        if reading is not None and reading.done() and not reading.cancelled():
            reading.result()

    async def _send(self, message_id: str, payload: Any) -> None:
        text = json.dumps({"type": "message", "id": message_id, "data": payload})
        with contextlib.suppress(ConnectionClosed):
            await self.send(text)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                self._take(json.loads(text))
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            self.close_code = socket.close_code
            self._changed.set()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "hello":
            self._greet(message)
        elif kind == "entry":
            self._show(message)
        elif kind == "delta":
            shown = self.entries[message["offset"]]["data"]
            assert message["at_char"] == len(shown["text"]), message
            shown["text"] += message["text"]
        elif kind == "state":
            self.entries[message["offset"]]["state"] = message["state"]
        elif kind == "ack":
            self.acked[message["id"]] = message["offset"]
            self.waiting.pop(message["id"], None)
        elif kind == "error":
            self.errors.append(message)
            if message["code"] not in ("rate_limited", "unavailable"):
                self.waiting.pop(message["id"], None)

    def _greet(self, hello: dict[str, Any]) -> None:
        self.hellos.append(hello)
        self.session_id = hello["session"]
        if hello["outcome"] == "reset":
            self.entries.clear()
            self.last_offset = 0
        self.epoch = hello["epoch"]
        self._may_skip_to = hello["offset"]

    def _show(self, entry: dict[str, Any]) -> None:
        offset = entry["offset"]
        if offset > self.last_offset:
            is_next = offset == self.last_offset + 1
            assert is_next or offset <= self._may_skip_to, (offset, self.last_offset)
            self.last_offset = offset
        else:
            known = self.entries.get(offset)
            # A producer may go on with an entry that was interrupted.
            is_final = known is not None and known["state"] in ("done", "cancelled")
            assert not is_final, (known, entry)
        self.entries[offset] = entry
