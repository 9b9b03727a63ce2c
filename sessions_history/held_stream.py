"""Hold a stream open on the loop of the log, for code that runs elsewhere."""

import asyncio
from concurrent.futures import Future

from sessions_history import writer_log
from sessions_history.decisions import Decision
from sessions_history.exceptions import StreamEnded
from sessions_history.log import SessionLog
from sessions_history.responders import ResponderFailed
from sessions_history.streams import Stream


class HeldStream:
    """A stream, while a task on the loop of the log holds it open."""

    loop: asyncio.AbstractEventLoop
    stream: Stream

    def __init__(self, session_id: str, key: str, kind: str, traceparent: str) -> None:
        self._session_id = session_id
        self._kind = kind
        self._options = {"key": key, "traceparent": traceparent}
        self.opened: Future[None] = Future()

    def start(self) -> "Future[None]":
        """Start to hold the stream open."""
        holder = writer_log.submit(self._hold)
        holder.add_done_callback(self._report_failure)
        return holder

    def _report_failure(self, holder: "Future[None]") -> None:
        """Tell the block, which waits to be entered, why it is not."""
        if not self.opened.done():
            error = None if holder.cancelled() else holder.exception()
            self.opened.set_exception(error or StreamEnded())

    async def _hold(self, log: SessionLog) -> None:
        """Open the stream, and end it as its block ends."""
        self._log, self.loop = log, asyncio.get_running_loop()
        self._closing: asyncio.Future[None] = self.loop.create_future()
        opening = log.stream(self._session_id, self._kind, **self._options)
        try:
            async with opening as self.stream:
                if self.opened.set_running_or_notify_cancel():
                    self.opened.set_result(None)
                await self._closing
        finally:
            await log.flush()

    async def ask(self, part_id: str, timeout_seconds: float | None) -> Decision:
        """Ask a person about a tool call of the stream."""
        return await self._log.answers.ask(
            self.stream, part_id, timeout_seconds=timeout_seconds
        )

    def close_soon(self, exc: BaseException | None) -> None:
        """End the stream as its block ended; a stream that has ended stays so."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._close, exc)

    def _close(self, exc: BaseException | None) -> None:
        if self._closing.done():
            return
        if exc is None:
            self._closing.set_result(None)
        elif isinstance(exc, ResponderFailed):
            self._closing.set_exception(ResponderFailed(str(exc)))
        elif isinstance(exc, Exception):
            # A new one: the traceback of the other belongs to its own thread.
            self._closing.set_exception(RuntimeError(type(exc).__name__))
        else:
            self._closing.cancel()
