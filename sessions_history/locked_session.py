"""Hold the state of one session while a commit has locked its row."""

from dataclasses import dataclass, field

from sessions_history.chain import Mark
from sessions_history.entries import Growth, Rewrite


@dataclass(frozen=True, slots=True)
class OpenEntry:
    """A streaming entry; one of this commit has no id yet."""

    entry_id: int | None = None
    node_id: str | None = None
    chain: str = ""
    last_chunk: int = 0
    """The highest sequence number of its chunks."""

    def is_of(self, request: Rewrite | Growth) -> bool:
        """Return False if a request is for an entry that the log has lost."""
        return not request.chain or self.chain.startswith(request.chain)


@dataclass(slots=True)
class LockedSession:
    """A session while its row is locked."""

    client_id: str
    epoch: str
    last_offset: int
    chain: str
    is_stale: bool
    number: int = 0
    """The number of this commit, if it changes the log."""
    previous: str = ""
    """The mark of the commit before, once this one has a number."""

    open_entries: dict[int, OpenEntry] = field(default_factory=dict)
    is_used: bool = False
    has_excess: bool = False
    """Whether entries are left that only streamed beyond the limit of the history."""

    def end(self, offset: int, limit: int) -> None:
        """Record the end of a streaming entry; without a limit no entry is trimmed."""
        self.has_excess |= 0 < limit < len(self.open_entries)
        del self.open_entries[offset]

    def link(self, offset: int, tag: str) -> str:
        """Add this commit to the chain of the session; return its link."""
        if not self.number:
            before = Mark.parse(self.chain)
            self.number = before.number + 1 if before else 1
            self.previous = self.chain
        mark = Mark(self.number, offset, tag)
        self.chain = str(mark)
        return mark.link

    def find_threshold(self, limit: int) -> int:
        """
        Return the offset up to which entries are trimmed, except streaming ones.

        At most the limit remains, streaming entries included.
        """
        threshold = max(0, self.last_offset - limit)
        while True:
            kept_below = sum(offset <= threshold for offset in self.open_entries)
            if self.last_offset - threshold + kept_below <= limit:
                return threshold
            if threshold >= self.last_offset:
                return threshold
            threshold += 1
