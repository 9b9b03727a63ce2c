"""Run the streams and answers of one node, independent of any connection."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.error_log import get_logger
from connections.metrics.counters import record_failure
from connections.storage.database import Database
from sessions_history import work
from sessions_history.entries import Entry, Rewrite, State
from sessions_history.exceptions import SessionNotFound, StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.quotas import StreamQuota
from sessions_history.reads import read_latest_entries
from sessions_history.responders import HistoryMessage, Responder, ResponderFailed
from sessions_history.streams import Stream

logger = get_logger(__name__)

_UNKNOWN_SECONDS = 2.0
"""After this time a committed work that nobody here does was lost on its way: the
reply to its commit takes milliseconds."""

_REPORTED_SECONDS = 600
"""After this time no commit is reported any more."""

_Key = tuple[str, int]


class Producers:
    """
    The open streams of this node, by session and offset, and its running answers.

    Each has a work in the database, whose lease this node renews. The node takes
    over the works of others whose lease has ended, and begins those of its own
    that it does not know, as after a lost reply to COMMIT.
    """

    def __init__(
        self,
        *,
        config: WebSocketConfig,
        database: Database,
        commits: GroupCommit,
        fan_out: FanOut,
        terms: work.Terms,
        get_responder: Callable[[], Responder | None],
    ) -> None:
        self._config = config
        self._database = database
        self._commits = commits
        self._fan_out = fan_out
        self._terms = terms
        self._get_responder = get_responder
        self.quota = StreamQuota(
            config.sessions.max_open_streams_per_client,
            config.sessions.max_open_streams_per_node,
        )
        self._streams: dict[_Key, Stream] = {}
        self._answers = BackgroundTasks()
        self._leaked: set[asyncio.Task[object]] = set()
        # Works that this node owns and does not do, since when.
        self._unknown: dict[_Key, float] = {}
        # Works begun from the database, whose commit may still be reported; when.
        self._begun: dict[_Key, float] = {}
        self._takes_over_at = 0.0

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
            on_chunk=self._fan_out.send_chunk,
            on_written=self._fan_out.send_rewritten,
            on_leak=self._release,
        )
        key = (session_id, entry.offset)
        self._streams[key] = stream
        try:
            async with stream:
                yield stream
        finally:
            del self._streams[key]

    def answer(
        self, session_id: str, message: Entry, answer: Entry, client_id: str = ""
    ) -> None:
        """Start the answer to a message in a task of the node."""
        key = (session_id, answer.offset)
        if key in self._begun:
            del self._begun[key]
        elif key not in self._streams:
            self._begin(session_id, message, answer, client_id)

    def cancel(self, session_id: str, offset: int) -> bool:
        """Cancel a stream for a client; return False if it is not on this node."""
        stream = self._streams.get((session_id, offset))
        return stream is not None and stream.end_as(State.CANCELLED)

    async def check_work(self) -> None:
        """
        Renew the leases of this node's work, and take over what others left.

        Raises:
            DatabaseUnavailable: the next check tries again.
        """
        now = asyncio.get_running_loop().time()
        is_due = now >= self._takes_over_at
        before = set(self._streams)
        if before or self._unknown or is_due:
            owned = await self._database.write(work.renew, self._terms)
            await self._compare(before, owned, now)
        self._begun = {
            key: at for key, at in self._begun.items() if now - at < _REPORTED_SECONDS
        }
        if is_due:
            self._takes_over_at = now + self._terms.lease_seconds / 3
            for one in await self._database.write(work.take_over, self._terms):
                await self._resume(one)

    async def drain(self) -> None:
        """Wait until no answer is running."""
        await self._answers.wait()

    async def stop(self) -> None:
        """End every stream as interrupted and commit its text."""
        for stream in list(self._streams.values()):
            stream.end_as(State.INTERRUPTED)
        await self.drain()

    async def _compare(
        self, before: set[_Key], owned: list[work.DueWork], now: float
    ) -> None:
        """End the streams that the database ended, and begin what it alone knows."""
        keys = {(one.session_id, one.offset): one for one in owned}
        for key in before - keys.keys():
            if key in self._streams:
                self._streams[key].end_as(State.CANCELLED)
        for key in keys.keys() & self._streams.keys():
            if keys[key].is_late:
                self._streams[key].end_as(State.INTERRUPTED)
        unknown = keys.keys() - self._streams.keys()
        self._unknown = {key: self._unknown.get(key, now) for key in unknown}
        for key, since in list(self._unknown.items()):
            if now - since >= _UNKNOWN_SECONDS:
                await self._resume(keys[key])
                del self._unknown[key]

    async def _resume(self, due: work.DueWork) -> None:
        """Begin an answer whose text is empty; end any other work as interrupted."""
        begun = None
        if not due.is_late and due.attempts <= work.MOST_ATTEMPTS:
            begun = await self._database.read(work.read_answer, due)
        if begun is not None and self._get_responder() is not None:
            now = asyncio.get_running_loop().time()
            self._begun[due.session_id, due.offset] = now
            self._begin(due.session_id, *begun)
            return
        logger.warning(
            "The entry %s of %s is interrupted: nobody can go on with it",
            due.offset,
            due.session_id,
            extra={"event": "work_interrupted"},
        )
        with contextlib.suppress(StreamEnded, SessionNotFound):
            await self._commits.submit(
                Rewrite(
                    session_id=due.session_id,
                    offset=due.offset,
                    state=State.INTERRUPTED,
                )
            )
            self._fan_out.send_changed(due.session_id, due.offset)

    def _begin(
        self, session_id: str, message: Entry, answer: Entry, client_id: str = ""
    ) -> None:
        responder = self._get_responder()
        if responder is not None:
            responded = asyncio.get_running_loop().create_future()
            self.quota.count_until(responded, client_id)
            running = self._answer(responder, session_id, message, answer, responded)
            self._answers.start(running, f"The answer of {type(responder).__name__}")

    def _release(self, stream: Stream, task: "asyncio.Task[object]") -> None:
        """End a stream whose task swallowed its cancellation, without the task."""
        record_failure("A cancelled producer")
        logger.error(
            "%s swallowed its cancellation and runs on; the entry %s of %s has ended"
            " without it",
            task.get_name(),
            stream.entry.offset,
            stream.session_id,
            extra={"event": "producer_leaked"},
        )
        self._answers.release(task)
        self._leaked.add(task)
        task.add_done_callback(self._leaked.discard)
        self._answers.start(stream.finish(), f"The end of {stream.entry.offset}")

    async def _answer(
        self,
        responder: Responder,
        session_id: str,
        message: Entry,
        answer: Entry,
        responded: "asyncio.Future[None]",
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
                # A client that sees its answer end may begin another one.
                responded.set_result(None)
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
        finally:
            if not responded.done():
                responded.set_result(None)


def _read_before(session_id: str, before: int, count: int) -> list[HistoryMessage]:
    """Read and parse the entries before an offset, off the event loop."""
    return [
        HistoryMessage(
            offset=entry.offset,
            sender=entry.sender,
            data=json.loads(entry.data),
            state=entry.state,
            kind=entry.kind,
        )
        for entry in read_latest_entries(session_id, before, count)
    ]
