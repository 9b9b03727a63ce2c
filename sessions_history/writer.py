"""
Write into sessions from any code: a task of Celery, a command, a view, another node.

    with open_stream(session_id, key=task_id) as stream:
        for piece in model:
            stream.write(piece)

An awaited or returned result is committed. A key makes a task that is run again go
on with its entry: see SessionLog.append() and SessionLog.stream() for what is raised.
"""

import asyncio
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any

from connections.models.alias import get_connection
from connections.storage.in_test import is_testing
from sessions_history import writer_log
from sessions_history.decisions import Decision
from sessions_history.entries import MESSAGE
from sessions_history.exceptions import InTransaction, StreamEnded
from sessions_history.held_stream import HeldStream
from sessions_history.log import SessionLog
from sessions_history.parts import Part


async def append(
    session_id: str,
    data: Any,
    *,
    key: str = "",
    kind: str = MESSAGE,
    traceparent: str = "",
) -> int:
    """
    Append an entry to a session and return its offset.

    With a key, the same data is appended once: a later call returns the offset of
    the first one. Keys are kept for a day. A traceparent continues a trace; without
    one the current span of OpenTelemetry does.

    Raises:
        InvalidMessage, EntryTooLarge: the data cannot be stored.
        ValueError: the key cannot be used.
        KeyReused: the key was used for something else.
        SessionNotFound, StorageFull, LogFull: nothing was appended.
        DatabaseUnavailable: whether it was appended is unknown.
    """
    return await asyncio.wrap_future(
        _start_append(session_id, data, key, kind, traceparent)
    )


def append_sync(
    session_id: str,
    data: Any,
    *,
    key: str = "",
    kind: str = MESSAGE,
    traceparent: str = "",
) -> int:
    """
    Append as append() does, from code without an event loop.

    Raises:
        RuntimeError: an event loop runs in this thread.
        InTransaction: this thread has a transaction that it would wait for.
    """
    _require_thread("append_sync()", "await append()")
    return _start_append(session_id, data, key, kind, traceparent).result()


def open_stream(
    session_id: str, *, key: str = "", kind: str = MESSAGE, traceparent: str = ""
) -> "StreamOpening":
    """
    Return the block of a stream: `async with`, or `with` in code without a loop.

    The entry ends with the block: `done`, `error` if the block raises, `interrupted`
    if it is cancelled or the process dies. With a key, a later stream goes on with
    an entry that is `interrupted` or `error`, or whose writer died, and finds its
    text so far in `text`. It waits for the lease of another writer. A traceparent
    continues a trace; without one the current span of OpenTelemetry does.

    Raises:
        StreamFinished: the entry of the key is done or cancelled.
        StreamBusy: another task writes it, and renews its lease.
        StreamEnded: at the end of the block: it did not learn of a stop.
        TooManyStreams, StorageFull, SessionNotFound, LogFull, KeyReused, ValueError,
            DatabaseUnavailable: no stream is open.
    """
    return StreamOpening(session_id, key, kind, traceparent)


def close() -> None:
    """End the streams of this process as interrupted, and close its connections."""
    writer_log.close()


class _OpenStream:
    """A stream that the loop of the log holds open, for code outside of it."""

    def __init__(self, held: HeldStream, holder: "Future[None]") -> None:
        self._held = held
        self._holder = holder
        self._has_learned = False

    @property
    def offset(self) -> int:
        """The position of the entry in its session."""
        return self._held.stream.offset

    @property
    def text(self) -> str:
        """The text so far, with that of earlier attempts."""
        return self._held.stream.text

    @property
    def is_cancelled(self) -> bool:
        """True once nobody needs the rest: a client stopped it, or it has ended."""
        is_cancelled = self._held.stream.is_cancelled
        self._has_learned = self._has_learned or is_cancelled
        return is_cancelled

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts so far, with those of earlier attempts."""
        return self._held.stream.parts

    def _start_writing(self, piece: str | Part) -> "Future[None]":
        if not isinstance(piece, str | Part):
            kind = type(piece).__name__
            raise TypeError(f"a stream is made of str and Part, not {kind}")
        if self._held.loop.is_closed():
            raise StreamEnded("its process closed the writer")
        writing = self._held.stream.write(piece)
        return asyncio.run_coroutine_threadsafe(writing, self._held.loop)

    def _start_asking(
        self, part_id: str, timeout_seconds: float | None
    ) -> "Future[Decision]":
        if self._held.loop.is_closed():
            raise StreamEnded("its process closed the writer")
        asking = self._held.ask(part_id, timeout_seconds)
        return asyncio.run_coroutine_threadsafe(asking, self._held.loop)

    def _find_error(self) -> BaseException | None:
        """Return why the stream ended, if the block did not learn that."""
        if self._holder.cancelled():
            return StreamEnded("its process closed the writer")
        error = self._holder.exception()
        return None if self._has_learned and isinstance(error, StreamEnded) else error


class SyncStream(_OpenStream):
    """A stream in code without an event loop."""

    def write(self, piece: str | Part) -> None:
        """
        Append to the text, or to a part; it is committed within 200 ms.

        Raises:
            StreamEnded: it was cancelled, or its content is too long.
        """
        self._start_writing(piece).result()

    def approval(
        self, part_id: str, *, timeout_seconds: float | None = None
    ) -> Decision:
        """
        Wait until a person decides on a tool call that was written; see AskApproval.

        A later attempt with the key of the stream finds the decision, or waits on.

        Raises:
            StreamEnded: a client stopped the stream, or it has ended otherwise.
            ValueError: the stream has no such tool call, or it is asked already, or
                the time is not positive.
        """
        asking = self._start_asking(part_id, timeout_seconds)
        try:
            return asking.result()
        finally:
            # The thread may be interrupted, as by the time limit of a task.
            asking.cancel()

    def leave(self, exc: BaseException | None) -> None:
        """End the stream as its block ended."""
        self._held.close_soon(exc)
        wait([self._holder])
        error = self._find_error()
        if exc is None and error is not None:
            raise error


class AsyncStream(_OpenStream):
    """A stream in asynchronous code."""

    def __init__(self, held: HeldStream, holder: "Future[None]") -> None:
        super().__init__(held, holder)
        self._waiters = 0
        self._task = asyncio.current_task()
        self._has_cancelled = False
        self._has_ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        holder.add_done_callback(
            lambda done: loop.is_closed() or loop.call_soon_threadsafe(self._end)
        )

    async def write(self, piece: str | Part) -> None:
        """
        Append to the text, or to a part; it is committed within 200 ms.

        Raises:
            StreamEnded: it was cancelled, or its content is too long.
        """
        await asyncio.wrap_future(self._start_writing(piece))

    async def approval(
        self, part_id: str, *, timeout_seconds: float | None = None
    ) -> Decision:
        """
        Wait as SyncStream.approval() does; a wait that is cancelled asks nobody more.

        Raises:
            StreamEnded, ValueError: as there; the block is not cancelled meanwhile.
        """
        self._waiters += 1
        try:
            asking = self._start_asking(part_id, timeout_seconds)
            return await asyncio.wrap_future(asking)
        except StreamEnded:
            self._has_learned = True
            raise
        finally:
            self._waiters -= 1

    async def cancelled(self) -> None:
        """Wait until is_cancelled is True; meanwhile the block is not cancelled."""
        self._waiters += 1
        try:
            await self._has_ended.wait()
            self._has_learned = True
        finally:
            self._waiters -= 1

    async def leave(self, exc: BaseException | None) -> None:
        """End the stream as its block ended."""
        task, self._task = self._task, None
        self._held.close_soon(exc)
        await self._has_ended.wait()
        error = self._find_error()
        if self._has_cancelled and task is not None:
            task.uncancel()
            if isinstance(exc, asyncio.CancelledError) and error is not None:
                raise error from exc
        elif exc is None and error is not None:
            raise error

    def _end(self) -> None:
        """Cancel the block of a stream that has ended, unless it learns that itself."""
        self._has_ended.set()
        if self._task is not None and not self._waiters and not self._has_learned:
            self._has_cancelled = True
            self._task.cancel()


class StreamOpening:
    """The block of a stream, for `async with` and for `with`; it is used once."""

    def __init__(self, session_id: str, key: str, kind: str, traceparent: str) -> None:
        self._held = HeldStream(session_id, key, kind, traceparent)
        self._sync_stream: SyncStream | None = None
        self._async_stream: AsyncStream | None = None

    def __enter__(self) -> SyncStream:
        _require_thread("with open_stream()", "async with open_stream()")
        holder = self._held.start()
        try:
            self._held.opened.result()
        except BaseException:
            # The thread may be interrupted, as by the time limit of a task.
            holder.cancel()
            raise
        self._sync_stream = SyncStream(self._held, holder)
        return self._sync_stream

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._sync_stream is not None:
            self._sync_stream.leave(exc)

    async def __aenter__(self) -> AsyncStream:
        holder = self._held.start()
        try:
            await asyncio.wrap_future(self._held.opened)
        except asyncio.CancelledError:
            holder.cancel()
            raise
        self._async_stream = AsyncStream(self._held, holder)
        return self._async_stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._async_stream is not None:
            await self._async_stream.leave(exc)


async def _append(log: SessionLog, *args: Any, **options: str) -> int:
    offset = await log.append(*args, **options)
    await log.flush()
    return offset


def _start_append(
    session_id: str, data: Any, key: str, kind: str, traceparent: str
) -> "Future[int]":
    options = {"key": key, "traceparent": traceparent}
    return writer_log.submit(
        lambda log: _append(log, session_id, data, kind, **options)
    )


def _require_thread(call: str, instead: str) -> None:
    """
    Check that a thread may wait for the log.

    Raises:
        RuntimeError: an event loop runs in it, which would stand still.
        InTransaction: it has a transaction that the log would wait for.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        connection = get_connection()
        is_alone = connection.vendor == "sqlite" or is_testing()
        if connection.in_atomic_block and is_alone:
            raise InTransaction from None
        return
    raise RuntimeError(f"{call} would stop the event loop of this thread: {instead}")
