"""Keep the end of each attached session's log in memory."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import call

from connections.passes import Passes
from connections.units import measure_text
from sessions_history.beginnings import Beginning
from sessions_history.chain import Mark, is_other_entry
from sessions_history.entries import Entry
from sessions_history.known_commits import Compared, KnownCommits
from sessions_history.parts import fold
from sessions_history.reads import Position

_RECENT_ENTRIES = 64
_RECENT_BYTES = 256_000
_MOST_RESUMPTIONS = 1000


@dataclass(slots=True)
class Growing:
    """An entry that streams, and its text and the changes of its parts so far."""

    entry: Entry
    text: str
    parts: str = ""


@dataclass(frozen=True, slots=True)
class KnownPosition:
    """What a tail knew before the positions were read: it may move on meanwhile."""

    last_offset: int
    commits: Compared
    is_provisional: bool


class Resumptions:
    """The last thousand entries with which producers went on, as a tail learned it."""

    def __init__(self) -> None:
        self.count = 0
        """How many were learned in all."""
        self.forgotten = 0
        """How many were learned up to the last one that was forgotten."""
        # The number of the commit, and the count then, by offset.
        self._kept: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def get(self, offset: int) -> int:
        """Return the number of the commit that resumed an entry last; 0 if none did."""
        return self._kept.get(offset, (0, 0))[0]

    def add(self, offset: int, number: int) -> None:
        """Record that a commit resumed an entry."""
        self.count += 1
        self._kept[offset] = (number, self.count)
        self._kept.move_to_end(offset)
        if len(self._kept) > _MOST_RESUMPTIONS:
            _, (_, self.forgotten) = self._kept.popitem(last=False)

    def find_next(self, count: int) -> tuple[int, int]:
        """Return the offset of the first entry after so many, and the count with it."""
        found = (0, count)
        for offset, (_, its_count) in reversed(self._kept.items()):
            if its_count <= count:
                break
            found = (offset, its_count)
        return found


class Tail:
    """
    The end of one session's log, in memory.

    A tail may lag behind the log and lack entries; a subscriber reads those from the
    database. Texts and changes only grow: the longer of two versions is newer.

    While its log is in doubt, subscribers wait: the owner reads the log at on_doubt().
    """

    def __init__(
        self, session_id: str, passes: Passes, *, on_doubt: Callable[["Tail"], None]
    ) -> None:
        self.session_id = session_id
        self._passes = passes
        self._on_doubt = on_doubt
        self.epoch: str | None = None
        """None until the session was read."""

        self.beginning: Beginning | None = None
        """The session while it has no entry: the first one inserts it."""

        self.is_reset = False
        """True if the session has another log now, so that clients must attach anew."""

        self.owner_id = ""
        """The client id of the owner, as the last check of positions read it."""

        self.last_offset = 0
        self.growing: dict[int, Growing] = {}
        self.resumed = Resumptions()
        self.subscribers: dict[object, Callable[[], None]] = {}
        """The callbacks of the subscribers, called after each change."""

        self.is_doubted = False
        """True if the log may be another one by now, which a read has to tell."""

        self._commits = KnownCommits()
        self._recent: OrderedDict[int, Entry] = OrderedDict()
        self._recent_bytes = 0

    def begin(self, beginning: Beginning) -> str:
        """Make the session provisional if nothing of it is known; return its epoch."""
        if self.epoch is None and not self.last_offset:
            self.beginning = beginning
        return self.epoch or beginning.epoch

    def take(self, entry: Entry) -> None:
        """Add an entry or its newer version, and notify the subscribers."""
        self._advance_to(entry.offset)
        self._commits.learn_newer(entry.mark)
        self._report_doubt()
        self._add(entry)
        self.notify()

    def take_appended(self, entries: Sequence[Entry], previous: str) -> None:
        """Add the entries that a commit appended, which names the one before it."""
        self.learn(entries[-1].mark, Mark.parse(previous), entries[0].offset)
        self._advance_to(entries[-1].offset)
        for entry in entries:
            self._add(entry)
        self.notify()

    def grow(self, entry: Entry, text: str, parts: str = "") -> None:
        """Add the text and the changes of parts so far of a streaming entry."""
        if entry.offset in self._recent:
            return  # A late hint: the entry has ended.
        growing = self.growing.get(entry.offset)
        if entry.resumption < self.resumed.get(entry.offset):
            return  # The text of a producer that has lost its lease.
        if growing is None or is_other_entry(growing.entry.chain, entry.chain):
            self.growing[entry.offset] = Growing(entry, text, parts)
        else:
            growing.text = max(growing.text, text, key=len)
            growing.parts = max(growing.parts, parts, key=len)
        self.notify()

    def grow_unwritten(self, entry: Entry, text: str, parts: str) -> None:
        """
        Add the content of a stream of this node, which the log may lack yet.

        A stream may outlive its log: the database went back in time, and another
        entry has its offset now.
        """
        growing = self.growing.get(entry.offset)
        if growing is None or not is_other_entry(growing.entry.chain, entry.chain):
            self.grow(entry, text, parts)

    def extend(self, offset: int, at_char: int, text: str) -> bool:
        """Add a chunk to a streaming entry; return False if there is a hole before."""
        growing = self.growing.get(offset)
        if growing is None or at_char > len(growing.text):
            return offset in self._recent
        if at_char + len(text) > len(growing.text):
            growing.text = growing.text[:at_char] + text
            self.notify()
        return True

    def extend_parts(self, offset: int, at_char: int, changes: str) -> bool:
        """Add changes of parts as extend() adds text."""
        growing = self.growing.get(offset)
        if growing is None or at_char > len(growing.parts):
            return offset in self._recent
        if at_char + len(changes) > len(growing.parts):
            growing.parts = growing.parts[:at_char] + changes
            self.notify()
        return True

    def lose(self, offset: int) -> None:
        """Forget a streaming entry that ended and was trimmed, and notify."""
        if self.growing.pop(offset, None) is not None:
            self.notify()

    def move_to(self, last_offset: int) -> None:
        """Record the last offset of the log, and notify the subscribers."""
        self._advance_to(last_offset)
        self.notify()

    def learn(
        self, mark: Mark | None, previous: Mark | None = None, appended: int = 0
    ) -> None:
        """Record a commit, the one before it and the first offset that it appended."""
        is_repeated = 0 < appended <= self.last_offset
        self._commits.learn(mark, previous, is_repeated=is_repeated)
        self._report_doubt()

    def confirm(self, known: KnownPosition, position: Position) -> None:
        """Record that the log had all that was known, and its position then."""
        self.owner_id = position.owner_id
        self._commits.confirm(known.commits, position.mark)
        self.is_doubted = self._commits.is_doubted

    def get_known(self) -> KnownPosition:
        """Return what is known now, to compare it with the log."""
        return KnownPosition(
            last_offset=self.last_offset,
            commits=self._commits.get(),
            is_provisional=self.beginning is not None,
        )

    def notify(self) -> None:
        """Wake the subscribers."""
        self._passes.for_each(
            "The wake of subscribers", call, list(self.subscribers.values())
        )

    def get(self, offset: int) -> Entry | None:
        """Return a finished entry, or None if it is not in memory."""
        return self._recent.get(offset)

    def count_missing(self, offset: int, most: int) -> int:
        """Return how many entries from an offset on memory lacks, `most` at most."""
        oldest = next((one for one in self._recent if one > offset), offset + most)
        return min(most, oldest - offset)

    def find(self, offset: int) -> Entry | None:
        """Return an entry, finished or growing, or None if it is not in memory."""
        growing = self.growing.get(offset)
        return growing.entry if growing is not None else self.get(offset)

    def _add(self, entry: Entry) -> None:
        self._take_resumption(entry)
        if entry.is_streaming:
            self.grow(entry, entry.text, entry.parts)
            return
        growing = self.growing.pop(entry.offset, None)
        if entry.offset not in self._recent:
            if growing is not None and fold(growing.parts) == entry.parts:
                entry = replace(entry, changes=growing.parts)
            self._recent[entry.offset] = entry
            self._recent_bytes += _measure(entry)
            while self._is_over() and len(self._recent) > 1:
                _, oldest = self._recent.popitem(last=False)
                self._recent_bytes -= _measure(oldest)

    def _report_doubt(self) -> None:
        self.is_doubted = self._commits.is_doubted
        if self.is_doubted:
            self._on_doubt(self)

    def _take_resumption(self, entry: Entry) -> None:
        """Forget the text of an entry that another producer went on with."""
        offset, number = entry.offset, entry.resumption
        if number and number > self.resumed.get(offset):
            self.resumed.add(offset, number)
            self.growing.pop(offset, None)
            former = self._recent.pop(offset, None)
            if former is not None:
                self._recent_bytes -= _measure(former)

    def _advance_to(self, offset: int) -> None:
        self.last_offset = max(self.last_offset, offset)
        if self.last_offset:
            self.beginning = None

    def _is_over(self) -> bool:
        return len(self._recent) > _RECENT_ENTRIES or self._recent_bytes > _RECENT_BYTES


def _measure(entry: Entry) -> int:
    size_bytes = measure_text(entry.data)
    if entry.parts or entry.changes:
        size_bytes += measure_text(entry.parts + entry.changes)
    return size_bytes
