"""
Serve one HTTP request: its body from a file, its response at the client's pace.

The class extends daphne's WebRequest, by the names of compat.py.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from urllib.parse import unquote

from django.conf import settings

from connections.asgi import Message
from connections.interning import share
from connections.net.headers import keep_content_headers, require_status
from connections.node.health import find_probe
from connections.server.admission import Refusal
from connections.server.compat import DaphneRequest, has_response_started
from connections.server.request_limits import RequestLimits
from connections.server.websocket.handshake import (
    BadHandshake,
    Header,
    build_refusal,
    read_handshake,
    read_headers,
)
from connections.server.websocket.protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 65_536
"""The most bytes of a body that stay in memory; a larger body is in a file."""

_SMALL_CHUNK_BYTES = 64
_FREE_CHUNKS = 16_384
"""Chunks that a body may have besides one for each 64 bytes: a chunk takes about
4 us of the loop, however small it is."""

_LENGTH = b"content-length"

_NO_BODY_STATUSES = (204, 304)
"""RFC 9110, section 6.4.1; 1xx are no final responses."""


class BodyRefused(Exception):
    """The body of a request is refused, for a reason and with an HTTP status."""

    def __init__(
        self,
        reason: str,
        status: int,
        explanation: str,
        headers: Sequence[Header] = (),
    ) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.status = status
        self.headers = headers


class HttpRequest(DaphneRequest):
    """
    One HTTP request, or the handshake of a WebSocket.

    It is the application's receive and send.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.body_bytes = 0
        """Bytes of the body that have arrived."""
        self._chunks = 0
        self._max_body_bytes = self.server.config.handshake.max_body_size
        self._is_chunked = False
        self._is_body_read = False
        # Of a response with Content-Length, how much of its body is not sent.
        self._missing_bytes: int | None = None
        self._gone = asyncio.Event()
        # Since when the application has owed the next event; None while it waits.
        self._owing_since: float | None = None

    # Its admission

    @property
    def is_handshake(self) -> bool:
        """True if the request opens a WebSocket."""
        upgrade: bytes = self.requestHeaders.getRawHeaders(b"Upgrade", [b""])[0]
        return upgrade.lower() == b"websocket"

    def check_limits(self, method: bytes, target: bytes) -> Refusal | None:
        """Return why the request would be refused once it is complete, or None."""
        if self._is_free(method, target):
            return None
        limits: RequestLimits = self.server.request_limits
        return limits.check(self._find_limited_address())

    def begin(self, method: bytes, target: bytes) -> Refusal | None:
        """Count the complete request, unless it is refused."""
        if self._is_free(method, target):
            return None
        limits: RequestLimits = self.server.request_limits
        return limits.begin(self, self._find_limited_address())

    def _is_free(self, method: bytes, target: bytes) -> bool:
        """Handshakes have limits of their own, and probes have none."""
        path = unquote(target.partition(b"?")[0].decode("latin-1"))
        server = self.server
        return self.is_handshake or bool(
            find_probe(server.config, method.decode("latin-1"), path, server.root_path)
        )

    def _find_limited_address(self) -> str | None:
        headers = [
            (name.lower(), value)
            for name, values in self.requestHeaders.getAllRawHeaders()
            for value in values
        ]
        limits: RequestLimits = self.server.request_limits
        return limits.find_address(getattr(self.client, "host", None), headers)

    # The body

    @property
    def held_bytes(self) -> int:
        """Bytes of the body in memory."""
        return self.body_bytes if self.body_bytes <= _MEMORY_BYTES else 0

    @property
    def filed_bytes(self) -> int:
        """Bytes of the body in a file."""
        return self.body_bytes - self.held_bytes

    def gotLength(self, length: int | None) -> None:
        """Begin a body: of a length, or of chunks. The file is gone once closed."""
        self._is_chunked = length is None
        self.content: IO[bytes] = BytesIO()
        if length != 0:
            # Open as long as the request.
            self.content = SpooledTemporaryFile(  # noqa: SIM115
                _MEMORY_BYTES, dir=settings.FILE_UPLOAD_TEMP_DIR
            )

    def handleContentChunk(self, data: bytes) -> None:
        """
        Take a part of the body.

        Raises:
            BodyRefused: it is too large, has too many parts, or cannot be stored.
        """
        self.body_bytes += len(data)
        if self.body_bytes > self._max_body_bytes:
            raise BodyRefused("body_too_large", 413, "The body is too large")
        if self._is_chunked:
            self._chunks += 1
            if self._chunks > _FREE_CHUNKS + self.body_bytes // _SMALL_CHUNK_BYTES:
                text = "The chunks of the body are too small"
                raise BodyRefused("bad_request", 400, text)
        try:
            self.content.write(data)
        except OSError as exc:
            logger.error(
                "The body of a request cannot be stored: %s",
                exc,
                extra={"event": "body_not_stored"},
            )
            retry = [(b"Retry-After", b"5")]
            text = "The body cannot be stored"
            raise BodyRefused("not_stored", 503, text, retry) from exc

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Process the complete request.

        Twisted's method reads a form into memory and parses it on the loop; the
        application does that itself.
        """
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> Any:
        if self.is_handshake:
            self._open_websocket()
            return None
        # The server sets the root path; a client must not.
        self.requestHeaders.removeHeader(b"Daphne-Root-Path")
        self._owing_since = self.server.timers.time()
        return super().process()

    async def receive(self) -> Message:
        """Return the next part of the body, then the disconnect, repeatedly."""
        if not self._is_body_read and not self._gone.is_set():
            chunk = self.content.read(self.server.request_buffer_size)
            has_more = self.content.tell() < self.body_bytes
            if has_more:
                # A body of a gigabyte must not keep the loop from others.
                await asyncio.sleep(0)
            else:
                self._is_body_read = True
            return {"type": "http.request", "body": chunk, "more_body": has_more}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    # The response

    async def send(self, message: Message) -> None:
        """
        Take a part of the response, and wait while the client does not read.

        After the end events are ignored, because the application may not know of it.

        Raises:
            TypeError, ValueError: the event is invalid, or not allowed in this state.
        """
        if self.finished or self.channel is None:
            # An application that keeps sending must not block the loop.
            await asyncio.sleep(0)
            return
        if message["type"] == "http.response.start":
            message = self._complete_start(message)
        elif message["type"] == "http.response.body":
            message = self._check_body(message)
        await self.server.handle_reply(self, message)
        if self.finished or self.channel is None:
            return
        self._owing_since = None
        await self.channel.wait_until_writable()
        self._owing_since = self.server.timers.time()

    def _complete_start(self, message: Message) -> Message:
        """
        Check http.response.start; its Connection: close ends the connection.

        Raises:
            TypeError, ValueError: as require_status() and keep_content_headers().
        """
        require_status(message.get("status"))
        own = list(message.get("headers") or ())
        headers = keep_content_headers(own)
        lengths = (value for name, value in headers if name.lower() == _LENGTH)
        self._missing_bytes = next(map(int, lengths), None)
        if any(_asks_to_close(*header) for header in own):
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return {**message, "headers": headers}

    def _check_body(self, message: Message) -> Message:
        """
        Hold the body to the length that its response declared.

        Raises:
            ValueError: it is longer, and the rest would be read as a response, or
                shorter, and the next response would be read as its rest.
        """
        if self._has_no_body():
            return {**message, "body": b""}
        if self._missing_bytes is not None:
            self._missing_bytes -= len(message.get("body", b""))
            is_last = not message.get("more_body", False)
            if self._missing_bytes < 0 or (is_last and self._missing_bytes):
                raise ValueError("the body has not the length of its Content-Length")
        return message

    @property
    def has_started(self) -> bool:
        """True once the application has begun its response."""
        return has_response_started(self)

    def _has_no_body(self) -> bool:
        """Twisted drops the first part alone, and the next would begin a response."""
        return self.method == b"HEAD" or self.code in _NO_BODY_STATUSES

    def application_ended(self, exception: BaseException | None) -> None:
        """
        Without a complete response answer 500, or break off one that has begun.

        daphne starts the response a second time, and the resulting ValueError
        ends its checker of applications for the life of the process.
        """
        if self.finished or self.channel is None:
            return
        if exception is None:
            logger.error(
                "The application ended without a complete response",
                extra={"event": "response_incomplete"},
            )
        if self.has_started:
            self.channel.transport.abortConnection()
        else:
            self.handle_exception(exception)

    def check_timeouts(self) -> None:
        """
        End a request whose application owes an event for daphne's --http-timeout.

        The time in which the client reads does not count. daphne completes a
        response that it cuts off, and the client would take it for whole.
        """
        limit, since = self.server.http_timeout, self._owing_since
        if not limit or since is None or self.finished or self.channel is None:
            return
        if self.server.timers.time() - since <= limit:
            return
        if self.has_started:
            logger.warning(
                "The application timed out while it sent a response",
                extra={"event": "response_timed_out"},
            )
            self.channel.transport.abortConnection()
        else:
            text = "Application failed to respond within time limit."
            self.server.request_limits.refusals["application_timeout"] += 1
            # 503 would make a proxy ask another node, which is as slow.
            self.basic_error(504, b"Gateway Timeout", text)

    def finish(self) -> None:
        if not self.finished and self.channel is not None:
            super().finish()
            self._gone.set()

    def connectionLost(self, reason: Any) -> None:
        self._gone.set()
        super().connectionLost(reason)

    # The handshake of a WebSocket

    def _open_websocket(self) -> None:
        self.content.close()
        server = self.server
        if self.channel.has_left:
            # A slot for it could evict a connection that is in use.
            server.protocol_disconnected(self)
            self.channel.loseConnection()
            return
        try:
            handshake = read_handshake(
                self.method,
                self.uri,
                self.clientproto,
                read_headers(self.requestHeaders.getAllRawHeaders()),
                client=_get_address(self.client),
                local=_share_address(self.host),
                is_secure=bool(self.isSecure()),
            )
        except BadHandshake as exc:
            server.admission.refusals["bad_request"] += 1
            self._answer(exc.status, exc.explanation, exc.headers)
            return
        websocket = WebSocketProtocol(server, handshake)
        peer = getattr(self.client, "host", None)
        refusal = server.admission.admit(websocket, handshake, peer)
        if refusal is not None:
            self._answer(*refusal.describe())
            return
        channel = self.channel
        server.protocol_disconnected(self)
        server.protocol_connected(websocket)
        channel.hand_over(websocket)
        server.create_application(websocket, websocket.get_scope())

    def _answer(self, status: int, explanation: str, extra: Iterable[Header]) -> None:
        """Refuse the handshake; the connection is closed after it."""
        self.transport.write(build_refusal(status, explanation, extra))
        self.server.protocol_disconnected(self)
        self.channel.loseConnection()


def _asks_to_close(name: bytes, value: bytes) -> bool:
    words = map(bytes.strip, value.lower().split(b","))
    return name.lower() == b"connection" and b"close" in words


@lru_cache(256)
def _share_address(address: Any) -> tuple[str, int] | None:
    """Return host and port of this end, which many connections share."""
    found = _get_address(address)
    return None if found is None else (found[0], found[1])


def _get_address(address: Any) -> list[Any] | None:
    """Return host and port for the scope; None for a Unix socket."""
    if hasattr(address, "host") and hasattr(address, "port"):
        # Many connections have the same host: this end's, or that of a proxy.
        return [share(str(address.host)), address.port]
    return None
