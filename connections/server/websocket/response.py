"""Build the answer to a handshake: accepted, denied or refused."""

from collections.abc import Iterable
from enum import Enum

from connections import close_codes
from connections.asgi import Message
from connections.close_codes import CloseReason
from connections.config.sections import CompressionConfig
from connections.net.headers import require_status
from connections.server.websocket.deflate import Agreement, negotiate
from connections.server.websocket.handshake import (
    Handshake,
    Header,
    build_acceptance,
    build_denial_head,
    build_refusal,
    get_all,
)


class Phase(Enum):
    """The state of a WebSocket on the server's side."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


PHASES_AFTER: dict[Phase, frozenset[Phase]] = {
    Phase.CONNECTING: frozenset((Phase.OPEN, Phase.CLOSING, Phase.CLOSED)),
    Phase.OPEN: frozenset((Phase.CLOSING, Phase.CLOSED)),
    Phase.CLOSING: frozenset((Phase.CLOSED,)),
    Phase.CLOSED: frozenset(),
}
"""The phases that may follow each phase; none leads back."""

_REFUSALS = {
    close_codes.DRAINING: (503, "The node drains"),
    close_codes.RATE_LIMITED: (429, "The client sends too much before the answer"),
}
_UNANSWERED = (504, "The application did not answer in time")


def find_refusal(close_reason: CloseReason | None) -> tuple[int, str]:
    """
    Return the status and the explanation for a handshake without an answer.

    A proxy asks another node after 503 alone: the consumer is as slow elsewhere.
    """
    return _REFUSALS.get(close_reason, _UNANSWERED) if close_reason else _UNANSWERED


class Opening:
    """
    Turns the answer of an application into the bytes of an HTTP response.

    An application may deny with a response of its own, in parts (the ASGI
    extension "websocket.http.response").
    """

    __slots__ = ("_denial", "_is_head_sent", "handshake")

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self._denial: Message | None = None
        self._is_head_sent = False

    def negotiate(self, config: CompressionConfig) -> Agreement | None:
        """Return the agreement on compression, or None."""
        offers = get_all(self.handshake.headers, b"sec-websocket-extensions")
        return negotiate(offers, config) if offers else None

    def accept(self, message: Message, agreement: Agreement | None) -> bytes:
        """
        Return the response to websocket.accept.

        Raises:
            ValueError: as build_acceptance().
        """
        headers = message.get("headers") or ()
        return build_acceptance(
            self.handshake,
            message.get("subprotocol"),
            headers,
            agreement.response if agreement is not None else None,
        )

    def begin_denial(self, message: Message) -> None:
        """
        Keep websocket.http.response.start until its body comes.

        Raises:
            ValueError: its status is none of a final response.
        """
        require_status(message.get("status"))
        self._denial = message

    def deny(self, message: Message) -> bytes:
        """
        Return the bytes that websocket.http.response.body adds.

        Raises:
            TypeError: the body is not bytes, or a header is not.
            ValueError: there was no start, or its headers are invalid.
        """
        if self._denial is None:
            raise ValueError(f"{message['type']} without its start")
        body = message.get("body") or b""
        if not isinstance(body, bytes):
            raise TypeError(f"the body of a denial is bytes, not {body!r:.40}")
        if self._is_head_sent:
            return body
        whole_bytes = None if message.get("more_body") else len(body)
        headers = self._denial.get("headers") or ()
        head = build_denial_head(self._denial["status"], headers, whole_bytes)
        self._is_head_sent = True
        return head + body

    def refuse(
        self, status: int, explanation: str, extra: Iterable[Header] = ()
    ) -> bytes:
        """Return the server's refusal; empty if a denial is half sent."""
        if self._is_head_sent:
            return b""
        return build_refusal(status, explanation, extra)
