"""
The operations of the HTTP API of sessions, as its OpenAPI document has them.

The views do not route by this table: tests hold it against each of their answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connections.api.openapi import describe_body, describe_query
from connections.api.parameters import Parameter
from connections.api.resources import PAGING
from connections.close_codes import CLOSE_REASONS
from connections.http_connection import find_status
from sessions_history.http import members, schemas
from sessions_history.http.views import TITLE

Errors = dict[int, tuple[str, ...]]
"""The codes of errors by their status."""

_EVENTS = "text/event-stream"
_LEAST_CLOSE_CODE = 1008
"""With lower codes no request is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that is no error."""

    about: str
    content: Mapping[str, schemas.Schema] = field(default_factory=dict)
    """The JSON Schemas of the body by its type; without one there is no body."""

    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path below /api/sessions."""

    name: str
    method: str
    path: str
    about: str
    answers: Mapping[int, Answer]
    errors: Errors = field(default_factory=dict)
    """Its own errors, beside those of every request."""

    query: Sequence[Mapping[str, Any]] = ()
    request_headers: Mapping[str, str] = field(default_factory=dict)
    body: schemas.Schema | None = None
    is_body_required: bool = True


def merge(*several: Mapping[int, tuple[str, ...]]) -> Errors:
    """Return the errors of several requests."""
    found: dict[int, list[str]] = {}
    for errors in several:
        for status, codes in errors.items():
            found.setdefault(status, []).extend(codes)
    return {status: tuple(dict.fromkeys(found[status])) for status in sorted(found)}


EVERY: Errors = {
    400: ("disallowed_host",),
    401: ("unauthenticated",),
    403: ("forbidden", "banned", "missing_scope"),
    429: ("rate_limited",),
    500: ("failed",),
    503: ("unavailable",),
}
"""The errors of every request."""

_CHANGE: Errors = {403: ("csrf",)}
_QUERY: Errors = {400: ("unknown_parameter", "repeated_parameter")}
_PAGE: Errors = merge(_QUERY, {400: ("invalid_parameter", "invalid_cursor")})
_RAW: Errors = {400: ("invalid_json", "incomplete"), 413: ("body_too_large",)}
_BODY: Errors = merge(
    _CHANGE,
    _QUERY,
    _RAW,
    {400: ("unknown_field", "missing_field", "invalid_field"), 415: ("not_json",)},
)
_FOUND: Errors = {404: ("not_found",)}
_OWNER: Errors = {403: ("not_owner",), 404: ("not_found",)}
_FULL: Errors = {409: ("storage_full", "sessions_full"), 500: ("internal",)}


def _list_live_errors() -> Errors:
    """Return the close codes that end a live request before its answer."""
    found: list[Errors] = [
        {find_status(one.code): (one.reason,)}
        for one in CLOSE_REASONS.values()
        if one.code >= _LEAST_CLOSE_CODE
    ]
    return merge(*found)


_NO_CONTENT = {204: Answer(about="Done.")}
_NOT_MODIFIED = {304: Answer(about="The client has it.", headers=("ETag",))}


def _show(schema: schemas.Schema, about: str = "Done.") -> Answer:
    return Answer(about=about, content={"application/json": schema})


def _read(schema: schemas.Schema) -> dict[int, Answer]:
    """Return the answers of a GET with an ETag."""
    content = {"application/json": schema}
    return {200: Answer(about="Done.", content=content, headers=("ETag",))} | (
        _NOT_MODIFIED
    )


def _describe_texts(**texts: str) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": about,
            "schema": {"type": "string"},
        }
        for name, about in texts.items()
    )


def _take(*parameters: Parameter) -> schemas.Schema:
    described = describe_body(parameters)
    for one in parameters:
        if not one.is_required:
            value = described["properties"][one.name]
            value["type"] = [value["type"], "null"]
    return described


_ID = "/{session_id}/"
_IF_MATCH = {
    "If-Match": "The ETag of the session; 412 if its title, its epoch or the role has"
    " changed since."
}
_IF_NONE_MATCH = {"If-None-Match": "The ETag of what the client has; 304 if it is it."}
_PRODUCER = {
    "Producer-Id": "The name of who appends each item once.",
    "Producer-Epoch": "The number of its start.",
    "Producer-Seq": "The number of the append, from 0.",
}
_PAGE_HEADERS = ("ETag", "Stream-Next-Offset", "Stream-Up-To-Date", "Stream-Cursor")
_LIVE_HEADERS = (*_PAGE_HEADERS, "Session-Event", "X-Connection-Id")
_APPENDED = ("Stream-Next-Offset", "Producer-Epoch", "Producer-Seq")

DOCUMENT = Operation(
    name="read_openapi",
    method="GET",
    path="/openapi.json",
    about="This document; it needs no credential.",
    answers={200: _show({"type": "object"})},
    errors={400: ("disallowed_host",)},
)

_SESSIONS = (
    Operation(
        name="list_sessions",
        method="GET",
        path="/",
        about="The sessions of the client, and those that its user is a member of; the"
        " last used first.",
        query=describe_query(PAGING),
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.describe_page(schemas.describe_session())),
        errors=_PAGE,
    ),
    Operation(
        name="read_session",
        method="GET",
        path=_ID,
        about="One session.",
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.describe_session()),
        errors=merge(_QUERY, _FOUND),
    ),
    Operation(
        name="rename_session",
        method="PATCH",
        path=_ID,
        about="Sets or removes the title of a session; for its owner.",
        request_headers=_IF_MATCH,
        body=_take(TITLE),
        answers={
            200: Answer(
                about="The session with its title.",
                content={"application/json": schemas.describe_session()},
                headers=("ETag",),
            )
        },
        errors=merge(_BODY, _OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="delete_session",
        method="DELETE",
        path=_ID,
        about="Deletes a session and all that belongs to it; for its owner.",
        request_headers=_IF_MATCH,
        answers=_NO_CONTENT,
        errors=merge(_CHANGE, _QUERY, _OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="list_entries",
        method="GET",
        path=f"{_ID}entries/",
        about="A page of the entries, in order; the newest page first.",
        query=describe_query(PAGING),
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.ENTRIES),
        errors=merge(_PAGE, _FOUND, {409: ("reset",)}),
    ),
    Operation(
        name="list_present",
        method="GET",
        path=f"{_ID}present/",
        about="Who is present in the session; 503 also where that is not known.",
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.PRESENT),
        errors=merge(_QUERY, _FOUND),
    ),
)

_STREAM = f"{_ID}stream/"
_STREAMS = (
    Operation(
        name="read_stream",
        method="GET",
        path=_STREAM,
        about="Items of the stream by the Durable Streams protocol: those that there"
        " are, or live where the ASGI application serves live requests. Other"
        " parameters are passed over.",
        query=_describe_texts(
            offset="A Stream-Next-Offset; -1, as without one: from the oldest item that"
            " is kept; now: after the last one. A live request needs one.",
            live="sse or long-poll.",
            cursor="Of a live request: the Stream-Cursor of the one before.",
            protocol="With live=sse: the subprotocol of a socket, whose messages are"
            " then the events.",
            epoch="With a protocol: as on the socket.",
            open="With a protocol: as on the socket.",
            chain="With a protocol: as on the socket.",
            acked="With a protocol: as on the socket.",
            presence="Of a live request: 1 makes its client present in the session.",
        ),
        request_headers=_IF_NONE_MATCH,
        answers={
            200: Answer(
                about="Items, or the events of a live request.",
                content={
                    "application/json": schemas.ITEMS,
                    _EVENTS: {"type": "string"},
                },
                headers=_LIVE_HEADERS,
            ),
            204: Answer(
                about="A long poll for which no item came.", headers=_LIVE_HEADERS
            ),
            304: Answer(about="The client has it.", headers=_PAGE_HEADERS),
        },
        errors=merge(
            _FOUND, {400: ("invalid_parameter",), 410: ("gone",)}, _list_live_errors()
        ),
    ),
    Operation(
        name="find_end_of_stream",
        method="HEAD",
        path=_STREAM,
        about="The end of the stream, without a body.",
        query=_describe_texts(offset="It is checked, and changes nothing."),
        answers={200: Answer(about="The end.", headers=_PAGE_HEADERS)},
        errors=merge(_FOUND, {400: ("invalid_parameter",)}),
    ),
    Operation(
        name="begin_stream",
        method="PUT",
        path=_STREAM,
        about="Begins a session, with the items of the body if there is one.",
        body=schemas.ITEM_OR_ITEMS,
        is_body_required=False,
        answers={
            200: Answer(
                about="It exists, and stays as it is.", headers=("Stream-Next-Offset",)
            ),
            201: Answer(
                about="It is begun.", headers=("Location", "Stream-Next-Offset")
            ),
        },
        errors=merge(
            _CHANGE,
            _RAW,
            _FOUND,
            _FULL,
            {
                400: ("invalid_parameter", "invalid_message", "not_supported"),
                409: ("deleted",),
                415: ("not_json",),
            },
        ),
    ),
    Operation(
        name="append_to_stream",
        method="POST",
        path=_STREAM,
        about="Appends the item of the body, or each item of an array: all or none.",
        request_headers=_PRODUCER,
        body=schemas.ITEM_OR_ITEMS,
        answers={
            200: Answer(about="A producer's new append.", headers=_APPENDED),
            204: Answer(
                about="Appended; of a producer: it was before.", headers=_APPENDED
            ),
        },
        errors=merge(
            _CHANGE,
            _RAW,
            _FOUND,
            _FULL,
            {
                400: ("invalid_parameter", "invalid_message", "not_supported"),
                403: ("stale_producer",),
                409: ("not_json", "sequence_gap"),
            },
        ),
    ),
    Operation(
        name="delete_stream",
        method="DELETE",
        path=_STREAM,
        about="Deletes the session; for its owner.",
        request_headers=_IF_MATCH,
        answers=_NO_CONTENT,
        errors=merge(_CHANGE, _QUERY, _OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="send_message",
        method="POST",
        path=f"{_ID}messages/",
        about="Takes a message as the socket does, with the same ids.",
        body=schemas.MESSAGES,
        answers={
            200: _show(schemas.ACK, "Committed."),
            204: Answer(about="Done: of cancel and typing."),
        },
        errors=merge(
            _CHANGE,
            _QUERY,
            _RAW,
            _FOUND,
            _FULL,
            {400: ("invalid_message",), 409: ("conflict",)},
        ),
    ),
)

_MEMBER = f"{_ID}members/{{user}}/"
_INVITATIONS = f"{_ID}invitations/"
_MEMBERS = (
    Operation(
        name="list_members",
        method="GET",
        path=f"{_ID}members/",
        about="The owner and the members, and the role of the client.",
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.MEMBERS),
        errors=merge(_QUERY, _FOUND),
    ),
    Operation(
        name="change_member",
        method="PATCH",
        path=_MEMBER,
        about="Changes the role of a member; owner hands the session over. For its"
        " owner.",
        body=_take(members.NEW_ROLE),
        answers=_NO_CONTENT,
        errors=merge(_BODY, _OWNER, {409: ("owner_stays", "sessions_full")}),
    ),
    Operation(
        name="remove_member",
        method="DELETE",
        path=_MEMBER,
        about="Removes a member, or leaves; for the owner, and for the member itself.",
        answers=_NO_CONTENT,
        errors=merge(_CHANGE, _QUERY, _OWNER, {409: ("owner_stays",)}),
    ),
    Operation(
        name="list_invitations",
        method="GET",
        path=_INVITATIONS,
        about="The newest invitations, without their tokens; for the owner.",
        request_headers=_IF_NONE_MATCH,
        answers=_read(schemas.INVITATIONS),
        errors=merge(_QUERY, _OWNER),
    ),
    Operation(
        name="invite",
        method="POST",
        path=_INVITATIONS,
        about="Makes an invitation; for the owner.",
        body=_take(members.ROLE, members.LIFETIME, members.SINGLE_USE),
        answers={201: _show(schemas.MADE_INVITATION, "Made.")},
        errors=merge(_BODY, _OWNER, {409: ("too_many_members",)}),
    ),
    Operation(
        name="revoke_invitation",
        method="DELETE",
        path=f"{_INVITATIONS}{{invitation}}/",
        about="Revokes an invitation; members that it made stay. For the owner.",
        answers=_NO_CONTENT,
        errors=merge(_CHANGE, _QUERY, _OWNER, {404: ("invitation_unknown",)}),
    ),
    Operation(
        name="join",
        method="POST",
        path="/join/",
        about="Makes the user of the credential a member, by the token of an"
        " invitation.",
        body=_take(members.TOKEN),
        answers={200: _show(schemas.JOINED)},
        errors=merge(
            _BODY,
            {
                403: ("no_user",),
                404: ("invitation_unknown",),
                409: ("too_many_members",),
                410: ("invitation_expired", "invitation_revoked", "invitation_used"),
            },
        ),
    ),
)

OPERATIONS = (DOCUMENT, *_SESSIONS, *_STREAMS, *_MEMBERS)
