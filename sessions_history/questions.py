"""Read the circumstances of the messages that are answered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError

from connections.models.user_key import get_users
from connections.parts import Change
from connections.presence.rooms import find_user_key
from sessions_history.decisions import AskApproval
from sessions_history.entries import Entry
from sessions_history.exceptions import SessionNotFound
from sessions_history.models import Session
from sessions_history.parts import read_parts
from sessions_history.reads import read_latest_entries
from sessions_history.regeneration import arrange
from sessions_history.responders import AnswerContext, HistoryMessage
from sessions_history.streams import Stream

_HISTORY_BYTES = 2_000_000
"""How much of a session a responder gets, texts and parts, as UTF-8, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A message, and the entry of its answer."""

    session_id: str
    message_id: str
    message: Entry
    answer: Entry
    traceparent: str = ""
    claims: Mapping[str, Any] | None = None
    metadata: str = ""
    """That of the message, as JSON; empty without any."""
    client_id: str = ""
    """The client whose limit of answers counts it."""
    written_chunks: int = 0
    """The highest number of the chunks of an answer that goes on."""
    may_wait: bool = True
    """Earlier answers of the session may be open."""
    epoch: str = ""
    """The epoch of the log when the answer began or went on."""


def read_context(
    question: Question, count: int, stream: Stream, approval: AskApproval
) -> tuple[list[HistoryMessage], AnswerContext, Any]:
    """
    Read the history of a message, its author and the owner of its session.

    The context lacks the user, of whom the key comes last.
    """
    session = Session.objects.filter(pk=question.session_id).first()
    if session is None:
        raise SessionNotFound
    author = question.message.author
    user_key = find_user_key(author) if author else session.user_id
    context = AnswerContext(
        session_id=question.session_id,
        message_id=question.message_id,
        offset=question.answer.offset,
        client_id=session.client_id,
        user=None,
        author=author,
        replaces=question.answer.replaces,
        claims=question.claims,
        metadata=json.loads(question.metadata or "{}"),
        text=question.answer.text,
        parts=_read_parts(question.answer),
        approval=approval,
        stream=stream,
    )
    return read_history(question, count), context, user_key


def _read_parts(entry: Entry) -> Sequence[Change]:
    return read_parts(entry.parts, entry.text) if entry.parts else ()


def find_user(key: Any) -> Any:
    """Return the user with a primary key, or None; its table may be elsewhere."""
    try:
        return get_users().filter(pk=key).first()
    except (ValidationError, ValueError):
        # A credential backend of the project named a client so.
        return None


def read_history(question: Question, count: int) -> list[HistoryMessage]:
    """
    Read and parse the entries before a message, off the event loop.

    Answers that were replaced are left out; those that replaced them take their place.
    """
    session_id, before = question.session_id, question.answer.offset
    return [
        HistoryMessage(
            offset=entry.offset,
            sender=entry.sender,
            data=json.loads(entry.data),
            state=entry.state,
            kind=entry.kind,
            parts=_read_parts(entry),
        )
        for place, entry in arrange(
            read_latest_entries(session_id, before, count, _HISTORY_BYTES)
        )
        if place < question.message.offset
    ]
