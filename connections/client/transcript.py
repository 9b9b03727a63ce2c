"""Hold a client's copy of a session, and derive what it has to ask for."""

from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from connections.parts import Change, add_texts, merge


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a session's log, as the server sent it."""

    offset: int
    kind: str
    sender: str
    """`client` or `server`."""
    at: str
    data: Any
    state: str
    author: str = ""
    """The member whose message it is, such as `user:5`; empty for the server's."""
    replaces: int | None = None
    """The answer in whose place this one stands: it was regenerated."""
    changes: int = field(default=0, compare=False)
    """How many changes of its parts the server has told of, while it grows."""
    merged: tuple[Change, ...] = ()
    """The parts as the server sends them: a text part has a position, not its text."""

    @property
    def parts(self) -> list[Change]:
        """
        The parts of an answer in their order, each a dictionary with `id` and `type`.

        Those of the type `text` have a part each of the text. An answer of text alone,
        or of a server that knows no parts, has one.
        """
        return add_texts(self.merged, self.text)

    @property
    def text(self) -> str:
        """The text of a streaming entry."""
        text = self.data.get("text") if isinstance(self.data, dict) else None
        return text if isinstance(text, str) else ""

    @property
    def is_streaming(self) -> bool:
        """True while the entry grows."""
        return self.state == "streaming"


def read_entry(message: dict[str, Any]) -> Entry:
    """Return the entry that a message of the server holds."""
    return Entry(
        offset=message["offset"],
        kind=message["kind"],
        sender=message["from"],
        at=message["at"],
        data=message["data"],
        state=message["state"],
        author=message.get("author", ""),
        replaces=message.get("replaces"),
        changes=message.get("changes", 0),
        merged=tuple(message.get("parts", ())),
    )


_MOST_ACKED = 20
"""The server takes so many commits of acks."""


class Transcript:
    """
    A session's entries, in order and each once.

    Offsets count from 1 without holes within an epoch. An entry that arrives again
    replaces the earlier one.
    """

    def __init__(self, limit: int) -> None:
        self.epoch: str | None = None
        self.last = 0
        """The last offset without a hole before it."""
        self.chain: str | None = None
        """The server's name of the newest commit that it has told of."""
        self._acked: list[tuple[int, str]] = []
        """Acks of entries that have not arrived: the offset and the commit."""
        self.lost: list[Entry] = []
        """Streaming entries whose end the gap of the last hello took away."""
        self._limit = limit
        self._trimmed_to = 0
        """Entries up to this offset may be trimmed."""
        self._entries: dict[int, Entry] = {}

    @property
    def entries(self) -> list[Entry]:
        """The entries by offset."""
        return [self._entries[offset] for offset in sorted(self._entries)]

    @property
    def position(self) -> str:
        """Return the claim of a reconnecting client, as a query string."""
        if self.epoch is None:
            return ""
        query = {"epoch": self.epoch, "offset": self.last}
        if self.chain is not None:
            query["chain"] = self.chain
        acked = [chain for offset, chain in self._acked if offset > self.last]
        if acked:
            query["acked"] = ",".join(acked)
        growing = [entry.offset for entry in self.entries if entry.is_streaming]
        if growing:
            query["open"] = ",".join(map(str, growing))
        return urlencode(query)

    def begin(self, hello: dict[str, Any]) -> bool:
        """Apply a hello; return True if all held entries are void."""
        is_known = self.epoch is not None
        is_void = is_known and (
            hello["outcome"] == "reset" or hello["epoch"] != self.epoch
        )
        gap = hello["gap"]
        self.lost = []
        self._trimmed_to = gap[1] if gap else 0
        if is_void or not is_known:
            self._entries.clear()
            self.last = 0
            self.chain = None
            self._acked.clear()
            self._trimmed_to = hello["offset"]
        elif gap:
            # No entry follows a gap that reaches the end.
            if gap[1] >= hello["offset"]:
                self.last = gap[1]
            for entry in self.entries:
                if entry.is_streaming and gap[0] <= entry.offset <= gap[1]:
                    settled = replace(entry, state="interrupted")
                    self._entries[entry.offset] = settled
                    self.lost.append(settled)
        self.epoch = hello["epoch"]
        self._move_to(hello)
        return is_void

    def confirm(self, ack: dict[str, Any]) -> None:
        """Keep the commit of an ack until its entry arrives: both may be lost."""
        ahead = [one for one in self._acked if one[0] > self.last]
        if ack.get("chain") and ack["offset"] > self.last:
            ahead.append((ack["offset"], ack["chain"]))
        self._acked = ahead[-_MOST_ACKED:]

    def put(self, message: dict[str, Any]) -> Entry | None:
        """Add an entry; return None if an earlier one is missing."""
        entry = read_entry(message)
        if entry.offset > self.last:
            if entry.offset > max(self.last, self._trimmed_to) + 1:
                return None
            self.last = entry.offset
        self._entries[entry.offset] = entry
        self._move_to(message)
        self._trim()
        return entry

    def extend(self, delta: dict[str, Any]) -> Entry | None:
        """Add a delta to an entry; return None if it does not fit."""
        entry = self._entries.get(delta["offset"])
        if entry is None or not entry.is_streaming:
            return None
        if "parts" in delta:
            if entry.changes != delta["at_change"]:
                return None
            grown = replace(
                entry,
                changes=entry.changes + len(delta["parts"]),
                merged=tuple(merge([*entry.merged, *delta["parts"]])),
            )
        elif len(entry.text) != delta["at_char"]:
            return None
        else:
            text = entry.text + delta["text"]
            grown = replace(entry, data={**entry.data, "text": text})
        self._entries[entry.offset] = grown
        return grown

    def settle(self, message: dict[str, Any]) -> Entry | None:
        """
        Record the end of a stream.

        Returns None if the entry is not held, or has ended so before.
        """
        self._move_to(message)
        entry = self._entries.get(message["offset"])
        if entry is None or entry.state == message["state"]:
            return None
        settled = replace(entry, state=message["state"])
        self._entries[entry.offset] = settled
        return settled

    def _move_to(self, message: dict[str, Any]) -> None:
        """Keep the chain of a message, which servers of the first release omit."""
        self.chain = message.get("chain") or self.chain

    def _trim(self) -> None:
        for offset in list(self._entries):
            if len(self._entries) <= self._limit:
                return
            if not self._entries[offset].is_streaming:
                del self._entries[offset]
