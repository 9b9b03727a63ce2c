"""What a client tells its user."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from connections.client.reconnect import Ended
from connections.client.transcript import Entry


class State(StrEnum):
    """How a client stands with its server."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """`ended` is how the last connection ended."""

    state: State
    ended: Ended | None
    delay_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """
    The server greeted; what was missed follows.

    `gap` are the first and last offset that can no longer be had. After a
    `reset` nothing that came before counts.
    """

    outcome: Literal["new", "resumed", "nothing_missed", "gap", "reset"]
    gap: tuple[int, int] | None
    session: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryArrived:
    """An entry that is new, or comes again and replaces the one of its offset."""

    entry: Entry
    is_replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryGrew:
    """A piece of text joined on to an entry."""

    entry: Entry
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryCompleted:
    """An entry grows no more; its state says why."""

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryWarning:
    """The server sent an error that settles no message."""

    code: str
    message: str
    ref: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """Staff told all who are connected something, at a moment in ISO 8601."""

    text: str
    at: str


Event = (
    StateChanged
    | Attached
    | EntryArrived
    | EntryGrew
    | EntryCompleted
    | ExpiryWarning
    | NoticeReceived
)
