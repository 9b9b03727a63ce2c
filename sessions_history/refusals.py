"""Tell a client why the server does not do what its message asks."""

from dataclasses import dataclass
from typing import Any

from connections import close_codes
from connections.close_codes import CloseReason
from connections.exceptions import DatabaseUnavailable
from sessions_history.exceptions import (
    AnswerNotFound,
    AnswerReplaced,
    AnswerUnfinished,
    ApprovalDecided,
    ApprovalNotFound,
    KeyReused,
    LogFull,
    NoResponder,
    SessionNotFound,
    StorageFull,
    TooManySessions,
    TooManyStreams,
)

RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """The code and the text of an `error` message, and what follows from it."""

    code: str
    text: str
    retry_seconds: float | None = None
    ends_with: CloseReason | None = None

    def to_wire(self, message_id: str | None = None, **more: Any) -> dict[str, Any]:
        """Return the `error` message."""
        return {
            "type": "error",
            "code": self.code,
            "message": self.text,
            "id": message_id,
            "ref": None,
            "retry_after_seconds": self.retry_seconds,
            **more,
        }


NOT_FOUND = Refusal("not_found", "no such session")
"""Also where the client has no role: it must not learn that the session exists."""

UNREADABLE = Refusal(
    "unavailable", "the session could not be read; try again", RETRY_SECONDS
)
NOTHING_STREAMS = Refusal("not_found", "nothing streams at this offset")
NOT_CANCELLED = Refusal("unavailable", "not cancelled; try again", RETRY_SECONDS)
DELETION_UNKNOWN = Refusal(
    "unavailable", "whether it is deleted is unknown; try again", RETRY_SECONDS
)
_GONE = Refusal("not_found", "the session is gone", None, close_codes.NOT_FOUND)
_KEY_REUSED = Refusal("invalid_message", "this id was used before, with other data")
_STORAGE_FULL = Refusal(
    "storage_full", "the storage of this client is full: delete a session"
)
_SESSIONS_FULL = Refusal(
    "sessions_full",
    "this client has as many sessions as allowed: delete one",
    None,
    close_codes.SESSIONS_FULL,
)
_TOO_MANY_STREAMS = Refusal(
    "rate_limited", "too many answers are under way", RETRY_SECONDS
)
_NOT_RECORDED = Refusal(
    "unavailable", "not recorded, as far as is known; send it again", RETRY_SECONDS
)
_NOT_STORED = Refusal("internal", "this cannot be stored")


def explain(exc: BaseException) -> Refusal:
    """Return why a message was not carried out."""
    match exc:
        case KeyReused():
            return _KEY_REUSED
        case AnswerNotFound() | ApprovalNotFound():
            return Refusal("not_found", str(exc))
        case AnswerUnfinished() | AnswerReplaced() | ApprovalDecided() | NoResponder():
            return Refusal("conflict", str(exc))
        case StorageFull():
            return _STORAGE_FULL
        case TooManySessions():
            return _SESSIONS_FULL
        case TooManyStreams():
            return _TOO_MANY_STREAMS
        case LogFull() | DatabaseUnavailable():
            return _NOT_RECORDED
        case SessionNotFound():
            return _GONE
    return _NOT_STORED
