"""The streams of one node, and what writes them: tasks of the node, not of a socket."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from connections.config.loader import WebSocketConfig
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
    """What is open on this node, by session and offset, and the answers under way."""

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
        self._answers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self, session_id: str, entry: Entry) -> AsyncIterator[Stream]:
        """Have an entry that was committed as streaming written, and ended."""
        stream = Stream(
            session_id,
            entry,
            commits=self._commits,
            max_characters=self._config.max_message_size,
            timeout_seconds=self._config.sessions.stream_timeout_seconds,
            on_growth=self._fan_out.tell_growth,
            on_written=self._fan_out.tell_rewritten,
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
        """Have a message answered, in a task of the node."""
        work = self._answer(responder, session_id, message, answer)
        task = asyncio.create_task(work, name=f"The answer {answer.offset}")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def cancel(self, session_id: str, offset: int) -> bool:
        """Have a client's wish to stop a stream heard; False: it is not here."""
        stream = self._streams.get((session_id, offset))
        return stream is not None and stream.end_as(State.CANCELLED)

    async def drain(self) -> None:
        """Wait until no answer is under way."""
        while self._answers:
            await asyncio.wait(self._answers)

    async def stop(self) -> None:
        """End every stream as interrupted, its text committed."""
        for stream in list(self._streams.values()):
            stream.end_as(State.INTERRUPTED)
        await self.drain()

    async def _answer(
        self, responder: Responder, session_id: str, message: Entry, answer: Entry
    ) -> None:
        """Write what the responder says; what it raises stays here."""
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
            logger.error(
                "The responder failed: %s",
                type(exc).__name__,
                exc_info=exc,
                extra={"event": "responder_failed"},
            )


def _read_before(session_id: str, before: int, count: int) -> list[HistoryMessage]:
    """Read what was said before an offset, and parse it here, beside the loop."""
    return [
        HistoryMessage(
            offset=entry.offset,
            sender=entry.sender,
            data=json.loads(entry.data),
            state=entry.state,
        )
        for entry in read_latest_entries(session_id, before, count)
    ]
