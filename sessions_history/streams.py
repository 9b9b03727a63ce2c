"""Write entries that grow while clients watch."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from connections.exceptions import DatabaseUnavailable
from connections.parts import TEXT
from sessions_history.entries import (
    Committed,
    Entry,
    Growth,
    Rewrite,
    State,
)
from sessions_history.exceptions import (
    ChunksLost,
    LogFull,
    SessionNotFound,
    SessionsError,
    StreamEnded,
)
from sessions_history.group_commit import GroupCommit
from sessions_history.parts import Part, PartsLog, fold, read_parts
from sessions_history.payloads import clean_text
from sessions_history.responders import ResponderFailed

logger = logging.getLogger(__name__)

WRITE_SECONDS = 0.2
_RETRY_SECONDS = 0.5
_FORCE_SECONDS = 1.5
"""How long a task may take to leave the block of an ended stream."""
_SETTLE_SECONDS = 5.0

_MOST_ERROR_CHARACTERS = 1000
"""How much of the text of a ResponderFailed a client gets."""

_TOO_LONG = "its text is longer than max_message_size"
_TOO_LATE = "it took longer than sessions.stream_timeout_seconds"
_REASONS = {State.CANCELLED.value: "it was cancelled, or it ended elsewhere"}

OnGrowth = Callable[[str, Entry, str, str], None]
OnWritten = Callable[[str, Entry, str | None], None]
OnChunks = Callable[[str, Growth, tuple[int, int]], None]
OnEnded = Callable[[str, int], None]
OnLeak = Callable[["Stream", "asyncio.Task[object]"], None]


class Stream:
    """
    A text, and other parts, that grow in one entry; use it with `async with`.

    The entry ends with the block: as `done`, as `error` if the block raises, as
    `interrupted` if its task is cancelled or takes too long. If a client cancels
    it, or another node has ended it, the block is left by StreamEnded. A task that
    swallows its cancellation is reported by on_leak: finish() ends the entry then.
    """

    def __init__(
        self,
        session_id: str,
        entry: Entry,
        *,
        commits: GroupCommit,
        max_characters: int,
        timeout_seconds: float,
        on_growth: OnGrowth,
        on_chunks: OnChunks,
        on_written: OnWritten,
        on_ended: OnEnded,
        on_leak: OnLeak,
        written_chunks: int = 0,
        epoch: str = "",
    ) -> None:
        self.session_id = session_id
        self.entry = entry
        self.epoch = epoch
        """The epoch of the log when the stream began."""
        self.text = entry.text
        """The text so far; of a stream that was resumed, with its former text."""

        self._commits = commits
        self._max_characters = max_characters
        self._timeout_seconds = timeout_seconds
        self._on_growth = on_growth
        self._on_chunks = on_chunks
        self._on_written = on_written
        self._on_ended = on_ended
        self._on_leak = on_leak
        # The first half of a surrogate pair whose second half has not arrived.
        self._held_back = ""
        self._parts = PartsLog(entry.parts)
        self._written_characters = self._whole_characters = len(self.text)
        self._written_changes = len(entry.parts)
        self._written_chunks = written_chunks
        self._written_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pauses = 0
        self._forcing: asyncio.TimerHandle | None = None
        self._is_finished = False
        self._writing: asyncio.Future[Committed] | None = None
        self._task: asyncio.Task[object] | None = None
        self._ended_as: str | None = None
        self._has_ended = asyncio.Event()
        self._is_settled = asyncio.Event()
        self._end_reason = ""

    @property
    def offset(self) -> int:
        """The position of the entry in its session."""
        return self.entry.offset

    @property
    def is_cancelled(self) -> bool:
        """True once nobody needs the rest: a client stopped it, or it has ended."""
        return self._has_ended.is_set()

    def require_open(self) -> None:
        """
        Check that the stream goes on.

        Raises:
            StreamEnded: it has ended.
        """
        if self._ended_as is not None:
            raise StreamEnded(self._end_reason)

    @property
    def task(self) -> "asyncio.Task[object] | None":
        """The task within the block."""
        return self._task

    async def cancelled(self) -> None:
        """Wait until is_cancelled is True."""
        await self._has_ended.wait()

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts so far, as dictionaries of their fields with `id` and `type`."""
        return read_parts(self._parts.changes, self.text)

    async def write(self, piece: str | Part) -> None:
        """
        Append to the text, or to a part; connections of this node see it at once.

        It is committed within 200 ms; otherwise the next call waits.

        Raises:
            StreamEnded: it was cancelled, or its content is too long.
            ValueError: the id of a part is that of another part.
        """
        self.require_open()
        if isinstance(piece, Part) and piece.type != TEXT:
            is_too_long = not self._parts.add(piece, self._room)
        else:
            is_too_long = self._append(piece)
        changes = self._parts.changes
        self._on_growth(self.session_id, self.entry, self.text, changes)
        if is_too_long:
            self.end_as(State.INTERRUPTED, _TOO_LONG)
        self._write_soon()
        if self._writing is not None and self._is_far_ahead():
            await asyncio.wait([self._writing])
        await asyncio.sleep(0)

    @property
    def _room(self) -> int:
        return max(0, self._max_characters - len(self.text) - self._parts.size)

    def _append(self, piece: str | Part) -> bool:
        """Append to the text; return True if it has become too long."""
        part = piece if isinstance(piece, Part) else None
        text = str(piece.fields.get("text", "") if isinstance(piece, Part) else piece)
        begins_text = part is not None or (self._parts.changes and text)
        if begins_text and not self._parts.add_text(part, len(self.text), self._room):
            return True
        text = self._held_back + text
        self._held_back = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held_back = text[:-1], text[-1]
        room = self._room
        self.text += clean_text(text)[:room]
        return len(text) > room

    def end_as(self, state: str, reason: str = "") -> bool:
        """End the entry with a state and leave the block; False if it had ended."""
        if self._ended_as is not None:
            return False
        self._ended_as = state
        self._end_reason = reason or _REASONS.get(state, "")
        self._has_ended.set()
        if self._task is not None:
            self._task.cancel()
            loop = asyncio.get_running_loop()
            self._forcing = loop.call_later(_FORCE_SECONDS, self._report_leak)
        return True

    def abandon(self) -> None:
        """Leave the block, but not the entry: another producer goes on with it."""
        self._is_finished = True
        self._is_settled.set()
        self.end_as(State.INTERRUPTED, "another node goes on with it")

    async def flush(self) -> None:
        """Wait until the content so far is committed, or the stream has ended."""
        while self._ended_as is None and self._count_unwritten():
            self._write_soon()
            if self._writing is not None:
                await asyncio.wait([self._writing])
            else:
                await asyncio.sleep(WRITE_SECONDS / 4)

    async def settled(self) -> None:
        """
        Wait until the end of an ended stream is committed, or left to another node.

        Raises:
            DatabaseUnavailable: that took longer than 5 s.
        """
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._is_settled.wait()
        except TimeoutError as exc:
            raise DatabaseUnavailable("the end of a stream is not committed") from exc

    async def finish(self) -> None:
        """End the entry of an ended stream whose task does not leave the block."""
        self._is_finished = True
        await self._finish(self._ended_as or State.INTERRUPTED, "")

    @contextmanager
    def without_deadline(self) -> Iterator[None]:
        """Stop the time limit within some blocks; afterwards it begins anew."""
        self._pauses += 1
        self._stop_deadline()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses and not self.is_cancelled:
                self._start_deadline()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._start_deadline()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        for timer in (self._deadline, self._timer, self._forcing):
            if timer is not None:
                timer.cancel()
        error = ""
        if self._ended_as is not None:
            state = self._ended_as
        elif exc is None:
            state = State.DONE
        elif isinstance(exc, Exception):
            state = State.ERROR
            is_told = isinstance(exc, ResponderFailed)
            error = str(exc)[:_MOST_ERROR_CHARACTERS] if is_told else "internal error"
        else:
            state = State.INTERRUPTED
        was_asked = self._ended_as is not None
        self._ended_as = state
        self._end_reason = self._end_reason or "its block was left"
        self._has_ended.set()
        if was_asked and isinstance(exc, asyncio.CancelledError) and task is not None:
            task.uncancel()
        if not self._is_finished:
            await self._finish(state, clean_text(error))
        if was_asked and (exc is None or isinstance(exc, asyncio.CancelledError)):
            raise StreamEnded(self._end_reason) from exc

    def _start_deadline(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(
            self._timeout_seconds, self.end_as, State.INTERRUPTED, _TOO_LATE
        )

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _report_leak(self) -> None:
        if self._task is not None:
            self._on_leak(self, self._task)

    async def _finish(self, state: str, error: str) -> None:
        """Commit the whole text and the state; wait while the database is away."""
        text = self.text + clean_text(self._held_back)
        entry = self.entry.with_text(text, state, error)
        entry = replace(entry, parts=fold(self._parts.changes))
        while True:
            try:
                committed = await self._commits.submit(
                    Rewrite(
                        session_id=self.session_id,
                        offset=entry.offset,
                        state=entry.state,
                        data=entry.data,
                        parts=entry.parts,
                        chain=entry.chain,
                    )
                )
                break
            except (StreamEnded, SessionNotFound):
                # By another node, or by a commit of this one whose reply was lost.
                self._is_settled.set()
                self._on_ended(self.session_id, entry.offset)
                return
            except (DatabaseUnavailable, LogFull):
                await asyncio.sleep(_RETRY_SECONDS)
        self._is_settled.set()
        ended = replace(entry, chain=committed.chain)
        self._on_written(self.session_id, ended, committed.previous)

    def _write_soon(self) -> None:
        if self._timer is not None or self._writing is not None:
            return
        if not self._count_unwritten():
            return
        wait_seconds = self._written_at + WRITE_SECONDS - time.monotonic()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0, wait_seconds), self._write_now)

    def _write_now(self) -> None:
        self._timer = None
        if self._ended_as is not None:
            return
        self._written_at = time.monotonic()
        # The whole text is written each time that it has doubled: all these texts
        # together are at most twice as long as the last.
        whole = None
        if len(self.text) >= 2 * self._whole_characters:
            whole = self.entry.with_text(self.text, State.STREAMING)
            # A node that attaches meanwhile knows neither: text alone would seem to
            # belong to the parts before it.
            whole = replace(whole, parts=self._parts.changes)
        growth = Growth(
            session_id=self.session_id,
            offset=self.entry.offset,
            sequence=self._written_chunks + 1,
            text=self.text[self._written_characters :],
            parts=self._parts.changes[self._written_changes :],
            data=whole.data if whole else None,
            chain=self.entry.chain,
        )
        try:
            self._writing = self._commits.submit(growth)
        except LogFull:
            self._write_soon()
            return
        self._writing.add_done_callback(
            lambda done: self._finish_write(done, growth, whole)
        )

    def _finish_write(
        self, done: "asyncio.Future[Committed]", growth: Growth, whole: Entry | None
    ) -> None:
        self._writing = None
        if done.cancelled():
            return
        exc = done.exception()
        if exc is None:
            at = (self._written_characters, self._written_changes)
            self._written_characters += len(growth.text)
            self._written_changes += len(growth.parts)
            self._written_chunks += len(growth.chunks)
            if whole is not None:
                self._whole_characters = self._written_characters
                self._on_written(self.session_id, whole, None)
            if whole is None or growth.parts:
                self._on_chunks(self.session_id, growth, at)
        elif isinstance(exc, ChunksLost):
            # The end writes the whole text.
            self.end_as(State.INTERRUPTED)
            return
        elif isinstance(exc, SessionsError):
            # Cancelled on another node, or deleted: nothing more is written.
            self.end_as(State.CANCELLED)
            return
        if self._ended_as is None:
            self._write_soon()

    def _is_far_ahead(self) -> bool:
        return self._count_unwritten() > 100_000

    def _count_unwritten(self) -> int:
        written = self._written_characters + self._written_changes
        return len(self.text) + len(self._parts.changes) - written
