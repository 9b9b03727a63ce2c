"""What the log of each session is known to hold, and whether it keeps to that."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sessions_history.entries import Entry
from sessions_history.reads import read_entries_after, read_positions
from tests.simulation.answers import PLANS, Answering, is_text_of
from tests.simulation.pages import Broken, Held, Page

HISTORY_LIMIT = 8
MAX_OPEN_STREAMS = 5

_LONG_CHARACTERS = 300  # A longer answer may have reached its time-out.
_STOP_SECONDS = 4
"""How long a stopped answer may go on: two seconds, and the way to its node."""


@dataclass(slots=True)
class Known:
    """What the log of a session is known to hold, by offset."""

    entries: dict[int, Entry] = field(default_factory=dict)
    last_offset: int = 0
    streaming: set[int] = field(default_factory=set)
    """The offsets that streamed when the log was read."""

    def copy(self) -> "Known":
        return Known(dict(self.entries), self.last_offset, set(self.streaming))


class Oracle:
    """
    Knows what the logs and the pages may hold, and compares.

    Each check raises Broken if something does not hold.
    """

    def __init__(self, calls: list[Answering], now: Callable[[], float]) -> None:
        self.calls = calls
        self.pages: list[Page] = []
        self.messages: dict[int, str] = {}
        """The plan of each message, by its number."""
        self.known: dict[str, Known] = {}
        self.travels = 0
        self.disturbances = 0
        """Crashes, outages and lost replies, after which an answer may begin anew."""
        self.cancelled: set[tuple[str, int]] = set()
        """(session_id, offset) of the answers that a page stopped."""
        self.stopped_at: dict[tuple[str, int], float] = {}
        self._now = now

    def disturb(self) -> None:
        """Count a fault, which may also lose what was asked before."""
        self.disturbances += 1
        self.stopped_at.clear()

    def stop(self, session_id: str, offset: int) -> None:
        """Expect an answer to end soon."""
        self.stopped_at.setdefault((session_id, offset), self._now())

    def check_pages(self) -> None:
        """Check that no page got what it may not get."""
        for page in self.pages:
            if page.problems:
                raise Broken("; ".join(page.problems))
            if page.session != "new" and not page.is_gone:
                self.known.setdefault(page.session, Known())

    def check_logs(self) -> None:
        """Compare the logs with what was known of them, and learn."""
        positions, _ = read_positions(list(self.known))
        for session_id, position in positions.items():
            rows = read_entries_after(session_id, 0, 10_000)
            self._compare(session_id, rows, position.last_offset)
        for page in self.pages:
            if page.is_gone and page.session in positions and not self.travels:
                raise Broken(f"{page.name} was told that its session does not exist")

    def _compare(self, session_id: str, rows: list[Entry], last_offset: int) -> None:
        """Compare the log of a session with what was known of it, and learn."""
        known = self.known[session_id]
        if last_offset < known.last_offset:
            raise Broken(f"the log ends at {last_offset}, before {known.last_offset}")
        # An answer that streams is kept in the place of a later entry, which does not
        # come back when the answer has ended and is trimmed.
        most = min(last_offset, HISTORY_LIMIT)
        if not most - MAX_OPEN_STREAMS <= len(rows) <= most:
            raise Broken(f"{len(rows)} entries of {last_offset} are kept")
        if lost := self._find_trimmed(session_id, known, rows):
            raise Broken(f"{lost} stream, and are not kept")
        known.streaming = {row.offset for row in rows if row.is_streaming}
        if len(known.streaming) > MAX_OPEN_STREAMS:
            raise Broken("too many entries stream")
        for row in rows:
            before = known.entries.get(row.offset)
            if before is not None:
                self._compare_entry(before, row)
            elif row.offset <= known.last_offset:
                raise Broken(f"{row.offset} appeared below {known.last_offset}")
            known.entries[row.offset] = row
            if row.sender == "server":
                self._check_end(session_id, row)
        known.last_offset = last_offset
        rows = [row for row in known.entries.values() if row.sender == "client"]
        numbers = [_read(row)["number"] for row in rows]
        if len(numbers) != len(set(numbers)):
            raise Broken(f"a message was appended twice: {numbers}")
        for offset, row in known.entries.items():
            if row.sender == "server":
                self._check_answer(known, offset, row)

    def _find_trimmed(
        self, session_id: str, known: Known, rows: list[Entry]
    ) -> list[int]:
        """Return missing entries whose answers nobody ended."""
        answered = {call.number for call in self.calls if call.is_undisturbed}
        gone = known.streaming - {row.offset for row in rows}
        return [
            offset
            for offset in gone
            if (session_id, offset) not in self.cancelled
            and len(known.entries[offset].text) <= _LONG_CHARACTERS
            and (message := known.entries.get(offset - 1)) is not None
            and _read(message)["number"] in answered
        ]

    def _check_end(self, session_id: str, row: Entry) -> None:
        """Check that an answer was ended by somebody who may end it."""
        was_cancelled = (session_id, row.offset) in self.cancelled
        if row.state == "cancelled" and not was_cancelled:
            raise Broken(f"{row.offset} is cancelled, and no client asked for it")
        is_late = len(row.text) > _LONG_CHARACTERS
        if row.state == "interrupted" and not self.disturbances and not is_late:
            raise Broken(f"{row.offset} is interrupted, and nothing disturbed it")

    def _compare_entry(self, before: Entry, row: Entry) -> None:
        if not before.is_streaming and (before.data, before.state) != (
            row.data,
            row.state,
        ):
            raise Broken(f"{row.offset} changed after its end: {before} to {row}")
        if before.is_streaming and not row.text.startswith(before.text):
            raise Broken(f"{row.offset} lost text: {before.text!r} to {row.text!r}")

    def _check_answer(self, known: Known, offset: int, row: Entry) -> None:
        """Check the text of an answer against the plan of its message."""
        message = known.entries.get(offset - 1)
        if message is None:
            return
        number = _read(message)["number"]
        plan = PLANS[self.messages[number]]
        is_whole = row.state == "done"
        if not is_text_of(number, plan, row.text, is_whole=is_whole):
            raise Broken(
                f"the answer {offset} to {number} is {row.text!r}: {row.state}"
            )
        if is_whole and plan.failure is not None:
            raise Broken(f"the failed answer {offset} is done")

    def check_stopped(self) -> None:
        """Check that no answer goes on for long after its cancel."""
        for (session_id, offset), at in self.stopped_at.items():
            is_streaming = offset in self.known[session_id].streaming
            if is_streaming and self._now() > at + _STOP_SECONDS:
                raise Broken(f"{offset} streams {self._now() - at} s after its cancel")

    def find_deserted(self) -> set[tuple[str, int]]:
        """
        Return (session_id, offset) of the entries that stream without a writer.

        An answer has none while it waits for an earlier one of its session.
        """
        written = {
            call.number
            for call in self.calls
            if call.is_open and not call.responder.is_dead
        }
        return {
            (session_id, offset)
            for session_id, known in self.known.items()
            for offset in sorted(known.streaming)[:1]
            if (message := known.entries.get(offset - 1)) is not None
            and _read(message)["number"] not in written
        }

    def check_calls(self) -> None:
        """Check that responders are asked once, and end with their answers."""
        calls = Counter(call.number for call in self.calls)
        for number, count in calls.items():
            if count > 1 + self.disturbances:
                raise Broken(f"the responder was asked {count} times for {number}")
        for call in self.calls:
            plan = PLANS[self.messages[call.number]]
            is_over = not call.is_open or call.responder.is_dead or plan.swallows
            if not is_over:
                raise Broken(f"the responder still answers {call.number}")

    def check_page(self, page: Page) -> None:
        """Check that a connected page holds what the log holds."""
        if not page.is_open:
            raise Broken(f"{page.name} is not connected")
        if page.waiting:
            raise Broken(f"{page.name} waits for {page.waiting}")
        known = self.known[page.session]
        rows = read_entries_after(page.session, 0, 10_000)
        if page.position != known.last_offset:
            raise Broken(f"{page.name} is at {page.position}, not {known.last_offset}")
        for row in rows:
            if row.is_streaming:
                raise Broken(f"{row.offset} streams for ever")
            held = page.entries.get(row.offset)
            if held is None:
                if row.offset not in page.missed:
                    raise Broken(f"{page.name} was never sent {row.offset}")
            elif (held.data, held.state) != (_read(row), row.state):
                raise Broken(f"{page.name} holds {held}, the log {row}")
        for offset, held in page.entries.items():
            if held.state == "streaming":
                raise Broken(f"{offset} of {page.name} is written for ever")
            was = known.entries.get(offset)
            if was is not None and held.state != "lost" and not _is_told(held, was):
                raise Broken(f"{page.name} holds {held}, the log held {was}")
        for message_id, offset in page.acked.items():
            entry = known.entries.get(offset)
            if entry is None:
                # Entries that stream are kept in the place of others.
                if offset > known.last_offset - HISTORY_LIMIT + MAX_OPEN_STREAMS:
                    raise Broken(f"{message_id} was acked at {offset} and is missing")
            elif _read(entry) != page.sent[message_id]:
                raise Broken(f"{message_id} was acked at {offset}, which is {entry}")


def _is_told(held: Held, was: Entry) -> bool:
    """Return True if a page may hold this of an entry that was trimmed."""
    if held.sender != "server":
        return bool(held.data == _read(was))
    if held.state == "interrupted" or was.is_streaming:
        # It was trimmed before the page got its end, or before the log was read.
        return was.text.startswith(held.text) or held.text.startswith(was.text)
    return bool(held.data == _read(was))


def _read(entry: Entry) -> Any:
    """Return the payload of an entry."""
    return json.loads(entry.data)
