"""What a node knows of the sessions that its connections are attached to."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from connections.units import measure_text
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

    It may lag behind the log and lack entries: whoever misses one reads it.
    Texts only grow, so of two versions of a streaming entry the longer is newer.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.epoch: str | None = None
        """None until the session was read."""

        self.is_reset = False
        """Whether the log is another one now: whoever follows has to begin anew."""

        self.last_offset = 0
        self.growing: dict[int, Growing] = {}
        self.followers: dict[object, Callable[[], None]] = {}
        """Who is told of a change, and how."""

        self._recent: OrderedDict[int, Entry] = OrderedDict()
        self._recent_bytes = 0

    def take(self, entry: Entry) -> None:
        """Take in an entry, or a newer version of it, and tell the followers."""
        self.last_offset = max(self.last_offset, entry.offset)
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
        """Take in the text so far of an entry that streams."""
        if entry.offset in self._recent:
            return  # Read before it ended, and told only now.
        growing = self.growing.get(entry.offset)
        if growing is None:
            self.growing[entry.offset] = Growing(entry, text)
        elif len(text) > len(growing.text):
            growing.text = text
        self.notify()

    def move_to(self, last_offset: int) -> None:
        """Note that the log has entries up to an offset, and tell the followers."""
        self.last_offset = max(self.last_offset, last_offset)
        self.notify()

    def notify(self) -> None:
        """Have the followers look at what there is."""
        for wake in list(self.followers.values()):
            wake()

    def get(self, offset: int) -> Entry | None:
        """Return an entry that is final, or None where it is not at hand."""
        return self._recent.get(offset)

    def _is_over(self) -> bool:
        return len(self._recent) > _RECENT_ENTRIES or self._recent_bytes > _RECENT_BYTES
