"""Run the streams and answers of one node, independent of any connection."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.metrics.counters import record_failure
from connections.storage.database import Database
from sessions_history.entries import Entry, State
from sessions_history.exceptions import StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.reads import read_latest_entries
from sessions_history.responders import HistoryMessage, Responder, ResponderFailed
from sessions_history.streams import Stream

logger = logging.getLogger(__name__)


class Producers:
    """The open streams of this node, by session and offset, and its running answers."""

    def __init__(
        self,
        *,
        config: WebSocketConfig,
        database: Database,
        commits: GroupCommit,
        fan_out: FanOut,
    ) -> None:
        self._config = config
        self._database = database
        self._commits = commits
        self._fan_out = fan_out
        self._streams: dict[tuple[str, int], Stream] = {}
        self._answers = BackgroundTasks()

    @asynccontextmanager
    async def open(self, session_id: str, entry: Entry) -> AsyncIterator[Stream]:
        """Open a stream for an entry that was committed as streaming."""
        stream = Stream(
            session_id,
            entry,
            commits=self._commits,
            max_characters=self._config.max_message_size,
            timeout_seconds=self._config.sessions.stream_timeout_seconds,
            on_growth=self._fan_out.send_growth,
            on_written=self._fan_out.send_rewritten,
        )
        key = (session_id, entry.offset)
        self._streams[key] = stream
        try:
            async with stream:
                yield stream
        finally:
            del self._streams[key]

    def answer(
        self, responder: Responder, session_id: str, message: Entry, answer: Entry
    ) -> None:
        """Start the answer to a message in a task of the node."""
        work = self._answer(responder, session_id, message, answer)
        self._answers.start(work, f"The answer {answer.offset}")

    def cancel(self, session_id: str, offset: int) -> bool:
        """Cancel a stream for a client; return False if it is not on this node."""
        stream = self._streams.get((session_id, offset))
        return stream is not None and stream.end_as(State.CANCELLED)

    async def drain(self) -> None:
        """Wait until no answer is running."""
        await self._answers.wait()

    async def stop(self) -> None:
        """End every stream as interrupted and commit its text."""
        for stream in list(self._streams.values()):
            stream.end_as(State.INTERRUPTED)
        await self.drain()

    async def _answer(
        self, responder: Responder, session_id: str, message: Entry, answer: Entry
    ) -> None:
        """Write the responder's pieces; its exceptions end the answer only."""
        try:
            async with self.open(session_id, answer) as stream:
                before = await self._database.read(
                    _read_before,
                    session_id,
                    message.offset,
                    self._config.max_session_history,
                )
                pieces = responder.respond(json.loads(message.data), before)
                try:
                    async for piece in pieces:
                        await stream.write(piece)
                finally:
                    close = getattr(pieces, "aclose", None)
                    if close is not None:
                        await close()
        except StreamEnded:
            logger.debug("The answer %s of %s was ended", answer.offset, session_id)
        except ResponderFailed as exc:
            logger.warning(
                "The responder has no answer: %s",
                exc,
                extra={"event": "responder_failed"},
            )
        except Exception as exc:
            record_failure("The responder")
            logger.error(
                "The responder failed: %s",
                type(exc).__name__,
                exc_info=exc,
                extra={"event": "responder_failed"},
            )


def _read_before(session_id: str, before: int, count: int) -> list[HistoryMessage]:
    """Read and parse the entries before an offset, off the event loop."""
    return [
        HistoryMessage(
            offset=entry.offset,
            sender=entry.sender,
            data=json.loads(entry.data),
            state=entry.state,
        )
        for entry in read_latest_entries(session_id, before, count)
    ]
