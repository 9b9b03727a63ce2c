"""Define the entries of a session and the requests to its log."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from connections.units import as_utc
from sessions_history import parts
from sessions_history.beginnings import Beginning
from sessions_history.chain import Mark, find_resumption
from sessions_history.models import EntryChunk, HistoryEntry
from sessions_history.stream_producers import ProducerStep

State = HistoryEntry.State
Sender = HistoryEntry.Sender

# A member of an enumeration costs a call each time it is compared or becomes text.
_DONE, _STREAMING = State.DONE.value, State.STREAMING.value
_SERVER = Sender.SERVER.value

_quote = json.JSONEncoder().encode

_TEXT, _PARTS = EntryChunk.Kind.TEXT.value, EntryChunk.Kind.PARTS.value

MESSAGE = "message"
"""The kind of an entry from a client or a responder."""

EMPTY_STREAM = '{"text":""}'


@dataclass(slots=True, kw_only=True)
class Entry:
    """One entry of a session's log; `data` is JSON text."""

    offset: int
    kind: str
    sender: str
    at: datetime
    data: str
    state: str = _DONE
    chain: str = ""
    """The links of its commits; see sessions_history.chain."""
    author: str = ""
    """The member whose message it is, as presence names it."""
    parts: str = ""
    """Its parts as in sessions_history.parts, folded once it has ended."""
    changes: str = ""
    """The changes before they were folded, if this node knows them all."""
    replaces: int | None = None
    """The answer in whose place this one stands."""

    @property
    def is_streaming(self) -> bool:
        """True while the entry grows."""
        return self.state == _STREAMING

    @property
    def text(self) -> str:
        """The text so far of a streaming entry, or the whole text of a finished one."""
        text: str = json.loads(self.data)["text"]
        return text

    def with_text(self, text: str, state: str, error: str = "") -> "Entry":
        """Return a copy with another text and state."""
        return replace(self, data=dump_stream(text, error), state=state)

    @property
    def mark(self) -> Mark | None:
        """The mark of its last commit; None if the previous release wrote it."""
        return Mark.of_entry(self.offset, self.chain)

    @property
    def resumption(self) -> int:
        """The number of the commit that resumed the entry last; 0 if none did."""
        return find_resumption(self.chain, is_streaming=self.is_streaming)

    def with_folded_parts(self) -> "Entry":
        """Return a copy with one change of each part."""
        return replace(self, parts=parts.fold(self.parts)) if self.parts else self

    def to_wire(self, mark: Mark | None = None, *, has_parts: bool = False) -> str:
        """Return the message for the client; `data` is already JSON."""
        content = ""
        if has_parts and self.parts:
            folded, count = parts.fold(self.parts), self.parts.count("\n")
            content = f'"parts":{parts.to_wire(folded)},"changes":{count},'
        chain = f'"chain":"{mark}",' if mark else ""
        author = f'"author":{_quote(self.author)},' if self.author else ""
        if self.replaces is not None:
            author += f'"replaces":{self.replaces},'
        at = as_utc(self.at).isoformat().replace("+00:00", "Z")
        return (
            f'{{"type":"entry","offset":{self.offset},"kind":{_quote(self.kind)},'
            f'"from":"{self.sender}","at":"{at}","state":"{self.state}",'
            f'{author}{chain}{content}"data":{self.data}}}'
        )


def merge_chunks(data: str, chunks: str | None) -> str:
    """Return the data of an entry with the text of its chunks, if that is longer."""
    if not chunks:
        return data
    content = json.loads(data)
    if len(chunks) <= len(content["text"]):
        return data
    return dump_stream(chunks, content.get("error", ""))


def dump_stream(text: str, error: str = "") -> str:
    """Return the data of a streaming entry; `error` says why it failed."""
    content: dict[str, Any] = {"text": text}
    if error:
        content["error"] = error
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True, kw_only=True)
class NewEntry:
    """An entry without an offset yet."""

    kind: str = MESSAGE
    sender: str
    data: str
    state: str = _DONE
    author: str = ""
    replaces: int | None = None
    """The answer in whose place this one stands."""

    @classmethod
    def stream(cls, kind: str = MESSAGE, replaces: int | None = None) -> "NewEntry":
        """Return an entry of the server that grows from nothing."""
        return cls(
            kind=kind,
            sender=_SERVER,
            data=EMPTY_STREAM,
            state=_STREAMING,
            replaces=replaces,
        )


@dataclass(slots=True, kw_only=True)
class Append:
    """
    Entries to append to one session, all or none; none only begin it.

    A key that was used before returns the earlier result and appends nothing.
    """

    session_id: str
    entries: tuple[NewEntry, ...]
    key: str = ""
    digest: str = ""
    client_id: str = ""
    """The client whose message begins an answer."""
    beginning: Beginning | None = None
    """The session to insert if it does not exist."""
    claims: Mapping[str, Any] | None = None
    """The claims of the client, for a responder on this node."""
    stored_claims: str = ""
    """The same as JSON, for a worker."""
    traceparent: str = ""
    """The trace of the request, which the work on a streaming entry continues."""
    metadata: str = ""
    """The metadata of the message as JSON, for the responder."""
    author: str = ""
    """Who asks for another answer in place of one that an entry replaces."""
    epoch: str = ""
    """The incarnation of the log in which that answer was, if it is known."""
    step: ProducerStep | None = None
    """The append of a producer of Durable Streams."""

    @property
    def is_answered(self) -> bool:
        """True if the last entry is the place of an answer, a new or another one."""
        return self.is_question or any(one.replaces for one in self.entries[-1:])

    @property
    def is_question(self) -> bool:
        """True for a message with the place of its answer."""
        return len(self.entries) > 1 and self.entries[1].state == _STREAMING


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """
    A new text or state of a streaming entry, which folds its chunks if it ends.

    Without data the content stays as it was written last. The request applies only
    while the entry streams; with is_owner only while this node streams it.
    """

    session_id: str
    offset: int
    state: str
    data: str | None = None
    parts: str = ""
    """The folded parts of an entry whose data is given."""
    is_owner: bool = True
    chain: str = ""
    """The link of the entry's append, if the writer knows it."""
    epoch: str = ""
    """The incarnation of the log that the offset belongs to, if it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """
    The next chunks of a streaming entry of this node: of its text and of its parts.

    A chunk with the same sequence number replaces the earlier one. `data` is the
    whole text so far, which is given now and then for nodes of the previous
    release, because they know no chunks.
    """

    session_id: str
    offset: int
    sequence: int
    text: str
    parts: str = ""
    """New changes of the parts."""
    data: str | None = None
    chain: str = ""
    """The link of the entry's append, if the writer knows it."""

    @property
    def chunks(self) -> list[tuple[int, str, str]]:
        """The sequence number, kind and text of each chunk."""
        found = [(_TEXT, self.text), (_PARTS, self.parts)]
        chunks = [(kind, text) for kind, text in found if text]
        return [(number, *one) for number, one in enumerate(chunks, self.sequence)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """
    The wish to go on writing an entry that was interrupted, or that nobody writes.

    It is refused while another owner holds the lease, and once the entry is done.
    """

    session_id: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A connection attached to the session."""

    session_id: str


Request = Append | Rewrite | Growth | Resume | Touch


@dataclass(slots=True, kw_only=True)
class Committed:
    """The result of a request; `entries` is empty if nothing was appended."""

    epoch: str
    offset: int
    entries: tuple[Entry, ...] = ()
    chain: str = ""
    """The links of an entry that was rewritten."""
    previous: str = ""
    """The mark of the session's commit before this one, if there was one."""
    chunks: int = 0
    """The highest sequence number of the chunks of an entry that was resumed."""
    is_behind: bool = False
    """Entries were streaming when these were appended."""
    question: Entry | None = None
    """The earlier message that an appended entry answers once more."""
    mark: str = ""
    """The newest commit of the session when it had the appended entries."""
