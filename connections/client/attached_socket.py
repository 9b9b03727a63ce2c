"""Give one session of a shared connection what looks like a socket of its own."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from websockets.exceptions import ConnectionClosedError

from connections import close_codes

_PING = '{"type": "ping"'
_MESSAGE_ID = re.compile(r'\{"type": "\w+", "id": "([\w-]+)"')
_ENDS = {
    "not_found": close_codes.NOT_FOUND,
    "forbidden": close_codes.FORBIDDEN,
    "unavailable": close_codes.UNAVAILABLE,
}
"""The end that stands for an attach refused with a code; POLICY for any other."""


class AttachedSocket:
    """
    The frames of one session, without its name, until it is detached.

    A SessionClient uses it like a ClientConnection of websockets. The URL that the
    client would open says what to attach to, and from where.
    """

    def __init__(
        self,
        url: str,
        *,
        request_id: str,
        send: Callable[[str], Awaitable[None]],
        on_close: Callable[["AttachedSocket"], None],
    ) -> None:
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.session = ""
        """The session's id; empty before its hello."""
        self.unanswered: dict[str, int] = {}
        """The bytes of each message that was sent and not answered."""
        self.attach = _read_attach(url, request_id)
        """The message that attaches to the session."""
        self._send = send
        self._on_close = on_close
        # Its reader never waits, so it holds no more than one read of the socket.
        self._frames: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_closed = False
        # The last offset that the server has named.
        self._offset = 0
        self._most_bytes = math.inf

    @property
    def biggest(self) -> int:
        """The bytes of the biggest message without an answer."""
        return max(self.unanswered.values(), default=0)

    @property
    def transport(self) -> "AttachedSocket":
        """The socket itself, which can be aborted."""
        return self

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            try:
                yield await self.recv()
            except ConnectionClosedError:
                return

    async def recv(self) -> str:
        """Return the next frame of the session."""
        text = await self._frames.get()
        if text is None:
            self._frames.put_nowait(None)
            raise ConnectionClosedError(None, None)
        return text

    async def send(self, message: str) -> None:
        """Send a message for the session; a ping is answered here."""
        if self._is_closed:
            raise ConnectionClosedError(None, None)
        if message.startswith(_PING):
            # The shared connection has a heartbeat of its own.
            self.feed({"type": "pong", "offset": self._offset})
            return
        text = f'{{"session": "{self.session}", {message[1:]}'
        if found := _MESSAGE_ID.match(message):
            size = len(text.encode())
            if size > self._most_bytes:
                # The name of the session makes it so: it would end all sessions.
                self._refuse_message(found[1], size)
                return
            self.unanswered[found[1]] = size
        await self._send(text)

    def _refuse_message(self, message_id: str, size: int) -> None:
        """Answer a message that is too big as the server would one that it refuses."""
        text = f"{size} bytes with the session; {self._most_bytes} are allowed"
        error = {"type": "error", "code": "message_too_big", "message": text}
        self.feed({**error, "id": message_id})

    async def close(self) -> None:
        """Detach from the session."""
        self.abort()

    def abort(self) -> None:
        """Detach from the session, without waiting."""
        self.end(close_codes.LOST.code)
        self._on_close(self)

    def feed(self, message: dict[str, Any]) -> None:
        """Hand a message of the server on to the client of the session."""
        self.unanswered.pop(message.get("id", ""), None)
        if message["type"] == "pong":
            self._offset = message["offset"]
        elif message["type"] == "hello":
            limits = message.get("limits", {})
            self._most_bytes = limits.get("max_message_size", math.inf)
        if not self._is_closed:
            self._frames.put_nowait(json.dumps(message))

    def end(self, code: int, reason: str = "") -> None:
        """End the session for its client, as a close frame would."""
        if not self._is_closed:
            self._is_closed = True
            self.close_code, self.close_reason = code, reason
            self._frames.put_nowait(None)

    def refuse(self, error: dict[str, Any]) -> None:
        """End the session that was not attached, as the error advises."""
        if error["code"] == "already_attached":
            self.end(close_codes.LOST.code)
            return
        end = _ENDS.get(error["code"], close_codes.POLICY)
        seconds = error.get("retry_after_seconds")
        bye = {"type": "bye", "code": end.code, "reason": error["code"]}
        if end is close_codes.POLICY:
            bye["reconnect"] = end.reconnect.value
        self.feed({**bye, "after_ms": seconds and seconds * 1000})
        self.end(end.code, error["code"])


def _read_attach(url: str, request_id: str) -> dict[str, Any]:
    """Return the message that attaches as the handshake of a URL would."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    message: dict[str, Any] = {
        "type": "attach",
        "id": request_id,
        "session": unquote(parts.path.rstrip("/").rpartition("/")[2]),
    }
    if "epoch" in query:
        message["epoch"] = query["epoch"]
        message["offset"] = int(query["offset"])
        message["chain"] = query.get("chain")
        if "acked" in query:
            message["acked"] = query["acked"].split(",")
        message["open"] = [int(one) for one in query.get("open", "").split(",") if one]
    if query.get("presence") == "1":
        message["presence"] = True
    return message
