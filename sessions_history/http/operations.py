"""
The operations of the HTTP API of sessions, as its OpenAPI document has them.

The views do not route by this table: tests hold it against each of their answers.
"""

from connections.api.openapi import describe_query
from connections.api.resources import PAGING
from sessions_history.http import members, schemas
from sessions_history.http.operation import (
    BODY,
    CHANGE,
    FOUND,
    FULL,
    NO_CONTENT,
    OWNER,
    PAGE,
    QUERY,
    RAW,
    Answer,
    Operation,
    describe_texts,
    list_live_errors,
    merge,
    read,
    show,
    take,
)
from sessions_history.http.views import TITLE

_EVENTS = "text/event-stream"

_ID = "/{session_id}/"
_IF_MATCH = {
    "If-Match": "The ETag of the session; 412 if its title, its epoch or the role has"
    " changed since."
}
_IF_NONE_MATCH = {
    "If-None-Match": "The ETag of what the client has; 304 if nothing has changed."
}
_PRODUCER = {
    "Producer-Id": "The name of who appends each item once.",
    "Producer-Epoch": "The number of its start.",
    "Producer-Seq": "The number of the append, from 0.",
}
_END_HEADERS = ("Stream-Next-Offset", "Stream-Up-To-Date")
_LIVE_HEADERS = (*_END_HEADERS, "Stream-Cursor", "Session-Event", "X-Connection-Id")
_APPENDED = ("Stream-Next-Offset", "Producer-Epoch", "Producer-Seq")

DOCUMENT = Operation(
    name="read_openapi",
    method="GET",
    path="/openapi.json",
    about="This document; it needs no credential.",
    answers={200: show({"type": "object"})},
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
        answers=read(schemas.describe_page(schemas.describe_session())),
        errors=PAGE,
    ),
    Operation(
        name="read_session",
        method="GET",
        path=_ID,
        about="One session.",
        request_headers=_IF_NONE_MATCH,
        answers=read(schemas.describe_session()),
        errors=merge(QUERY, FOUND),
    ),
    Operation(
        name="rename_session",
        method="PATCH",
        path=_ID,
        about="Sets or removes the title of a session; for its owner.",
        request_headers=_IF_MATCH,
        body=take(TITLE),
        answers={
            200: Answer(
                about="The session with its title.",
                content={"application/json": schemas.describe_session()},
                headers=("ETag",),
            )
        },
        errors=merge(BODY, OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="delete_session",
        method="DELETE",
        path=_ID,
        about="Deletes a session and all that belongs to it; for its owner.",
        request_headers=_IF_MATCH,
        answers=NO_CONTENT,
        errors=merge(CHANGE, QUERY, OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="list_entries",
        method="GET",
        path=f"{_ID}entries/",
        about="A page of the entries, in order; the newest page first.",
        query=describe_query(PAGING),
        request_headers=_IF_NONE_MATCH,
        answers=read(schemas.ENTRIES),
        errors=merge(PAGE, FOUND, {409: ("reset",)}),
    ),
    Operation(
        name="list_present",
        method="GET",
        path=f"{_ID}present/",
        about="Who is present in the session; 503 also where that is not known.",
        request_headers=_IF_NONE_MATCH,
        answers=read(schemas.PRESENT),
        errors=merge(QUERY, FOUND),
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
        query=describe_texts(
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
                headers=("ETag", *_LIVE_HEADERS),
            ),
            204: Answer(
                about="A long poll for which no item came.", headers=_LIVE_HEADERS
            ),
            304: Answer(about="Nothing has changed.", headers=("ETag", *_END_HEADERS)),
        },
        errors=merge(
            FOUND, {400: ("invalid_parameter",), 410: ("gone",)}, list_live_errors()
        ),
    ),
    Operation(
        name="find_end_of_stream",
        method="HEAD",
        path=_STREAM,
        about="The end of the stream, without a body.",
        query=describe_texts(offset="It is checked, and changes nothing."),
        answers={200: Answer(about="The end.", headers=_END_HEADERS)},
        errors=merge(FOUND, {400: ("invalid_parameter",)}),
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
            CHANGE,
            RAW,
            FOUND,
            FULL,
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
            CHANGE,
            RAW,
            FOUND,
            FULL,
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
        answers=NO_CONTENT,
        errors=merge(CHANGE, QUERY, OWNER, {412: ("changed",)}),
    ),
    Operation(
        name="send_message",
        method="POST",
        path=f"{_ID}messages/",
        about="Takes a message as the socket does, with the same ids.",
        body=schemas.MESSAGES,
        answers={
            200: show(schemas.ACK, "Committed."),
            204: Answer(about="Done: of cancel and typing."),
        },
        errors=merge(
            CHANGE,
            QUERY,
            RAW,
            FOUND,
            FULL,
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
        answers=read(schemas.MEMBERS),
        errors=merge(QUERY, FOUND),
    ),
    Operation(
        name="change_member",
        method="PATCH",
        path=_MEMBER,
        about="Changes the role of a member; owner hands the session over. For its"
        " owner.",
        body=take(members.NEW_ROLE),
        answers=NO_CONTENT,
        errors=merge(BODY, OWNER, {409: ("owner_stays", "sessions_full")}),
    ),
    Operation(
        name="remove_member",
        method="DELETE",
        path=_MEMBER,
        about="Removes a member, or leaves; for the owner, and for the member itself.",
        answers=NO_CONTENT,
        errors=merge(CHANGE, QUERY, OWNER, {409: ("owner_stays",)}),
    ),
    Operation(
        name="list_invitations",
        method="GET",
        path=_INVITATIONS,
        about="The newest invitations, without their tokens; for the owner.",
        request_headers=_IF_NONE_MATCH,
        answers=read(schemas.INVITATIONS),
        errors=merge(QUERY, OWNER),
    ),
    Operation(
        name="invite",
        method="POST",
        path=_INVITATIONS,
        about="Makes an invitation; for the owner.",
        body=take(members.ROLE, members.LIFETIME, members.SINGLE_USE),
        answers={201: show(schemas.MADE_INVITATION, "Made.")},
        errors=merge(BODY, OWNER, {409: ("too_many_members",)}),
    ),
    Operation(
        name="revoke_invitation",
        method="DELETE",
        path=f"{_INVITATIONS}{{invitation}}/",
        about="Revokes an invitation; members that it made stay. For the owner.",
        answers=NO_CONTENT,
        errors=merge(CHANGE, QUERY, OWNER, {404: ("invitation_unknown",)}),
    ),
    Operation(
        name="join",
        method="POST",
        path="/join/",
        about="Makes the user of the credential a member, by the token of an"
        " invitation.",
        body=take(members.TOKEN),
        answers={200: show(schemas.JOINED)},
        errors=merge(
            BODY,
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
