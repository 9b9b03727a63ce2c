"""Define the events that a client reports to its user."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from connections.client.reconnect import Ended
from connections.client.transcript import Entry


class State(StrEnum):
    """The state of a client's connection to its server."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The state changed; `ended` describes the end of the last connection."""

    state: State
    ended: Ended | None
    delay_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """
    The server sent hello; the missed entries follow.

    `gap` holds the first and last offset that were trimmed. A `reset` invalidates
    all earlier entries.
    """

    outcome: Literal["new", "resumed", "nothing_missed", "gap", "reset"]
    gap: tuple[int, int] | None
    session: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryArrived:
    """An entry is new, or replaces the entry of its offset."""

    entry: Entry
    is_replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryGrew:
    """An entry grew by a piece of text, or by changes of its parts."""

    entry: Entry
    text: str
    changes: tuple[dict[str, Any], ...] = ()
    """What is new: `text` and `arguments` were added to, other fields replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryCompleted:
    """An entry stopped growing; its state says why."""

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReceived:
    """The server sent an error that belongs to no message."""

    code: str
    message: str
    ref: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """Staff sent a notice to connected clients, at a moment in ISO 8601."""

    text: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersChanged:
    """Members of the session came or left; the public data of all that are present."""

    members: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingChanged:
    """A member began or ended to type on another connection of the session."""

    member: str
    connection: str
    is_typing: bool


Event = (
    StateChanged
    | Attached
    | EntryArrived
    | EntryGrew
    | EntryCompleted
    | ErrorReceived
    | NoticeReceived
    | MembersChanged
    | TypingChanged
)
