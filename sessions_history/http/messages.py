"""Take the messages that a client without a socket sends, with their ids and codes."""

from typing import Any

from django.http import HttpResponse, JsonResponse

from connections.api.errors import ApiError, forbidden
from connections.api.parameters import parse_json, read_bytes
from connections.exceptions import DatabaseUnavailable, InvalidMessage
from sessions_history.entries import Committed
from sessions_history.exceptions import SessionNotFound, SessionsError, StreamEnded
from sessions_history.http import appends
from sessions_history.http.calls import Call, make_view
from sessions_history.log import get_log
from sessions_history.member_models import Role
from sessions_history.message_fields import (
    read_active,
    read_call,
    read_connection,
    read_decision,
    read_epoch,
    read_id,
    read_offset,
)

_ENVELOPE_BYTES = 16_384
"""What may stand around the data of a message: its id and its metadata."""


async def _take(call: Call) -> HttpResponse:
    call.read_query(())
    most_bytes = call.node.config.max_message_size + _ENVELOPE_BYTES
    content = parse_json(read_bytes(call.request, most_bytes, "max_message_size"))
    kind = content.get("type") if isinstance(content, dict) else None
    work = KINDS.get(kind) if isinstance(kind, str) else None
    if work is None:
        allowed = ", ".join(KINDS)
        message = f"type is none of {allowed}; other messages need a socket."
        raise ApiError(400, "invalid_message", message)
    try:
        committed = await work(call, content)
    except StreamEnded as exc:
        text = "Nothing streams at this offset."
        raise ApiError(404, "not_found", text) from exc
    except (SessionsError, InvalidMessage, DatabaseUnavailable) as exc:
        raise appends.explain_refusal(exc) from exc
    if committed is None:
        return HttpResponse(status=204)
    ack = {"type": "ack", "id": content["id"], "offset": committed.offset}
    if committed.mark:
        ack["chain"] = committed.mark
    return JsonResponse(ack)


async def _say(call: Call, content: dict[str, Any]) -> Committed:
    message_id, wants_answer = read_id(content), content.get("answer")
    if "data" not in content:
        raise InvalidMessage("invalid_message", "no data")
    if not isinstance(wants_answer, bool | None):
        raise InvalidMessage("invalid_message", "answer: true or false")
    connection = read_connection(content)
    role, beginning = await appends.require_author(call)
    committed = await appends.append_one(
        call,
        content["data"],
        role=role,
        beginning=beginning,
        key=message_id,
        wants_answer=wants_answer,
        metadata=content.get("metadata"),
    )
    if connection:
        _post_typing(call, connection, is_typing=False)
    return committed


async def _type(call: Call, content: dict[str, Any]) -> None:
    """Send who is in the session whether the user types; nothing is stored."""
    is_typing, connection = read_active(content), read_connection(content)
    await appends.require_author(call)
    _post_typing(call, connection, is_typing=is_typing)
    # The event loop of a view under WSGI ends with its answer.
    await get_log(call.node).flush()


def _post_typing(call: Call, connection: str, *, is_typing: bool) -> None:
    event = {
        "type": "typing",
        "member": call.author,
        # A client whose connection is one poll after the other has no name for it.
        "connection": connection or call.author,
        "active": is_typing,
    }
    get_log(call.node).typing.post(call.session_id, event)


async def _cancel(call: Call, content: dict[str, Any]) -> None:
    offset, epoch = read_offset(content), read_epoch(content)
    await appends.require_writer(call)
    try:
        log = get_log(call.node)
        await log.cancel(call.session_id, offset, epoch or "", waits=True)
    except SessionNotFound as exc:
        raise StreamEnded from exc


async def _regenerate(call: Call, content: dict[str, Any]) -> Committed:
    message_id, offset = read_id(content), read_offset(content)
    epoch = read_epoch(content)
    await appends.require_writer(call)
    return await get_log(call.node).answers.regenerate(
        call.session_id,
        message_id,
        offset,
        call.client_id,
        author=call.author,
        epoch=epoch,
        claims=call.claims,
        metadata=content.get("metadata"),
    )


async def _decide(
    call: Call, content: dict[str, Any], *, is_approved: bool
) -> Committed:
    message_id = read_id(content)
    named = read_call(content, call.session_id, message_id)
    note_and_epoch = read_decision(content, message_id)
    role = await appends.require_writer(call)
    if role not in (Role.OWNER, Role.WRITER):
        text = f"The role {role} neither approves nor denies tool calls."
        raise forbidden("forbidden", text)
    return await get_log(call.node).answers.decide(
        named, is_approved=is_approved, by=call.author, **note_and_epoch
    )


async def _approve(call: Call, content: dict[str, Any]) -> Committed:
    return await _decide(call, content, is_approved=True)


async def _deny(call: Call, content: dict[str, Any]) -> Committed:
    return await _decide(call, content, is_approved=False)


KINDS = {
    "message": _say,
    "cancel": _cancel,
    "regenerate": _regenerate,
    "approve": _approve,
    "deny": _deny,
    "typing": _type,
}

messages = make_view(takes_names=True, POST=_take)
