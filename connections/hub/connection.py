"""Hold the state of one live connection."""

import math
import os
import time
from datetime import datetime
from typing import Any, Protocol

from django.utils import timezone

from connections.close_codes import CloseReason
from connections.config.loader import get_config
from connections.credentials.identity import Credential
from connections.credentials.requirements import NO_REQUIREMENTS
from connections.hub.flight_recorder import FlightRecord
from connections.layers.prepared_message import PreparedMessage
from connections.limits import Limits
from connections.pool.base import Slot
from connections.privacy import reduce_address, reduce_user_agent


class Transport(Protocol):
    """
    The interface of Orchestra's server below ASGI: the extension TRANSPORT.

    Other servers have none. A connection that does not leave in time then only
    has its consumer's task cancelled, because ASGI offers no more.
    """

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the application has sent and the kernel has not taken."""

    @property
    def rtt_seconds(self) -> float | None:
        """The last round trip of a ping, or None before the first pong."""

    @property
    def close_reason(self) -> CloseReason | None:
        """The reason for which the transport ended the connection, or None."""

    @property
    def has_left(self) -> bool:
        """True if no accept reaches the client: it has gone, or was refused."""

    def send_prepared(self, message: PreparedMessage) -> bool:
        """Send now a message that many connections share; False if it must wait."""

    def allow_message_size(self, size_bytes: int) -> None:
        """Let messages up to a size pass, before the first one is read."""

    def abort(self) -> None:
        """Drop the TCP connection without a close frame."""


class Sender(Protocol):
    """The interface to a connection from outside its consumer."""

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        """Send `bye` and the close frame; abort if the client lingers."""

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        """Send `bye` now for an end in after_ms milliseconds."""

    def send(self, content: dict[str, Any]) -> bool:
        """
        Start to send a message of Orchestra's own, without waiting.

        Returns False, and sends nothing, if the consumer is no JSON consumer.
        """

    def abort(self) -> None:
        """Stop the consumer and drop the socket without waiting for either."""


class Observer(Protocol):
    """The interface to what records the decisions of observed limits."""

    def record(self, connection: "LiveConnection", limit: str, what: str) -> None:
        """Count one decision about a connection that has not ended for a limit."""

    def record_end(self, connection: "LiveConnection", limit: str, what: str) -> None:
        """Count the end that a limit would have caused, once for each connection."""


class ClosedSender:
    """The sender of a connection that has ended; its methods do nothing."""

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        return

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        return

    def send(self, content: dict[str, Any]) -> bool:
        return False

    def abort(self) -> None:
        return


CLOSED_SENDER = ClosedSender()

WEBSOCKET = "websocket"
"""The carrier of a connection that is no response to a plain request."""

_NEVER = -math.inf
_NOTHING: frozenset[str] = frozenset()

_UNCOUNTED = ([0] * 65, [0] * 65)
"""The sizes of messages of connections that no node counts."""


class LiveConnection:
    """
    One connection: its client, its limits, its counters and its end.

    The connection writes counters and moments, the node reads them. In seconds
    of the node's clock are `arrived` (the handshake), `opened_monotonic`,
    `last_activity`, `limited_at` (the last message over the rate), `written_activity`,
    `authorised_at` (the last check of its right to stay) and `reauthorise_at`.
    `slot` is None before the accept and after the announcement of a drain.
    `carrier` is "websocket", "sse" or "long_poll".
    `close_reason` is set by the first request to end, and says that it is ending.
    `observed` are the limits that are counted for it and not enforced, by `observer`;
    one of them `would_have_ended` it. `silent_from` began the longest silence that a
    check for idle connections has seen, of `longest_silence` seconds. `address` and
    `user_agent` are as they are recorded; limits and bans take `source_address`.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "arrived",
        "authorised_at",
        "busy_count",
        "bytes_in",
        "bytes_out",
        "carrier",
        "client_id",
        "close_reason",
        "connection_id",
        "credential",
        "errors",
        "expires_at",
        "flight",
        "has_expired",
        "is_expiring",
        "keeps_flight",
        "last_activity",
        "limited_at",
        "limits",
        "longest_silence",
        "messages_in",
        "messages_out",
        "observed",
        "observer",
        "opened_at",
        "opened_monotonic",
        "origin",
        "over_rate",
        "path",
        "reauthorise_at",
        "requirements",
        "route",
        "sender",
        "session_digest",
        "silent_from",
        "sizes_in",
        "sizes_out",
        "slot",
        "source_address",
        "token_id",
        "transport",
        "user_agent",
        "user_id",
        "would_have_ended",
        "written_activity",
    )

    def __init__(
        self,
        *,
        connection_id: str,
        client_id: str,
        now: float,
        sender: Sender,
        user_id: int | None = None,
        credential: Credential | None = None,
        limits: Limits | None = None,
        path: str = "",
        route: str = "",
        address: str = "",
        origin: str = "",
        user_agent: str = "",
        transport: Transport | None = None,
        carrier: str = WEBSOCKET,
        flight: FlightRecord | None = None,
        sizes: tuple[list[int], list[int]] = _UNCOUNTED,
    ) -> None:
        self.connection_id = connection_id
        self.client_id = client_id
        self.user_id = user_id
        self.limits = limits or Limits.configured(get_config())
        self.requirements = NO_REQUIREMENTS
        self.token_id: int | None = None
        self.session_digest = ""
        self.credential: Credential | None = None
        self.expires_at: datetime | None = None
        self.is_expiring = False
        self.has_expired = False
        """Whether a check has found that its credential has expired."""
        self.path = path
        self.route = route
        self.source_address = address
        self.address = reduce_address(address)
        self.origin = origin
        self.user_agent = reduce_user_agent(user_agent)
        self.transport = transport
        self.carrier = carrier
        self.arrived = now
        self.authorised_at = now
        self.reauthorise_at = math.inf
        self.opened_at = timezone.now()
        self.opened_monotonic = now
        self.last_activity = now
        self.written_activity = now
        self.limited_at = _NEVER
        self.observed: frozenset[str] = _NOTHING
        self.observer: Observer | None = None
        self.would_have_ended = False
        self.keeps_flight = False
        self.longest_silence = 0.0
        self.silent_from = now
        self.over_rate = 0
        """How many messages were over the rate, treated as such or observed."""
        self.slot: Slot | None = None
        self.busy_count = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.sizes_in, self.sizes_out = sizes
        self.errors = 0
        self.close_reason: CloseReason | None = None
        self.sender = sender
        self.flight = flight or FlightRecord(time.monotonic)
        if credential is not None:
            self.renew(credential)

    def renew(self, credential: Credential) -> None:
        """Change the credential to another one of the same client."""
        self.credential = credential
        self.token_id = credential.token_id
        self.session_digest = credential.session_digest
        self.expires_at = credential.expires_at
        self.is_expiring = self.has_expired = False
        until = credential.expires_at
        self.flight.record("authorised", f"until {until.isoformat()}" if until else "")

    def mark_opened(self, now: float) -> None:
        """Set the moment of opening, which orders the connections of a client."""
        self.opened_at = timezone.now()
        self.opened_monotonic = now
        self.last_activity = now
        self.written_activity = now

    def end(
        self,
        close_reason: CloseReason,
        *,
        ref: str | None = None,
        after_ms: int | None = None,
    ) -> bool:
        """
        End the connection; return False if it is already ending.

        Returns at once. The client gets `bye` (on JSON consumers) and the close
        frame; a client that does not leave is aborted. `ref` is an id for the
        client to quote, `after_ms` the time after which it should return.
        """
        if self.close_reason is not None:
            return False
        self.close_reason = close_reason
        self.flight.record("end_asked", close_reason.reason)
        self.sender.end(close_reason, ref, after_ms)
        return True

    def end_for(self, limit: str, close_reason: CloseReason) -> bool:
        """
        End the connection because of a limit; if the limit is observed, count it.

        Returns False if it does not end, or is already ending.
        """
        if self.observer is None or limit not in self.observed:
            return self.end(close_reason)
        if self.close_reason is None:
            self.observer.record_end(self, limit, "ended")
        return False

    def idle_seconds(self, now: float) -> float:
        """Return the idle time; 0 while the connection is busy."""
        return 0.0 if self.busy_count else now - self.last_activity


def new_connection_id() -> str:
    """
    Return an unguessable id that sorts by the time it was made.

    RFC 9562, section 5.7 (UUIDv7) without the dashes: 48 bits of milliseconds,
    then 74 random bits, so that rows are inserted at one end of the index.
    """
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"
