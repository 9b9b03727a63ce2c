"""Keep the end of each attached session's log in memory."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from connections.passes import Passes
from connections.units import measure_text
from sessions_history.beginnings import Beginning
from sessions_history.chain import Mark, is_newer
from sessions_history.entries import Entry

_RECENT_ENTRIES = 64
_RECENT_BYTES = 256_000


@dataclass(slots=True)
class Growing:
    """An entry that streams, and its text so far."""

    entry: Entry
    text: str


class Tail:
    """
    The end of one session's log, in memory.

    A tail may lag behind the log and lack entries; a subscriber reads those from the
    database. Texts only grow, so the longer of two versions is newer.
    """

    def __init__(self, session_id: str, passes: Passes) -> None:
        self.session_id = session_id
        self._passes = passes
        self.epoch: str | None = None
        """None until the session was read."""

        self.beginning: Beginning | None = None
        """The session while it has no entry: the first one inserts it."""

        self.is_reset = False
        """True if the session has another log now, so that clients must attach anew."""

        self.last_offset = 0
        self.acked_offset = 0
        """The last offset that this node has committed."""
        self.mark: Mark | None = None
        """The newest commit that this node knows of."""
        self.growing: dict[int, Growing] = {}
        self.subscribers: dict[object, Callable[[], None]] = {}
        """The callbacks of the subscribers, called after each change."""

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
        self.learn(entry.mark)
        if entry.is_streaming:
            self.grow(entry, entry.text)
            return
        self.growing.pop(entry.offset, None)
        if entry.offset not in self._recent:
            self._recent[entry.offset] = entry
            self._recent_bytes += measure_text(entry.data)
            while self._is_over() and len(self._recent) > 1:
                _, oldest = self._recent.popitem(last=False)
                self._recent_bytes -= measure_text(oldest.data)
        self.notify()

    def grow(self, entry: Entry, text: str) -> None:
        """Add the text so far of a streaming entry."""
        if entry.offset in self._recent:
            return  # A late hint: the entry has ended.
        growing = self.growing.get(entry.offset)
        if growing is None:
            self.growing[entry.offset] = Growing(entry, text)
        elif len(text) > len(growing.text):
            growing.text = text
        self.notify()

    def extend(self, offset: int, at_char: int, text: str) -> bool:
        """Add a chunk to a streaming entry; return False if there is a hole before."""
        growing = self.growing.get(offset)
        if growing is None or at_char > len(growing.text):
            return offset in self._recent
        if at_char + len(text) > len(growing.text):
            growing.text = growing.text[:at_char] + text
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

    def learn(self, mark: Mark | None) -> None:
        """Record a commit of the log, if it is newer than the known ones."""
        if is_newer(mark, self.mark):
            self.mark = mark

    def notify(self) -> None:
        """Wake the subscribers."""
        self._passes.for_each(
            "The wake of subscribers",
            lambda wake: wake(),
            list(self.subscribers.values()),
        )

    def get(self, offset: int) -> Entry | None:
        """Return a finished entry, or None if it is not in memory."""
        return self._recent.get(offset)

    def _advance_to(self, offset: int) -> None:
        self.last_offset = max(self.last_offset, offset)
        if self.last_offset:
            self.beginning = None

    def _is_over(self) -> bool:
        return len(self._recent) > _RECENT_ENTRIES or self._recent_bytes > _RECENT_BYTES
