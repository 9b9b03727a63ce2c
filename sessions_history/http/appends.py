"""Append to a session over HTTP, for the stream of a session and for its messages."""

from collections.abc import Mapping
from typing import Any

from connections.api.errors import ApiError, forbidden, not_found
from connections.exceptions import InvalidMessage
from sessions_history.beginnings import Beginning
from sessions_history.entries import Append, Committed, NewEntry, Sender
from sessions_history.epochs import make_first_epoch
from sessions_history.exceptions import (
    EpochBegunLate,
    KeyReused,
    SequenceGap,
    StaleProducer,
)
from sessions_history.http.calls import Call
from sessions_history.log import get_log
from sessions_history.member_models import Role
from sessions_history.payloads import digest, dump
from sessions_history.refusals import explain
from sessions_history.session_ids import is_recent_id
from sessions_history.stream_producers import ProducerStep

_STATUSES = {
    "invalid_message": 400,
    "not_found": 404,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
}
"""The statuses of refusals by their code; else 409."""

_FIRST = "first"
"""The key of the items with which a session was begun: no message has such an id."""


async def require_writer(call: Call) -> Role:
    """
    Return the role of the client, which allows to write.

    Raises:
        ApiError: 404 without a role, 403 for a reader.
    """
    _, role = await call.find_access()
    return _check_writer(call, role)


async def require_author(call: Call) -> tuple[Role, Beginning | None]:
    """
    Return the role of who appends a message, and the session that the message begins.

    A session that exists only as an id of the client is begun by its first message.

    Raises:
        ApiError: as require_writer().
    """
    owner_id, role = await call.find_access()
    if not owner_id and is_recent_id(call.session_id, call.client_id):
        return Role.OWNER, _make_beginning(call)
    return _check_writer(call, role), None


def _check_writer(call: Call, role: Role | None) -> Role:
    if role is None:
        raise not_found("session", call.session_id)
    if not role.may_write:
        message = f"The role {role} may read this session, and not write in it."
        raise forbidden("forbidden", message)
    return role


def _make_beginning(call: Call) -> Beginning:
    return Beginning(
        session_id=call.session_id,
        client_id=call.client_id,
        user_id=call.user_id,
        epoch=make_first_epoch(call.session_id),
    )


async def begin(call: Call, payloads: list[Any]) -> bool:
    """
    Begin the session of a call with messages, or none; return False if it exists.

    Raises:
        SessionNotFound: the session was deleted.
        SessionsError, InvalidMessage, DatabaseUnavailable: as append_one().
    """
    owner_id, _ = await call.find_access()
    if owner_id:
        return False
    # Of two requests at once the second finds the key, and appends nothing.
    append = Append(
        session_id=call.session_id,
        entries=_make_entries(call, payloads),
        key=_FIRST if payloads else "",
        digest=digest(payloads),
        client_id=call.client_id,
        beginning=_make_beginning(call),
    )
    try:
        committed = await get_log(call.node).submit(append)
    except KeyReused:
        return False
    return bool(committed.entries) or not payloads


async def append_one(
    call: Call,
    payload: Any,
    *,
    role: Role,
    beginning: Beginning | None,
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
        beginning=beginning,
    )


async def append_all(
    call: Call,
    payloads: list[Any],
    step: ProducerStep | None,
    beginning: Beginning | None,
) -> Committed:
    """Append several messages, all or none, which nothing answers; as append_one()."""
    append = Append(
        session_id=call.session_id,
        entries=_make_entries(call, payloads),
        client_id=call.client_id,
        step=step,
        beginning=beginning,
    )
    return await get_log(call.node).submit(append)


def _make_entries(call: Call, payloads: list[Any]) -> tuple[NewEntry, ...]:
    return tuple(
        NewEntry(sender=Sender.CLIENT.value, data=dump(one), author=call.author)
        for one in payloads
    )


def explain_refusal(exc: Exception) -> ApiError:
    """Return the answer to a request that appended nothing, with the socket's code."""
    if isinstance(exc, InvalidMessage):
        return ApiError(400, exc.code, _make_sentence(exc.message))
    if isinstance(exc, StaleProducer):
        headers = {"Producer-Epoch": str(exc.epoch)}
        return ApiError(403, "stale_producer", _make_sentence(str(exc)), headers)
    if isinstance(exc, EpochBegunLate):
        return ApiError(400, "invalid_parameter", _make_sentence(str(exc)))
    if isinstance(exc, SequenceGap):
        headers = {"Producer-Expected-Seq": str(exc.expected)}
        return ApiError(409, "sequence_gap", _make_sentence(str(exc)), headers)
    refusal = explain(exc)
    headers = {}
    if refusal.retry_seconds:
        headers["Retry-After"] = str(max(1, round(refusal.retry_seconds)))
    status = _STATUSES.get(refusal.code, 409)
    return ApiError(status, refusal.code, _make_sentence(refusal.text), headers)


def _make_sentence(text: str) -> str:
    """Return a text of the socket as a sentence; the docstring of an error is one."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
