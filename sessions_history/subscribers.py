"""Send one connection the entries of its session."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from connections import close_codes
from connections.background import make_task_context
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import LiveConnection
from connections.storage.database import Database
from sessions_history.chain import Mark, is_newer
from sessions_history.entries import Entry, State
from sessions_history.parts import find_text, to_wire
from sessions_history.reads import read_entries_after, read_entries_at
from sessions_history.tails import Tail
from sessions_history.turns import Turns

logger = get_logger(__name__)

_ENTRIES_PER_READ = 100
_MOST_REPLIES = 1000

SendText = Callable[[str], Awaitable[None]]
End = Callable[[close_codes.CloseReason], object]


class Subscriber:
    """
    Sends a connection the entries of one session that it does not have yet.

    It keeps no queue. It compares the position sent with the log, so a slow client
    costs no memory and gets the growth of a stream in one piece.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        database: Database,
        connection: LiveConnection,
        send: SendText,
        has_parts: bool = False,
        end: End | None = None,
        turns: Turns | None = None,
    ) -> None:
        """
        Prepare to send entries, with their parts or their text alone.

        Subscribers of one connection share their turns. `end` is called instead of
        connection.end() where the end of the session is not that of the connection.
        """
        self._has_parts = has_parts
        self.tail = tail
        self._database = database
        self._connection = connection
        self._send = send
        self._end_session = end or connection.end
        self._turns = turns or Turns()
        self._position: int | None = None
        # Entries up to here may be missing: the client got a gap.
        self._missing_to = 0
        # The newest commit that the client knows of.
        self._mark: Mark | None = None
        # Characters of the text and of the changes of parts that were sent of each
        # entry that was sent while it streamed, by offset.
        self._open: dict[int, tuple[int, int]] = {}
        # The resumptions that the client knows of; it reads the log after this.
        self._resumptions = tail.resumed.count
        self._replies: deque[str] = deque()
        self._end: close_codes.CloseReason | None = None
        self._is_busy = False
        self.is_closed = False
        self._is_woken = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        tail.subscribers[self] = self.wake

    async def start(
        self,
        position: int,
        *,
        mark: Mark | None = None,
        missing_to: int = 0,
        reopened: Iterable[int] = (),
    ) -> None:
        """Start after an offset, and send some unfinished entries again."""
        self._mark = mark
        self._missing_to = missing_to
        for offset in reopened:
            # One at a time, so that a slow client holds one entry in memory.
            async with self._turns:
                await self._send_again(offset)
        if self.is_closed:
            return
        self._position = position
        self.wake()

    def reply(
        self, text: str, *, ends_with: close_codes.CloseReason | None = None
    ) -> None:
        """
        Send a message to this connection alone, and end the connection after it.

        A connection that reads none is ended too.
        """
        if self.is_closed:
            return
        if self._turns.waiting_replies >= _MOST_REPLIES:
            self._give_up()
            self._connection.end(close_codes.SLOW_CONSUMER)
            return
        self._turns.waiting_replies += 1
        self._replies.append(text)
        self._end = self._end or ends_with
        self.wake()

    def wake(self) -> None:
        """Send what is due; extra calls do no harm."""
        if self._position is None or self._is_woken or self.is_closed:
            return
        self._is_woken = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._task is None:
            # One task per attached connection: a task per message would cost half
            # as much as sending.
            loop, context = asyncio.get_running_loop(), make_task_context()
            self._task = loop.create_task(self._pump(), context=context)
            self._task.add_done_callback(self._on_end)

    def close(self) -> None:
        """Detach from the session."""
        self.is_closed = True
        self.tail.subscribers.pop(self, None)
        self._position = None
        self._turns.waiting_replies -= len(self._replies)
        self._replies.clear()
        self._set_busy(False)
        # Break two reference cycles: the consumer refers to this object, and so does
        # the traceback that a cancelled task keeps.
        self._send, self._end_session = _drop, _ignore
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._is_woken:
                self._waiter = loop.create_future()
                await self._waiter
                self._waiter = None
            self._is_woken = False
            try:
                while await self._take_turn():
                    continue
            except DatabaseUnavailable as exc:
                # The check of positions wakes this task again.
                logger.warning(
                    "Entries for %s have to wait: %s",
                    self._connection.connection_id,
                    exc,
                    extra={"event": "entries_wait"},
                )

    async def _take_turn(self) -> bool:
        """Send what is due until another session waits; return False if that is all."""
        # An `async with` would cost more than the step of a short message.
        if not self._turns.acquire_nowait():
            await self._turns.acquire()
        try:
            while await self._step():
                if self._turns.is_awaited:
                    return True
            return False
        finally:
            self._turns.release()

    async def _step(self) -> bool:
        """Send the next message; return whether there was one."""
        if self.tail.is_reset:
            self._end_session(close_codes.ASKED_TO_RECONNECT)
            return False
        if self._replies:
            self._turns.waiting_replies -= 1
            await self._send(self._replies.popleft())
            return True
        if self._end is not None:
            self._end_session(self._end)
            return False
        if self.tail.is_doubted:
            return False
        if self._resumptions != self.tail.resumed.count:
            await self._send_resumed()
            return True
        for offset, sent in list(self._open.items()):
            if await self._follow(offset, sent):
                return True
        self._set_busy(bool(self._open))
        if self._position is not None and self._position < self.tail.last_offset:
            await self._advance(self._position)
            return True
        return False

    async def _send_resumed(self) -> None:
        """Send the next entry again that another producer went on with."""
        known, resumed = self._resumptions, self.tail.resumed
        offset, self._resumptions = resumed.find_next(known)
        if known < resumed.forgotten:
            self._give_up()
            self._end_session(close_codes.SLOW_CONSUMER)
            return
        if self._position is None or offset > self._position:
            return
        self._open.pop(offset, None)
        entry = self.tail.find(offset)
        if entry is None:
            await self._send_again(offset)
        else:
            await self._send_entry(entry)

    async def _send_again(self, offset: int) -> None:
        """Read an entry and send it whole; one that is gone counts as interrupted."""
        found = await self._database.read(
            read_entries_at, self.tail.session_id, [offset]
        )
        if found:
            await self._send_entry(found[0])
        else:
            await self._send_state(offset, State.INTERRUPTED)

    async def _follow(self, offset: int, sent: tuple[int, int]) -> bool:
        """Send the growth or the end of an entry that was sent unfinished."""
        characters, changed = sent
        growing = self.tail.growing.get(offset)
        if growing is not None:
            grown = await self._send_growth(offset, sent, growing.text, growing.parts)
            return grown != sent
        entry = self.tail.get(offset)
        if entry is None:
            found = await self._database.read(
                read_entries_at, self.tail.session_id, [offset]
            )
            if found:
                self.tail.take(found[0])
            else:
                # It ended and was trimmed: how it ended is not known any more.
                del self._open[offset]
                await self._send_state(offset, State.INTERRUPTED)
            return True
        del self._open[offset]
        text, changes = entry.text, entry.changes
        is_lacking = self._has_parts and (
            len(changes) < changed or (bool(entry.parts) and not changes)
        )
        if len(text) < characters or '"error":' in entry.data or is_lacking:
            await self._send(self._make_message(entry))
            return True
        last: tuple[int, int] | None = None
        while sent != last:
            last, sent = sent, await self._send_growth(offset, sent, text, changes)
        self._open.pop(offset, None)
        await self._send_state(offset, entry.state, self._move_to(entry))
        return True

    async def _send_growth(
        self, offset: int, sent: tuple[int, int], text: str, changes: str
    ) -> tuple[int, int]:
        """
        Send the text or the changes that were written next; return what is sent.

        The text before a change is sent before it: a client that shows the parts as
        they come shows them in their order.
        """
        characters, changed = sent
        end = changed
        if self._has_parts and len(changes) > changed:
            end, at_char = find_text(changes, changed)
            text = text[:at_char]
        if len(text) > characters:
            self._open[offset] = sent = (len(text), changed)
            await self._send_delta(offset, characters, text)
        elif end > changed:
            self._open[offset] = sent = (characters, end)
            await self._send_changes(offset, changed, changes[:end])
        return sent

    async def _advance(self, position: int) -> None:
        """Send the next entry from memory, or read some entries and send them."""
        next_offset = position + 1
        # An entry inside the announced gap is not sent, even if it is in memory.
        if next_offset > self._missing_to:
            entry = self.tail.find(next_offset)
            if entry is not None:
                await self._send_entry(entry)
                self._position = next_offset
                return
        count = self.tail.count_missing(next_offset, _ENTRIES_PER_READ)
        entries = await self._database.read(
            read_entries_after, self.tail.session_id, position, count
        )
        for entry in entries:
            if entry.offset > position + 1 and entry.offset - 1 > self._missing_to:
                self._give_up()
                self._end_session(close_codes.SLOW_CONSUMER)
                return
            await self._send_entry(entry)
            position = self._position = entry.offset
        if not entries and self.tail.last_offset > self._missing_to:
            self._give_up()
            self._end_session(close_codes.SLOW_CONSUMER)
        elif not entries:
            self._position = self.tail.last_offset

    async def _send_entry(self, entry: Entry) -> None:
        """Send an entry with its current text."""
        offset = entry.offset
        if entry.is_streaming:
            self.tail.grow(entry, entry.text, entry.parts)
            growing = self.tail.growing.get(offset)
            if growing is None:
                entry = self.tail.get(offset) or entry
            else:
                entry = entry.with_text(growing.text, entry.state)
                entry = replace(entry, parts=growing.parts)
                self._open[offset] = (len(growing.text), len(growing.parts))
                self._set_busy(True)
        await self._send(self._make_message(entry))

    def _make_message(self, entry: Entry) -> str:
        return entry.to_wire(self._move_to(entry), has_parts=self._has_parts)

    def _move_to(self, entry: Entry) -> Mark | None:
        """Return the mark of an entry if the client does not know of it."""
        mark = entry.mark
        if not is_newer(mark, self._mark):
            return None
        self._mark = mark
        return mark

    async def _send_delta(self, offset: int, characters: int, text: str) -> None:
        delta = {
            "type": "delta",
            "offset": offset,
            "at_char": characters,
            "text": text[characters:],
        }
        await self._send(json.dumps(delta, ensure_ascii=False))

    async def _send_changes(self, offset: int, sent: int, changes: str) -> None:
        """Send the changes of parts after so many characters of them."""
        at_change = changes.count("\n", 0, sent)
        await self._send(
            f'{{"type":"delta","offset":{offset},"at_change":{at_change},'
            f'"parts":{to_wire(changes[sent:])}}}'
        )

    async def _send_state(
        self, offset: int, state: str, mark: Mark | None = None
    ) -> None:
        message = {"type": "state", "offset": offset, "state": state}
        if mark is not None:
            message["chain"] = str(mark)
        await self._send(json.dumps(message))

    def _give_up(self) -> None:
        """Send nothing more to a connection that was too slow."""
        self._turns.waiting_replies -= len(self._replies)
        self._replies.clear()
        self._open.clear()
        self._position = self.tail.last_offset
        self._resumptions = self.tail.resumed.count

    def _set_busy(self, is_busy: bool) -> None:
        """Keep the connection from being idle while an entry streams to it."""
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            self._connection.busy_count += 1 if is_busy else -1

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        exc = task.exception()
        if exc is not None:
            logger.error(
                "Entries could not be sent to %s: %s",
                self._connection.connection_id,
                exc,
                exc_info=exc,
                extra={"event": "attachment_failed"},
            )
            self._end_session(close_codes.INTERNAL_ERROR)


async def _drop(text: str) -> None:
    """Drop a message for a connection that has detached."""


def _ignore(close_reason: close_codes.CloseReason) -> None:
    """Do nothing: the subscriber has detached."""
