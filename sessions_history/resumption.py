"""Go on with the work that a node has left, or end it as interrupted."""

import json
import logging

from connections.storage.database import Database
from sessions_history import work
from sessions_history.entries import Resume, Rewrite, State
from sessions_history.exceptions import SessionNotFound, StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.questions import Question
from sessions_history.responders import AnyResponder, is_resumable

logger = logging.getLogger(__name__)


async def prepare(
    due: work.DueWork,
    responder: AnyResponder | None,
    *,
    database: Database,
    commits: GroupCommit,
) -> Question | None:
    """
    Return what a responder has to answer; None if it cannot go on with a work.

    It begins an answer that is empty, and goes on with one that waits for a person.

    Raises:
        SessionsError: the work is not to be done by this node, or not now.
        DatabaseUnavailable: the next check tries again.
    """
    if responder is None or due.is_late or due.attempts > work.MOST_ATTEMPTS:
        return None
    can_resume = due.is_waiting and is_resumable(responder)
    found = await database.read(work.read_answer, due, is_resumable=can_resume)
    if found is None:
        return None
    message, answer = found
    written_chunks = 0
    if answer.text or answer.parts:
        resume = Resume(session_id=due.session_id, offset=due.offset)
        committed = await commits.submit(resume)
        answer, written_chunks = committed.entries[0], committed.chunks
    return Question(
        session_id=due.session_id,
        message_id=due.key,
        message=message,
        answer=answer,
        traceparent=due.traceparent,
        claims=json.loads(due.claims) if due.claims else None,
        metadata=due.metadata,
        written_chunks=written_chunks,
        epoch=due.epoch,
    )


async def interrupt(due: work.DueWork, commits: GroupCommit, fan_out: FanOut) -> None:
    """End the entry of a work with which nobody can go on."""
    logger.warning(
        "The entry %s of %s is interrupted: nobody can go on with it",
        due.offset,
        due.session_id,
        extra={"event": "work_interrupted"},
    )
    interruption = Rewrite(
        session_id=due.session_id, offset=due.offset, state=State.INTERRUPTED
    )
    try:
        await commits.submit(interruption)
    except (StreamEnded, SessionNotFound):
        fan_out.send_missed_end(due.session_id, due.offset)
    else:
        fan_out.send_changed(due.session_id, due.offset)
