"""Let the answers of one node wait for persons, and take their decisions."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from sessions_history import approvals
from sessions_history.approvals import Asked, Call
from sessions_history.decisions import APPROVED, INTERRUPTED, Decision
from sessions_history.entries import Committed
from sessions_history.exceptions import StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.parts import AWAITING_APPROVAL, TOOL_CALL, Part
from sessions_history.payloads import digest
from sessions_history.quotas import StreamQuota
from sessions_history.streams import Stream

_DECIDED = "approval"
_RETRY_SECONDS = 0.5

Result = TypeVar("Result")


class ApprovalDesk:
    """
    The tool calls of one node that wait for a person.

    The database has each question and its decision. A hint, or the check of work,
    makes a waiting answer read it.
    """

    def __init__(
        self,
        database: Database,
        fan_out: FanOut,
        quota: StreamQuota,
        timeout_seconds: float,
        owner: str,
    ) -> None:
        self._database = database
        self._owner = owner
        self._fan_out = fan_out
        self._quota = quota
        self._timeout_seconds = timeout_seconds
        self._waiting: dict[Call, tuple[asyncio.Event, Stream]] = {}
        fan_out.listeners[_DECIDED] = self._notify_session

    @property
    def streams(self) -> set[Stream]:
        """The streams of the answers that wait."""
        return {stream for _, stream in self._waiting.values()}

    async def ask(
        self,
        client_id: str,
        stream: Stream,
        part_id: str,
        *,
        timeout_seconds: float | None = None,
    ) -> Decision:
        """
        Wait until a person decides on a tool call; see AskApproval.

        The wait is over once its outcome is committed, as a part of the answer, and
        this stream has taken the decision. If the node dies before, another one may
        ask again, and gets the same decision; if it dies later, none gets an approval.

        Raises:
            StreamEnded: another node goes on with the answer.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        if seconds <= 0:
            raise ValueError(f"timeout_seconds is above 0, not {seconds}")
        made_of = [_find_call(stream, part_id).get(name) for name in _SHOWN]
        call = Call(stream.session_id, stream.offset, part_id)
        # Whoever goes on with the answer must not do again what was done before.
        await stream.flush()
        if call in self._waiting:
            raise ValueError(f"the tool call {part_id!r} waits for a person already")
        event = asyncio.Event()
        self._waiting[call] = (event, stream)
        try:
            # Each resumption adds a link to the chain.
            attempt = stream.entry.chain
            asked = await self._write(
                approvals.ask, call, digest(made_of), seconds, attempt
            )
            if asked.decision is None:
                await stream.write(Part(TOOL_CALL, id=part_id, state=AWAITING_APPROVAL))
                await stream.flush()
            left_out = self._quota.without(client_id, stream)
            with stream.without_deadline(), left_out:
                decision = asked.decision or await self._wait(call, asked, event)
            if not asked.is_taken:
                await stream.write(_make_outcome(part_id, decision))
                await stream.flush()
                await self._take(call, stream, attempt)
            elif _lacks_outcome(_find_call(stream, part_id), decision):
                await stream.write(_make_outcome(part_id, decision))
        finally:
            del self._waiting[call]
        return decision

    async def ask_beside(
        self, stream: Stream, part_id: str, *, timeout_seconds: float | None = None
    ) -> Decision:
        """
        Ask as ask() does, in a task that is not that of the stream.

        Raises:
            StreamEnded: the stream has ended, also while a person was asked.
        """
        stream.require_open()
        asking = asyncio.ensure_future(
            self.ask("", stream, part_id, timeout_seconds=timeout_seconds)
        )
        ended = asyncio.ensure_future(stream.cancelled())
        try:
            await asyncio.wait((asking, ended), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                stream.require_open()
            return await asking
        finally:
            ended.cancel()
            asking.cancel()

    async def decide(
        self, call: Call, *, is_approved: bool, by: str, note: str, epoch: str
    ) -> Committed:
        """
        Decide on a tool call, whichever node waits for that; see approvals.decide().

        Raises:
            ApprovalNotFound, ApprovalDecided: nothing was decided.
            DatabaseUnavailable: whether it was decided is unknown.
        """
        epoch = await self._database.write(
            approvals.decide,
            call,
            is_approved=is_approved,
            by=by,
            note=note,
            epoch=epoch,
        )
        self._notify_session(call.session_id)
        self._fan_out.send_event(call.session_id, _DECIDED, call.offset)
        return Committed(epoch=epoch, offset=call.offset)

    async def check(self) -> None:
        """
        Wake the answers whose decision brought no hint.

        Raises:
            DatabaseUnavailable: the next check tries again.
        """
        if self._waiting:
            calls = set(self._waiting)
            decided = await self._database.read(approvals.find_decided, calls)
            self._notify(decided)

    def _notify_session(self, session_id: str, event: object = None) -> None:
        self._notify([one for one in self._waiting if one.session_id == session_id])

    def _notify(self, calls: Iterable[Call]) -> None:
        for call in calls:
            if call in self._waiting:
                self._waiting[call][0].set()

    async def _wait(self, call: Call, asked: Asked, event: asyncio.Event) -> Decision:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + asked.seconds_left
        while asked.decision is None:
            try:
                async with asyncio.timeout_at(ends_at):
                    await event.wait()
            except TimeoutError:
                asked = await self._write(approvals.expire, call)
            else:
                event.clear()
                asked = await self._write(approvals.read, call)
        return asked.decision

    async def _take(self, call: Call, stream: Stream, attempt: str) -> None:
        try:
            await self._write(approvals.take, call, self._owner, attempt)
        except StreamEnded:
            stream.abandon()
            # The responder learns it as of any other end of its stream.
            await asyncio.sleep(0)
            raise

    async def _write(self, work: Callable[..., Result], *args: Any) -> Result:
        """Carry out work in the database, as soon as it is there."""
        while True:
            try:
                return await self._database.write(work, *args)
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)


_SHOWN = ("name", "arguments")
"""The fields of a call on which a person decides."""

_STATES = {APPROVED: "running", INTERRUPTED: "error"}
"""The state of a call after a decision; any other denies it."""
_ENDED = ("done", "error")


def _make_outcome(part_id: str, decision: Decision) -> Part:
    """Return what a decision changes of its call."""
    state = _STATES.get(decision.state, "denied")
    # A person approved what was interrupted.
    by_person = APPROVED if decision.state == INTERRUPTED else decision.state
    outcome = {"state": by_person}
    outcome |= {"by": decision.by} if decision.by else {}
    outcome |= {"note": decision.note} if decision.note else {}
    return Part(TOOL_CALL, id=part_id, state=state, approval=outcome)


def _lacks_outcome(part: dict[str, Any], decision: Decision) -> bool:
    """Return True if the attempt that took a decision has not written its end."""
    is_interrupted = decision.state == INTERRUPTED
    # The previous release took decisions before their outcome was committed.
    ends = _ENDED if is_interrupted else (*_ENDED, "running", "denied")
    return part.get("state") not in ends


def _find_call(stream: Stream, part_id: str) -> dict[str, Any]:
    for part in stream.parts:
        if part["id"] == part_id and part["type"] == TOOL_CALL:
            return part
    raise ValueError(f"the answer has no tool call {part_id!r}: yield it first")
