"""Fall back to plain HTTP where a proxy breaks WebSockets."""

import asyncio
import math
import random
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlencode, urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.http11 import Response

from connections.client.connect import BUSY, OpenSocket, Socket, open_connection
from connections.client.http_sessions import HttpSessions
from connections.client.plain_http import (
    Answer,
    PlainConnection,
    get,
    read_close_code,
    read_error,
)
from connections.client.reconnect import Random

_MOST_FAILURES = 2
_RETURN_SECONDS = 300.0
"""The least time until a client tries a socket again, and half of the most."""
_HANDSHAKE_SECONDS = 9.0
"""With the GET before it. The client itself gives an attempt up after ten."""
_ASK_SECONDS = 3.0
_REFUSED = (401, 403, 404)
"""With an error of the server's own: the plain request then gets a close code."""
_MANY = "many"
"""In the place of a session: the connection that many share, which HTTP has not."""


def with_fallback(
    url: str,
    *,
    rng: Random = random.random,
    return_seconds: float = _RETURN_SECONDS,
    ssl_context: ssl.SSLContext | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> OpenSocket:
    """
    Return what opens sockets, or plain HTTP, for the clients of a program.

    `url` is that of all sessions over HTTP (https://host/api/sessions/). It falls back
    once two handshakes in a row have failed, the server answers a GET of the session
    without Retry-After, and one more handshake fails before it answers the next GET:
    then the server is there, and what is between breaks sockets. A socket is tried
    again after `return_seconds`, or up to twice as long.
    The sessions of a SharedConnection fall back one by one, and share a socket again.

    Raises:
        ValueError: the URL is not http://host/path or https://host/path.
    """
    HttpSessions(url)  # Checks the URL.
    return _Fallback(url, rng, return_seconds, ssl_context, clock).open


class _Fallback:
    """Counts the failures of sockets, and opens plain HTTP in their place."""

    def __init__(
        self,
        url: str,
        rng: Random,
        return_seconds: float,
        ssl_context: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._random = rng
        self._return_seconds = return_seconds
        self._ssl_context = ssl_context
        self._clock = clock
        self._failures = 0
        # The failures before the server was found to answer; it has to answer again.
        self._answered_at = math.inf
        self._until = 0.0

    async def open(
        self, url: str, token: str | None, subprotocols: Sequence[str]
    ) -> Socket:
        """
        Open a connection to the session of a WebSocket's URL.

        Raises:
            OSError, WebSocketException: there is none.
        """
        parts = urlsplit(url)
        session = parts.path.rstrip("/").rpartition("/")[2]
        if self._clock() >= self._until:
            deadline = asyncio.get_running_loop().time() + _HANDSHAKE_SECONDS
            if self._failures >= _MOST_FAILURES:
                await self._ask(session, token)
            if self._clock() >= self._until:
                return await self._connect(url, token, subprotocols, deadline)
        if session == _MANY:
            raise InvalidStatus(Response(404, "Not Found", Headers()))
        query = urlencode({"live": "sse", "protocol": subprotocols[0]})
        target = f"{session}/stream/?{parts.query}&{query}"
        response, lines, writer = await self._get(target, token)
        try:
            code = None
            if response.status_code != 200:
                code = await read_close_code(response, lines)
        except BaseException:
            writer.transport.abort()
            raise
        sessions = HttpSessions(self._url, token=token, ssl_context=self._ssl_context)
        plain = PlainConnection(lines, writer, sessions, unquote(session))
        if code is not None:
            plain.end(code)
        else:
            plain.return_after(self._until - self._clock())
        return plain

    async def _connect(
        self, url: str, token: str | None, subprotocols: Sequence[str], deadline: float
    ) -> Socket:
        try:
            async with asyncio.timeout_at(deadline):
                socket = await open_connection(url, token, subprotocols)
        except InvalidStatus as exc:
            status, headers = exc.response.status_code, exc.response.headers
            # A proxy that breaks sockets may say 504 by itself.
            if status in BUSY and (status != 504 or "Retry-After" in headers):
                raise  # The server answers, and names its own time.
            self._failures += 1
            # Without its headers for WebSockets, a handshake is answered as a page.
            raise ConnectionError("a handshake was answered as a request") from exc
        except (OSError, WebSocketException):
            self._failures += 1
            raise
        self._failures, self._answered_at = 0, math.inf
        return socket

    async def _ask(self, session: str, token: str | None) -> None:
        """Fall back if a handshake has failed between two answers of the server."""
        if not await self._is_served(session, token):
            # It restarts, perhaps: the handshakes before its return say nothing.
            self._answered_at = math.inf
        elif self._failures > self._answered_at:
            span_seconds = self._return_seconds * (1 + self._random())
            self._until = self._clock() + span_seconds
            self._failures, self._answered_at = 0, math.inf
        else:
            self._answered_at = self._failures

    async def _is_served(self, session: str, token: str | None) -> bool:
        """Return whether the server answers, and asks for no patience."""
        target = "?limit=1" if session in ("new", _MANY) else f"{session}/"
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                response, lines, writer = await self._get(target, token)
                try:
                    is_ours = response.status_code == 200 or (
                        response.status_code in _REFUSED
                        and "code" in await read_error(lines)
                    )
                finally:
                    writer.transport.abort()
        except OSError:
            return False
        return is_ours and "Retry-After" not in response.headers

    async def _get(self, target: str, token: str | None) -> Answer:
        url = f"{self._url.rstrip('/')}/{target}"
        return await get(url, token, self._ssl_context)
