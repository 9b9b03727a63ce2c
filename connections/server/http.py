"""
Serve HTTP: one deadline for a request head, a bound for a body.

The classes extend Twisted's HTTPChannel and daphne's WebRequest, by the names of
compat.py. HTTP/2 is left to a proxy: WebSockets open with HTTP/1.1.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from connections.net.addresses import find_source, is_listed
from connections.server.compat import (
    DaphneFactory,
    DaphneRequest,
    PublicHttpChannel,
    detach_socket,
    has_response_started,
)
from connections.server.timers import HasDeadline
from connections.server.tls_transport import TlsTransport
from connections.server.transport import SocketTransport
from connections.server.websocket.handshake import (
    BadHandshake,
    Handshake,
    Header,
    build_refusal,
    read_handshake,
)
from connections.server.websocket.protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_KEEP_OPEN_SECONDS = 60
"""How long an HTTP connection may wait for its next request."""

_BODY_SECONDS = 60
"""How long the body of a request may take in all."""

_LINGER_SECONDS = 2
"""How long a client may read a refusal before its connection is dropped."""

_FLUSH_SECONDS = 15
"""How long a client may read the end of a response after our close."""


_MOST_ESCAPES = 100
"""The most backslashes in all Cookie headers. Before Python 3.11.10 and 3.12.6
http.cookies, which Django uses, takes quadratic time on them (CVE-2024-7592)."""


class HttpChannel(HasDeadline, PublicHttpChannel):
    """
    One TCP connection that speaks HTTP, until it becomes a WebSocket.

    Twisted's timer restarts with every byte; this channel has one deadline for a
    request head and one for a body.
    """

    timeOut = None
    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self.server = self.factory.server
        self.websocket: WebSocketProtocol | None = None
        self._loop = asyncio.get_running_loop()
        self._timers = self.server.timers
        self._is_idle = False
        self._is_refused = False
        self._body_bytes = 0
        self._begin_head()

    def dataReceived(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_idle:
            self._begin_head()
        LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        if not self._is_refused:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.server.admission.refusals["bad_request"] += 1
        self._refuse(431, "A header is too large")

    def refuse_bad_request(self) -> None:
        # Twisted closes with unread bytes: the kernel then resets the connection,
        # and the client never sees the answer.
        self.server.admission.refusals["bad_request"] += 1
        self._refuse(400, "The request is not valid, or its headers are too large")

    def rawDataReceived(self, data: bytes) -> None:
        if self.websocket is not None:
            # Bytes behind the handshake that did not wait for the answer.
            self.websocket.take(data)
            return
        if self._is_refused:
            return
        if not self.is_handling_request:
            self._body_bytes += len(data)
            if self._body_bytes > self.server.config.handshake.max_body_size:
                self._refuse(413, "The body is too large")
                return
            self.server.budget.record(self, self._body_bytes)
        super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        if (self.length or 0) > self.server.config.handshake.max_body_size:
            self._refuse(413, "The body is too large")
            return
        headers = self.requests[-1].requestHeaders
        problem = _find_problem(b";".join(headers.getRawHeaders(b"cookie", ())))
        if problem is not None:
            self.server.admission.refusals["bad_request"] += 1
            self._refuse(400, problem)
            return
        self._start_deadline(_BODY_SECONDS, self._time_out)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if self._is_refused:
            return
        self._stop_deadline()
        self.server.admission.end_head(self)
        super().allContentReceived()

    def requestDone(self, request: "HttpRequest") -> None:
        self._forget_body()
        if self.server.is_draining:
            self.persistent = False
        if self.persistent:
            self._begin_head()
            self._is_idle = True
            self._start_deadline(_KEEP_OPEN_SECONDS, self.loseConnection)
        super().requestDone(request)

    def loseConnection(self) -> None:
        super().loseConnection()
        self._start_deadline(_FLUSH_SECONDS, self.transport.abortConnection)

    def connectionLost(self, reason: Failure) -> None:
        self._let_go()
        super().connectionLost(reason)

    def close_idle(self) -> None:
        """Close the connection if no request is under way."""
        if self._is_idle:
            self.loseConnection()

    def cut_off(self) -> None:
        """Refuse an incomplete request; close a connection that waits for one."""
        if self._is_idle:
            self._is_idle = False
            self.loseConnection()
            return
        self._refuse(408, "The request did not become whole in time")

    def end_over_budget(self) -> None:
        """Refuse this request: its body holds most while buffers hold too much."""
        self._refuse(503, "The server is out of buffers", [(b"Retry-After", b"5")])

    def hand_over(self, websocket: WebSocketProtocol) -> None:
        """Hand the TCP connection over to a WebSocket."""
        self._let_go()
        self.websocket = websocket
        # Channel, request and transport form a reference cycle: break it.
        transport, self.transport = self.transport, None
        self.requests.clear()
        transport.unregisterProducer()
        if isinstance(transport, ProtocolWrapper):
            line = TlsTransport(websocket, self._loop)
            transport.wrappedProtocol = line
            line.makeConnection(transport)
            websocket.begin(line)
            return
        transport.protocol = None
        sock, unsent = detach_socket(transport)
        plain = SocketTransport(sock, websocket, self._loop)
        websocket.begin(plain)
        if unsent:
            plain.write(unsent)

    def _begin_head(self) -> None:
        self._is_idle = False
        peer = getattr(self.transport.getPeer(), "host", None)
        trusted = self.server.config.trusted_proxies
        # All clients of a proxy share its address.
        address = None if peer is None or is_listed(peer, trusted) else peer
        timeout_seconds = self.server.config.handshake.timeout_seconds
        self._start_deadline(timeout_seconds, self._time_out)
        self.server.http_channels.add(self)
        self.server.admission.end_head(self)
        self.server.admission.begin_head(self, address)

    def _refuse(
        self, status: int, explanation: str, extra: Iterable[Header] = ()
    ) -> None:
        """Answer at once, then read on for a moment so that the answer arrives."""
        self._is_refused = True
        self.persistent = False
        self._forget_body()
        self.server.admission.end_head(self)
        self.transport.write(build_refusal(status, explanation, extra))
        self.transport.unregisterProducer()
        if self.isSecure():
            self.transport.loseConnection()
        else:
            self.transport.resumeProducing()
            self.transport.loseWriteConnection()
        self._start_deadline(_LINGER_SECONDS, self.transport.abortConnection)

    def _time_out(self) -> None:
        self.server.admission.refusals["timeout"] += 1
        self.cut_off()

    def _forget_body(self) -> None:
        self._body_bytes = 0
        self.server.budget.forget(self)

    def _let_go(self) -> None:
        self._stop_deadline()
        self._is_idle = False
        self._forget_body()
        self.server.admission.end_head(self)
        self.server.http_channels.discard(self)


class HttpRequest(DaphneRequest):
    """One HTTP request, or the handshake of a WebSocket."""

    def process(self) -> Any:
        upgrade = self.requestHeaders.getRawHeaders(b"Upgrade", [b""])[0]
        if upgrade.lower() == b"websocket":
            self._open_websocket()
            return None
        # The server sets the root path; a client must not.
        self.requestHeaders.removeHeader(b"Daphne-Root-Path")
        return super().process()

    def handle_exception(self, exception: BaseException) -> None:
        """
        Answer 500, or break off a response that has begun.

        daphne starts the response a second time, and the resulting ValueError
        ends its checker of applications for the life of the process.
        """
        if self.finished or self.channel is None:
            return
        if has_response_started(self):
            self.channel.transport.abortConnection()
        else:
            super().handle_exception(exception)

    def check_timeouts(self) -> None:
        if not self.finished and self.channel is not None:
            super().check_timeouts()

    def finish(self) -> None:
        if not self.finished and self.channel is not None:
            super().finish()

    def _open_websocket(self) -> None:
        server = self.server
        try:
            handshake = read_handshake(
                self.method,
                self.uri,
                self.clientproto,
                self.requestHeaders.getAllRawHeaders(),
                client=_get_address(self.client),
                local=_get_address(self.host),
                is_secure=bool(self.isSecure()),
            )
        except BadHandshake as exc:
            server.admission.refusals["bad_request"] += 1
            self._answer(exc.status, exc.explanation, exc.headers)
            return
        websocket = WebSocketProtocol(server, handshake)
        refusal = server.admission.begin_handshake(
            websocket, self._find_address(handshake)
        )
        if refusal is not None:
            retry_after = str(refusal.retry_after_seconds).encode()
            self._answer(
                refusal.status,
                f"Try again later: {refusal.reason}",
                [(b"Retry-After", retry_after)],
            )
            return
        channel = self.channel
        server.protocol_disconnected(self)
        server.protocol_connected(websocket)
        channel.hand_over(websocket)
        server.create_application(websocket, websocket.get_scope())

    def _find_address(self, handshake: Handshake) -> str:
        """Return the address of the client, through trusted proxies."""
        source = find_source(
            getattr(self.client, "host", None),
            handshake.headers,
            self.server.config.trusted_proxies,
            is_secure=handshake.is_secure,
        )
        return source.address

    def _answer(self, status: int, explanation: str, extra: Iterable[Header]) -> None:
        """Refuse the handshake; the connection is closed after it."""
        self.transport.write(build_refusal(status, explanation, extra))
        self.server.protocol_disconnected(self)
        self.channel.loseConnection()


class HttpFactory(DaphneFactory):
    """Makes a channel for each TCP connection."""

    protocol = HttpChannel

    def buildProtocol(self, addr: Any) -> HttpChannel:
        channel: HttpChannel = ServerFactory.buildProtocol(self, addr)
        channel.callLater = self.reactor.callLater
        channel.requestFactory = HttpRequest
        return channel

    def log(self, request: HttpRequest) -> None:
        """Write nothing: Twisted's access log would hold queries."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]


def _find_problem(cookies: bytes) -> str | None:
    """Return the problem of the Cookie headers of a request, joined; or None."""
    if cookies.count(b"\\") > _MOST_ESCAPES:
        return "The cookies have too many escapes"
    if b"\\000" in cookies or b"\0" in cookies:
        # PostgreSQL refuses a NUL, so Django's look-up of such a session fails.
        return "A cookie holds a NUL"
    return None


def _get_address(address: Any) -> list[Any] | None:
    """Return host and port for the scope; None for a Unix socket."""
    if hasattr(address, "host") and hasattr(address, "port"):
        return [str(address.host), address.port]
    return None
