"""
Serve HTTP on a TCP connection: one deadline for a request head, a rate for bodies.

The class extends Twisted's HTTPChannel, by the names of compat.py. HTTP/2 is left
to a proxy: WebSockets open with HTTP/1.1.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from connections.server.admission import Refusal
from connections.server.compat import (
    PublicHttpChannel,
    detach_socket,
    find_descriptor,
)
from connections.server.cookie_check import find_problem
from connections.server.request import BodyRefused, HttpRequest
from connections.server.send_watch import SendWatch
from connections.server.target import BadTarget, read_target
from connections.server.timers import HasDeadline
from connections.server.tls_transport import TlsTransport
from connections.server.transport import SocketTransport, has_peer_left
from connections.server.websocket.handshake import Header, build_refusal
from connections.server.websocket.protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_KEEP_OPEN_SECONDS = 60
"""How long an HTTP connection may wait for its next request."""

_LINGER_SECONDS = 2
"""How long a client may read a refusal before its connection is dropped."""

_CLOSE_SECONDS = 15
"""How long a client may take to close after its last response is sent."""

_HALF_CLOSED_SECONDS = 1
"""How long an application may send nothing to a client that has sent FIN."""


@implementer(IHalfCloseableProtocol)
class HttpChannel(HasDeadline, PublicHttpChannel):
    """
    One TCP connection that speaks HTTP, until it becomes a WebSocket.

    Twisted's timer restarts with every byte; this channel has one deadline for a
    request head. Bodies and responses have a minimum rate, and no deadline.
    """

    timeOut = None
    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self.server = self.factory.server
        self.websocket: WebSocketProtocol | None = None
        self._loop = asyncio.get_running_loop()
        self._timers = self.server.timers
        self._deadline = None
        self._is_idle = False
        self._is_refused = False
        self._checked_bytes = 0
        self._written_bytes = self._written_before = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._sending = SendWatch(
            find_descriptor(self.transport),
            self._timers,
            self.server.config.http,
            self._cut_off_reader,
        )
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

    def headerReceived(self, line: bytes) -> bool:
        try:
            return bool(super().headerReceived(line))
        except ValueError:
            # Python reads no number of more than 4,300 digits, as a Content-Length.
            self.refuse_bad_request()
            return False

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_bad_request(431, "A header is too large")

    def refuse_bad_request(self) -> None:
        # Twisted closes with unread bytes: the kernel then resets the connection,
        # and the client never sees the answer.
        text = "The request is not valid, or its headers are too large"
        self._refuse_bad_request(400, text)

    def rawDataReceived(self, data: bytes) -> None:
        if self.websocket is not None:
            # Bytes behind the handshake that did not wait for the answer.
            self.websocket.take(data)
            return
        if self._is_refused:
            return
        try:
            super().rawDataReceived(data)
        except BodyRefused as exc:
            self._refuse(exc.reason, exc.status, str(exc), exc.headers)
            return
        if not self.is_handling_request and not self._is_refused:
            self._record_held()

    def allHeadersReceived(self) -> None:
        if (self.length or 0) > self.server.config.handshake.max_body_size:
            self._refuse("body_too_large", 413, "The body is too large")
            return
        headers = self.requests[-1].requestHeaders
        hosts = headers.getRawHeaders(b"host", ())
        try:
            target = read_target(*self.request_line, self.request_version, hosts)
        except BadTarget as exc:
            self._refuse_bad_request(exc.status, str(exc))
            return
        self.set_target(target.path)
        if target.host is not None:
            headers.setRawHeaders(b"host", [target.host])
        problem = find_problem(b";".join(headers.getRawHeaders(b"cookie", ())))
        if problem is not None:
            self._refuse_bad_request(400, problem)
            return
        request = self.requests[-1]
        if self.length != 0 and not request.is_handshake:
            # A refused client need not send the body.
            refusal = request.check_limits(*self.request_line)
            if refusal is not None:
                self._refuse_because(refusal)
                return
            self.server.admission.begin_body(self, self._address)
        super().allHeadersReceived()
        self._checked_bytes = 0
        self._start_deadline(self.server.config.http.stall_seconds, self._check_body)

    def allContentReceived(self) -> None:
        if self._is_refused:
            return
        self._stop_deadline()
        self.server.admission.end_head(self)
        refusal = self.requests[-1].begin(*self.request_line)
        if refusal is not None:
            self._refuse_because(refusal)
            return
        super().allContentReceived()

    def requestDone(self, request: HttpRequest) -> None:
        if self.server.is_draining:
            self.persistent = False
        if self.persistent:
            self._begin_head()
            self._is_idle = True
            self._start_deadline(_KEEP_OPEN_SECONDS, self._close_when_sent)
        super().requestDone(request)
        self._record_held()

    def write(self, data: bytes) -> None:
        super().write(data)
        self._record_written(len(data))

    def writeSequence(self, parts: Iterable[bytes]) -> None:
        parts = list(parts)
        super().writeSequence(parts)
        self._record_written(sum(map(len, parts)))

    def pauseProducing(self) -> None:
        """Learn that more than Twisted's 64 kB wait for the client."""
        super().pauseProducing()
        self._writable.clear()

    def resumeProducing(self) -> None:
        """Learn that the kernel has taken all bytes."""
        super().resumeProducing()
        self._writable.set()
        self._record_held()

    @property
    def is_sending(self) -> bool:
        """True while bytes wait in this process for the client."""
        return self._sending.unsent_bytes > 0

    @property
    def has_left(self) -> bool:
        """True if the client has closed its side, before this process reads it."""
        return has_peer_left(find_descriptor(self.transport).fileno())

    async def wait_until_writable(self) -> None:
        """Wait until the kernel has taken the response so far, or the client left."""
        await self._writable.wait()

    def loseConnection(self) -> None:
        super().loseConnection()
        self._start_deadline(_CLOSE_SECONDS, self._abort_when_sent)

    def connectionLost(self, reason: Failure) -> None:
        self._let_go()
        self._writable.set()
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """
        Learn that the client sends nothing more (FIN); it may still read.

        Most clients have left that send it. So only a response goes on whose
        application keeps sending; its bytes show whether the client is there.
        """
        request = self.requests[0] if self.requests else None
        if request is None or not request.has_started:
            self.loseConnection()
            return
        self.persistent = False
        self._written_before = self._written_bytes
        self._start_deadline(_HALF_CLOSED_SECONDS, self._check_half_closed)

    def writeConnectionLost(self) -> None:
        """Ignore that a refusal is sent; its client has a moment to read it."""

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
        self._refuse("timeout", 408, "The request did not become whole in time")

    def time_out(self) -> None:
        """Cut it off because its request, or the head of it, is late."""
        self.server.admission.refusals["timeout"] += 1
        self.cut_off()

    def arrive(self, at: float) -> None:
        """Take over the deadline of a connection that arrived at a moment before."""
        timeout_seconds = self.server.config.handshake.timeout_seconds
        left_seconds = max(0.0, at + timeout_seconds - self._timers.time())
        self._start_deadline(left_seconds, self.time_out)

    def take_first(self, received: bytes) -> None:
        """Take the bytes that arrived before this channel was made."""
        try:
            self.dataReceived(received)
        except Exception as exc:
            # Twisted ends a connection whose dataReceived() fails, too.
            logger.error(
                "Reading a request failed: %s",
                exc,
                exc_info=exc,
                extra={"event": "reading_failed"},
            )
            if self.transport is not None:
                self.transport.abortConnection()

    def end_over_budget(self) -> None:
        """Refuse this request: it holds most while all hold too much."""
        if self.is_handling_request or not self._writable.is_set():
            self.transport.abortConnection()
            return
        text = "The server has no room for it"
        self._refuse("over_budget", 429, text, [(b"Retry-After", b"5")])

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
        plain = SocketTransport(sock, websocket, self._loop, self.server.write_batch)
        websocket.begin(plain)
        if unsent:
            plain.write(unsent)

    def _begin_head(self) -> None:
        self._is_idle = False
        peer = getattr(self.transport.getPeer(), "host", None)
        self._address: str | None = self.server.admission.find_limited(peer)
        timeout_seconds = self.server.config.handshake.timeout_seconds
        self._start_deadline(timeout_seconds, self.time_out)
        self.server.http_channels.add(self)
        self.server.admission.end_head(self)
        self.server.admission.begin_head(self, self._address)

    def _refuse_bad_request(self, status: int, explanation: str) -> None:
        # It may have been a handshake.
        self.server.admission.refusals["bad_request"] += 1
        self._refuse("bad_request", status, explanation)

    def _refuse(
        self, reason: str, status: int, explanation: str, extra: Iterable[Header] = ()
    ) -> None:
        """Answer at once, then read on for a moment so that the answer arrives."""
        self.server.request_limits.refusals[reason] += 1
        self._is_refused = True
        self.persistent = False
        self._forget_held()
        self.server.admission.end_head(self)
        if self.requests and self.requests[-1].content is not None:
            self.requests[-1].content.close()
        self.transport.write(build_refusal(status, explanation, extra))
        self.transport.unregisterProducer()
        if self.isSecure():
            self.transport.loseConnection()
        else:
            self.transport.resumeProducing()
            self.transport.loseWriteConnection()
        self._start_deadline(_LINGER_SECONDS, self._abort_when_sent)

    def _refuse_because(self, refusal: Refusal) -> None:
        self._refuse(refusal.reason.replace(" ", "_"), *refusal.describe())

    def _check_body(self) -> None:
        """Refuse a body that arrives more slowly than the minimum rate."""
        config = self.server.config.http
        arrived = self.requests[-1].body_bytes
        required = config.min_bytes_per_second * config.stall_seconds
        if arrived - self._checked_bytes < required:
            self.time_out()
            return
        self._checked_bytes = arrived
        self._start_deadline(config.stall_seconds, self._check_body)

    def _record_written(self, size: int) -> None:
        self._written_bytes += size
        self._sending.record(size)
        if not self._writable.is_set():
            self._record_held()

    def _check_half_closed(self) -> None:
        if self.is_sending or self._written_bytes > self._written_before:
            self._written_before = self._written_bytes
            self._start_deadline(_HALF_CLOSED_SECONDS, self._check_half_closed)
        else:
            self.loseConnection()

    def _record_held(self) -> None:
        """Record the bytes of the body and of the response, in memory and in a file."""
        held = self.requests[-1].held_bytes if self.requests else 0
        filed = self.requests[-1].filed_bytes if self.requests else 0
        self.server.body_files.record(self, filed)
        if not self._writable.is_set():
            held += self._sending.unsent_bytes
        self.server.budget.record(self, held)

    def _forget_held(self) -> None:
        self.server.budget.forget(self)
        self.server.body_files.forget(self)

    def _cut_off_reader(self) -> None:
        logger.info(
            "A client that does not read its response is cut off",
            extra={"event": "response_not_read"},
        )
        self.transport.abortConnection()

    def _close_when_sent(self) -> None:
        """Close an idle connection once its last response is sent."""
        if self.is_sending:
            self._start_deadline(_KEEP_OPEN_SECONDS, self._close_when_sent)
        else:
            self.loseConnection()

    def _abort_when_sent(self) -> None:
        """Drop a closed connection; SendWatch decides while bytes wait."""
        if self.is_sending:
            self._start_deadline(_CLOSE_SECONDS, self._abort_when_sent)
        else:
            self.transport.abortConnection()

    def _let_go(self) -> None:
        self._stop_deadline()
        self._sending.stop()
        self._is_idle = False
        self._forget_held()
        self.server.admission.end_head(self)
        self.server.http_channels.discard(self)
