"""Run the streams and answers of one node, independent of any connection."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from connections.background import BackgroundTasks, end_as_failure
from connections.config.loader import WebSocketConfig
from connections.error_log import get_logger
from connections.exceptions import DatabaseUnavailable
from connections.metrics.counters import record_failure
from connections.models import ErrorEvent
from connections.node.recorder import make_error
from connections.redaction import format_traceback
from connections.storage.database import Database
from connections.telemetry.names import ANSWER_SPAN
from connections.telemetry.work import do_in_span
from sessions_history.answer_order import AnswerOrder
from sessions_history.approval_desk import ApprovalDesk
from sessions_history.chain import is_other_entry
from sessions_history.entries import Append, Committed, Entry, State
from sessions_history.exceptions import StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.questions import (
    Question,
    find_user,
    read_context,
    read_history,
)
from sessions_history.quotas import StreamQuota
from sessions_history.reads import read_entries_at
from sessions_history.responders import (
    AnyResponder,
    ResponderFailed,
    is_concurrent,
    is_resumable,
    takes_context,
)
from sessions_history.streams import Stream
from sessions_history.work import Terms

logger = get_logger(__name__)

_REPORTED_SECONDS = 600
"""After this time no commit is reported any more."""

_RETRY_SECONDS = 0.5
_DRAIN_SECONDS = 0.5
"""How often a drain looks whether an answer has begun to wait."""

WorkKey = tuple[str, int]
"""Names a work: a session and the offset of an entry."""

Result = TypeVar("Result")
RecordError = Callable[[ErrorEvent], object]
"""Keeps an error of a responder, for staff."""


class Producers:
    """
    The open streams of this node, by session and offset, and its running answers.

    Each has a work in the database, whose lease WorkLeases renews.
    """

    def __init__(
        self,
        *,
        config: WebSocketConfig,
        database: Database,
        commits: GroupCommit,
        fan_out: FanOut,
        terms: Terms,
        get_responder: Callable[[], AnyResponder | None],
        record_error: RecordError | None,
    ) -> None:
        self._record_error = record_error
        self._config = config
        self._database = database
        self._commits = commits
        self._fan_out = fan_out
        self._terms = terms
        self.get_responder = get_responder
        self.quota = StreamQuota(
            config.sessions.max_open_streams_per_client,
            config.sessions.max_open_streams_per_node,
        )
        self.streams: dict[WorkKey, Stream] = {}
        self._answers = BackgroundTasks()
        self._ends = BackgroundTasks()
        self._leaked: set[asyncio.Task[object]] = set()
        # Works begun from the database, whose commit may still be reported; when.
        self._begun: dict[WorkKey, float] = {}
        self.has_opened = False
        """Whether a stream was ever opened here."""

        self.order = AnswerOrder(database)
        self.approvals = ApprovalDesk(
            database,
            fan_out,
            self.quota,
            config.sessions.approval_timeout_seconds,
            terms.owner,
        )

    @asynccontextmanager
    async def open(
        self, session_id: str, entry: Entry, written_chunks: int, epoch: str
    ) -> AsyncIterator[Stream]:
        """Open a stream for an entry that was committed as streaming."""
        stream = Stream(
            session_id,
            entry,
            commits=self._commits,
            max_characters=self._config.max_message_size,
            timeout_seconds=self._config.sessions.stream_timeout_seconds,
            on_growth=self._fan_out.send_growth,
            on_chunks=self._fan_out.send_chunks,
            on_written=self._fan_out.send_rewritten,
            on_ended=self._fan_out.send_missed_end,
            on_leak=self._release,
            written_chunks=written_chunks,
            epoch=epoch,
        )
        key = (session_id, entry.offset)
        former = self.streams.get(key)
        if former is not None and is_other_entry(former.entry.chain, entry.chain):
            # The log of the former is gone.
            former.end_as(State.INTERRUPTED)
        self.streams[key] = stream
        self.has_opened = True
        self._fan_out.watch(*key, lambda offset: self._on_change(stream, offset))
        try:
            async with stream:
                yield stream
        finally:
            if self.streams.get(key) is stream:
                self._fan_out.unwatch(*key)
                del self.streams[key]
            self.order.notify(session_id)

    def answer(self, request: Append, committed: Committed) -> None:
        """Start the answer to a message in a task of the node, or leave it."""
        if self._terms.leaves_answers:
            return
        answer = committed.entries[-1]
        message = committed.question or committed.entries[0]
        is_own = committed.question is None or request.author == message.author
        key = (request.session_id, answer.offset)
        if key in self._begun:
            del self._begun[key]
        elif key not in self.streams:
            question = Question(
                session_id=request.session_id,
                message_id=request.key,
                message=message,
                answer=answer,
                traceparent=request.traceparent,
                # Those of somebody else say nothing of who wrote the message.
                claims=request.claims if is_own else None,
                metadata=request.metadata,
                client_id=request.client_id,
                may_wait=committed.is_behind,
                epoch=committed.epoch,
            )
            self._begin(question)

    def resume(self, question: Question) -> None:
        """Begin an answer that was found in the database, or go on with it."""
        if not self._terms.leaves_answers:
            # answer() may be told of the same one later.
            now = asyncio.get_running_loop().time()
            self._begun = {
                key: at
                for key, at in self._begun.items()
                if now - at < _REPORTED_SECONDS
            }
            self._begun[question.session_id, question.answer.offset] = now
        self._begin(question)

    def cancel(self, session_id: str, offset: int, epoch: str = "") -> Stream | None:
        """Cancel a stream for a client; return it if it is here and of that log."""
        stream = self.streams.get((session_id, offset))
        if stream is None or epoch not in ("", stream.epoch):
            return None
        return stream if stream.end_as(State.CANCELLED) else None

    def _on_change(self, stream: Stream, offset: int) -> None:
        """Follow what another node did to an entry of a stream's session."""
        if offset == stream.offset:
            self._ends.start(self._check_end(stream), "The check of a stream's end")
        else:
            self.order.notify(stream.session_id)

    async def _check_end(self, stream: Stream) -> None:
        """End a stream whose entry another node has ended."""
        try:
            found = await self._database.read(
                read_entries_at, stream.session_id, [stream.offset]
            )
        except DatabaseUnavailable as exc:
            logger.debug("The next check of work reads %s: %s", stream.session_id, exc)
            return
        if not found or not found[0].is_streaming:
            stream.end_as(State.CANCELLED)

    async def drain(self) -> None:
        """
        Wait until no answer is running.

        Those that wait for a person are left out, and those behind them or others.
        """
        while busy := self._answers.running - self._find_waiting():
            await asyncio.wait(busy, timeout=_DRAIN_SECONDS)

    def _find_waiting(self) -> set["asyncio.Task[Any]"]:
        tasks = (stream.task for stream in self.approvals.streams | self.order.blocked)
        return {task for task in tasks if task is not None}

    async def stop(self) -> None:
        """
        End every stream as interrupted and commit its text.

        Another node gives the answers that have not begun, and goes on with those that
        wait for a person, if the responder can.
        """
        left = self.order.streams
        responder = self.get_responder()
        if responder is not None and is_resumable(responder):
            left |= self.approvals.streams
        for stream in left:
            stream.abandon()
        for stream in list(self.streams.values()):
            stream.end_as(State.INTERRUPTED)
        await self._ends.stop()
        await self._answers.wait()

    def _begin(self, question: Question) -> None:
        responder = self.get_responder()
        if responder is not None:
            responded = asyncio.get_running_loop().create_future()
            self.quota.count_until(responded, question.client_id)
            running = self._answer(responder, question, responded)
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
        responder: Any,
        question: Question,
        responded: "asyncio.Future[None]",
    ) -> None:
        """Write the responder's pieces; its exceptions end the answer only."""
        session_id, answer = question.session_id, question.answer
        failure: Exception | None = None
        span = do_in_span(
            *(ANSWER_SPAN, session_id, question.traceparent),
            offset=answer.offset,
            ends=(StreamEnded,),
        )
        try:
            with span:
                async with self.open(
                    session_id, answer, question.written_chunks, question.epoch
                ) as stream:
                    if question.may_wait and not is_concurrent(responder):
                        with stream.without_deadline():
                            await self.order.wait(stream)
                            # Another node may have ended it without a hint.
                            await self._check_end(stream)
                    await self._respond(responder, question, stream)
                    # A client that sees its answer end may begin another one.
                    responded.set_result(None)
        except StreamEnded:
            logger.debug("The answer %s of %s was ended", answer.offset, session_id)
        except ResponderFailed as exc:
            logger.warning(
                "The responder has no answer: %.1000s",
                exc,
                extra={"event": "responder_failed"},
            )
            if exc.reason or exc.__cause__ is not None:
                failure = exc
        except Exception as exc:
            record_failure("The responder")
            logger.error(
                "The responder failed: %s",
                type(exc).__name__,
                exc_info=exc,
                extra={"event": "responder_failed"},
            )
            failure = exc
        finally:
            if not responded.done():
                responded.set_result(None)
        if failure is not None and self._record_error is not None:
            reason = failure.reason if isinstance(failure, ResponderFailed) else ""
            text = format_traceback(failure) + reason
            route = f"responder {type(responder).__name__}"
            self._record_error(make_error(failure, text, route))

    async def _respond(
        self, responder: Any, question: Question, stream: Stream
    ) -> None:
        """Write the pieces of a responder into the stream of its answer."""
        most, read = self._config.max_session_history, self._database.read
        options: dict[str, Any] = {}
        if takes_context(responder):
            ask = partial(self.approvals.ask, question.client_id, stream)
            before, context, user_key = await self._read(
                read, read_context, question, most, stream, ask
            )
            if user_key is not None:
                find = self._database.read_foreign
                user = await self._read(find, find_user, user_key)
                context = replace(context, user=user)
            options["context"] = context
        else:
            before = await self._read(read, read_history, question, most)
        message = json.loads(question.message.data)
        pieces = responder.respond(message, before, **options)
        with end_as_failure():
            try:
                async for piece in pieces:
                    await stream.write(piece)
            finally:
                close = getattr(pieces, "aclose", None)
                if close is not None:
                    await close()

    async def _read(
        self,
        read: Callable[..., Coroutine[Any, Any, Any]],
        work: Callable[..., Result],
        *args: Any,
    ) -> Result:
        """Read as soon as the database is there; the stream's deadline ends that."""
        while True:
            try:
                found: Result = await read(work, *args)
                return found
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
