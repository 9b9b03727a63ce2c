"""Append to a session over HTTP, for the stream of a session and for its messages."""

from collections.abc import Mapping
from typing import Any

from connections.api.errors import ApiError, forbidden
from connections.exceptions import InvalidMessage
from connections.models.alias import atomic
from sessions_history.beginnings import Beginning, begin_session
from sessions_history.entries import Append, Committed, NewEntry, Sender
from sessions_history.epochs import make_first_epoch
from sessions_history.exceptions import (
    SequenceGap,
    SessionNotFound,
    SessionsError,
    StaleProducer,
)
from sessions_history.http.calls import Call
from sessions_history.log import get_log
from sessions_history.member_models import Role
from sessions_history.models import DeletedSession, Session
from sessions_history.payloads import dump
from sessions_history.refusals import explain
from sessions_history.session_ids import is_recent_id
from sessions_history.stream_producers import ProducerStep

_STATUSES = {
    "invalid_message": 400,
    "not_found": 404,
    "rate_limited": 429,
    "unavailable": 503,
}
"""The statuses of refusals by their code; else 409."""


async def require_writer(call: Call) -> Role:
    """
    Return the role of the client, which allows to write.

    A session that exists only as an id of the client is begun.

    Raises:
        ApiError: 404 without a role, 403 for a reader; as explain_refusal().
    """
    try:
        role = await call.require_role()
    except ApiError:
        if not is_recent_id(call.session_id, call.client_id):
            raise
        try:
            await begin(call)
        except SessionsError as exc:
            raise explain_refusal(exc) from exc
        role = await call.require_role()
    if not role.may_write:
        message = f"The role {role} may read this session, and not write in it."
        raise forbidden("forbidden", message)
    return role


async def begin(call: Call) -> bool:
    """
    Insert the session of a call; return False if it exists.

    Raises:
        SessionNotFound: the session was deleted.
        TooManySessions: the client has its limit.
    """
    return await call.database.write_urgently(_begin, call)


def _begin(call: Call) -> bool:
    config = call.node.config.sessions
    if Session.objects.filter(pk=call.session_id).exists():
        return False
    if DeletedSession.objects.filter(pk=call.session_id).exists():
        raise SessionNotFound
    beginning = Beginning(
        session_id=call.session_id,
        client_id=call.client_id,
        user_id=call.user_id,
        epoch=make_first_epoch(call.session_id),
    )
    with atomic():
        begin_session(
            beginning,
            config.max_sessions_per_client,
            replaces_unused=config.when_full == "delete_unused",
        )
    return True


async def append_one(
    call: Call,
    payload: Any,
    *,
    role: Role,
    key: str = "",
    wants_answer: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
    step: ProducerStep | None = None,
) -> Committed:
    """
    Append a message as that of a socket, which the responder may answer.

    Raises:
        SessionsError, InvalidMessage, DatabaseUnavailable: it is not appended, as far
            as is known.
    """
    if wants_answer is None:
        wants_answer = role is not Role.AGENT
    return await get_log(call.node).say(
        call.session_id,
        key,
        payload,
        call.client_id,
        author=call.author,
        wants_answer=wants_answer,
        claims=call.claims,
        metadata=metadata,
        step=step,
    )


async def append_all(
    call: Call, payloads: list[Any], step: ProducerStep | None
) -> Committed:
    """Append several messages, all or none, which nothing answers; as append_one()."""
    entries = tuple(
        NewEntry(sender=Sender.CLIENT.value, data=dump(one), author=call.author)
        for one in payloads
    )
    append = Append(
        session_id=call.session_id,
        entries=entries,
        client_id=call.client_id,
        step=step,
    )
    return await get_log(call.node).submit(append)


def explain_refusal(exc: Exception) -> ApiError:
    """Return the answer to a request that appended nothing, with the socket's code."""
    if isinstance(exc, InvalidMessage):
        return ApiError(400, exc.code, f"{exc.message[:1].upper()}{exc.message[1:]}.")
    if isinstance(exc, StaleProducer):
        headers = {"Producer-Epoch": str(exc.epoch)}
        return ApiError(403, "stale_producer", str(exc), headers)
    if isinstance(exc, SequenceGap):
        headers = {"Producer-Expected-Seq": str(exc.expected)}
        return ApiError(409, "sequence_gap", str(exc), headers)
    refusal = explain(exc)
    headers = {}
    if refusal.retry_seconds:
        headers["Retry-After"] = str(max(1, round(refusal.retry_seconds)))
    text = f"{refusal.text[:1].upper()}{refusal.text[1:]}."
    return ApiError(_STATUSES.get(refusal.code, 409), refusal.code, text, headers)
