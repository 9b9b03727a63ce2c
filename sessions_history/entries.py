"""Entries as values: what is asked of the log, and what it holds."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sessions_history.models import HistoryEntry

State = HistoryEntry.State
Sender = HistoryEntry.Sender

# A member of an enumeration costs a call each time it is compared or becomes text.
_DONE, _STREAMING = State.DONE.value, State.STREAMING.value

MESSAGE = "message"
"""The kind of an entry that a client or a responder said."""

EMPTY_STREAM = '{"text":""}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a session's log; `data` is JSON text."""

    offset: int
    kind: str
    sender: str
    at: datetime
    data: str
    state: str = _DONE

    @property
    def is_streaming(self) -> bool:
        """Whether it still grows."""
        return self.state == _STREAMING

    @property
    def text(self) -> str:
        """The text so far of an entry that streams or has streamed."""
        text: str = json.loads(self.data)["text"]
        return text

    def with_text(self, text: str, state: str, error: str = "") -> "Entry":
        """Return the entry with another text and state."""
        return replace(self, data=dump_stream(text, error), state=state)

    def to_wire(self) -> str:
        """Return the message that carries the entry; its data is JSON already."""
        at = self.at.isoformat().replace("+00:00", "Z")
        return (
            f'{{"type":"entry","offset":{self.offset},"kind":{json.dumps(self.kind)},'
            f'"from":"{self.sender}","at":"{at}","state":"{self.state}",'
            f'"data":{self.data}}}'
        )


def dump_stream(text: str, error: str = "") -> str:
    """Return the data of an entry that streams; `error` is why it failed."""
    content: dict[str, Any] = {"text": text}
    if error:
        content["error"] = error
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry that has no offset yet."""

    kind: str = MESSAGE
    sender: str
    data: str
    state: str = _DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """
    Entries to be added to one session together, or not at all.

    With a key, the same key again is answered and appends nothing.
    """

    session_id: str
    entries: tuple[NewEntry, ...]
    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """
    The text so far of an entry that streams, and its state.

    Without data the text stays as it was written last. It applies only while
    the entry streams; is_owner: only while it streams from this node.
    """

    session_id: str
    offset: int
    state: str
    data: str | None = None
    is_owner: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """Somebody attached to the session."""

    session_id: str


Request = Append | Rewrite | Touch


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What became of a request; `entries` is empty where nothing was appended."""

    epoch: str
    offset: int
    entries: tuple[Entry, ...] = ()
