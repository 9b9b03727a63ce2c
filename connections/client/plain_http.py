"""Follow a session over plain HTTP, with what a client uses of a WebSocket."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Response

from connections import close_codes
from connections.client.connect import BUSY, Transport
from connections.client.http_sessions import HttpSessions
from connections.client.outbox import RequestFailed

_SILENT_SECONDS = 75.0
"""Without a line for so long the response counts as dead; comments come each 30 s."""
_MOST_BYTES = 16 * 2**20
_LOST = close_codes.NETWORK.code
_POSTED = ("message", "cancel", "regenerate", "approve", "deny", "typing")
"""The types of messages that need no socket."""
_TEMPORARY = ("network", "rate_limited", "unavailable", "unauthenticated")
"""Codes of requests to send again; the response ends if its token has expired."""

_FOREIGN = (ValueError, LookupError, TypeError, AttributeError)
"""What reading raises where the text is no JSON of ours."""

Answer = tuple[Response, AsyncIterator[str], asyncio.StreamWriter]
"""The head, the lines of the body, and the connection, open while it is held."""


async def get(url: str, token: str | None, context: ssl.SSLContext | None) -> Answer:
    """
    Send a GET on a connection of its own, and read the head of the answer.

    Raises:
        OSError: there is no answer.
    """
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname,
        parts.port or (443 if is_secure else 80),
        ssl=(context or True) if is_secure else None,
    )
    host = parts.netloc.rpartition("@")[2]
    head = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {host}"]
    head += [f"Authorization: Bearer {token}"] if token else []
    head += ["Accept: */*", "Connection: close", "", ""]
    try:
        writer.write("\r\n".join(head).encode())
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.rstrip().split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = Headers([(name, value.strip()) for name, _, value in pairs])
        response = Response(int(first.split()[1]), "", headers)
    except (ValueError, LookupError, EOFError, asyncio.LimitOverrunError) as exc:
        writer.transport.abort()
        raise ConnectionError("no answer of HTTP") from exc
    except BaseException:
        writer.transport.abort()
        raise
    return response, _read_lines(reader, headers), writer


class PlainConnection:
    """Receives what a socket would, by server-sent events, and posts what is sent."""

    def __init__(
        self,
        lines: AsyncIterator[str],
        writer: asyncio.StreamWriter,
        sessions: HttpSessions,
        session: str,
    ) -> None:
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.transport: Transport = writer.transport
        # A writer that nobody holds closes its connection.
        self._writer = writer
        self._sessions = sessions
        self._session = session
        self._connection = ""
        self._messages: asyncio.Queue[str | None] = asyncio.Queue()
        self._return: asyncio.TimerHandle | None = None
        self._reading = asyncio.create_task(self._read(lines))

    async def recv(self) -> str:
        """
        Return the next message.

        Raises:
            ConnectionClosedError: there is none any more.
        """
        text = await self._messages.get()
        if text is None:
            self._messages.put_nowait(None)
            raise ConnectionClosedError(None, None)
        return text

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            yield await self.recv()

    async def send(self, text: str) -> None:
        """Post a message, whose answer is received as on a socket."""
        if self.close_code is not None:
            raise ConnectionClosedError(None, None)
        message = json.loads(text)
        kind = message["type"]
        if kind == "ping":
            # The comments of the response show that the server is there.
            self._answer({"type": "pong", "t": message.get("t"), "offset": 0})
            return
        try:
            if kind == "delete":
                await self._sessions.delete(self._session)
            elif kind in _POSTED:
                posted = {**message, "connection": self._connection}
                ack = await self._sessions.post(self._session, posted)
                if ack is not None:
                    self._answer(ack)
        except RequestFailed as exc:
            # Lost typing is of no account, and servers of older releases take none.
            if kind != "typing":
                self._answer(_make_error(message, exc))

    async def close(self) -> None:
        """End the response."""
        self.end(close_codes.CLOSED.code)
        await asyncio.wait({self._reading})

    def end(self, code: int) -> None:
        """End the response with a close code, unless it has ended."""
        if self._return is not None:
            self._return.cancel()
        if self.close_code is None:
            self.close_code = code
        self.transport.abort()
        self._reading.cancel()
        self._messages.put_nowait(None)

    def return_after(self, seconds: float) -> None:
        """End the response after a time, to try a socket."""
        loop = asyncio.get_running_loop()
        code = close_codes.ASKED_TO_RECONNECT.code
        self._return = loop.call_later(max(0.0, seconds), self.end, code)

    def _answer(self, message: dict[str, Any]) -> None:
        self._messages.put_nowait(json.dumps(message))

    async def _read(self, lines: AsyncIterator[str]) -> None:
        """Read events until the response ends, or is silent for too long."""
        event, code = "", _LOST
        try:
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    name, _, value = (await anext(lines)).partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    message = json.loads(value)
                    if event == "bye":
                        code = message["code"]
                    elif message.get("type") == "expiring":
                        continue  # Another token needs another request.
                    elif message.get("type") == "hello":
                        # A new session has its id now, which its messages need.
                        self._session = message["session"]
                        self._connection = message["connection"]
                    self._messages.put_nowait(value)
                elif not name:
                    event = ""
        except (OSError, EOFError, StopAsyncIteration, *_FOREIGN):
            pass
        finally:
            self.end(code)


def _make_error(message: dict[str, Any], failed: RequestFailed) -> dict[str, Any]:
    """Return the error that a socket would send; what is temporary is sent again."""
    is_temporary = failed.code in _TEMPORARY or failed.code.startswith("http_5")
    error = {
        "type": "error",
        "code": "unavailable" if is_temporary else failed.code,
        "message": failed.message,
        "id": message.get("id"),
        "ref": None,
        "retry_after_seconds": failed.retry_after_seconds,
    }
    if message["type"] == "cancel":
        error["offset"] = message["offset"]
    return error


async def _read_lines(
    reader: asyncio.StreamReader, headers: Headers
) -> AsyncIterator[str]:
    """
    Yield the lines of a body, which may come in chunks (RFC 9112, section 7.1).

    Raises:
        OSError, EOFError, ValueError: the body broke off, or is none.
    """
    is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    rest = b""
    while True:
        if is_chunked:
            try:
                head = await reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as exc:
                raise ValueError("a chunk has no size") from exc
            size = int(head.split(b";")[0], 16)
            if size > _MOST_BYTES:
                raise ValueError("a chunk is too big")
            piece = (await reader.readexactly(size + 2))[:-2]
        else:
            piece = await reader.read(_MOST_BYTES)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode().rstrip("\r")
        if not piece or len(rest) > _MOST_BYTES:
            yield rest.decode()
            return


async def read_error(lines: AsyncIterator[str]) -> dict[str, Any]:
    """
    Return the error in the body of an answer; empty if the answer is not ours.

    Raises:
        OSError: the network failed.
    """
    try:
        error = json.loads("\n".join([line async for line in lines]))["error"]
    except (EOFError, *_FOREIGN):
        return {}
    return error if isinstance(error, dict) else {}


async def read_close_code(response: Response, lines: AsyncIterator[str]) -> int:
    """
    Return the close code of a refusal.

    Raises:
        InvalidStatus: it names none, or Retry-After counts.
    """
    if response.status_code not in BUSY:
        error = await read_error(lines)
        if isinstance(code := error.get("close_code"), int):
            return code
    raise InvalidStatus(response)
