"""Live connections without a socket, that several test modules use."""

from typing import Any

from connections.close_codes import CloseReason
from connections.hub.connection import LiveConnection


class SilentSender:
    """A sender that keeps what it was asked to send, and why it was ended."""

    def __init__(self) -> None:
        self.close_reasons: list[CloseReason] = []
        self.sent: list[dict[str, Any]] = []

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        self.close_reasons.append(close_reason)

    def announce(self, close_reason: CloseReason, after_ms: int) -> None: ...

    def send(self, content: dict[str, Any]) -> bool:
        self.sent.append(content)
        return True

    def abort(self) -> None: ...


def make_connection(connection_id: str, **values: Any) -> LiveConnection:
    """Return a connection of alice that began at 0; values override."""
    values = {"client_id": "alice", "now": 0.0, "sender": SilentSender(), **values}
    return LiveConnection(connection_id=connection_id, **values)
