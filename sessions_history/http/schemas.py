"""The JSON Schemas of what requests about sessions bring, and of their answers."""

from functools import cache
from typing import Any

from connections.api.kinds import MOMENT_SCHEMA
from connections.api.operations import describe_item, describe_object
from sessions_history.approval_models import NOTE_LENGTH, PART_ID_LENGTH
from sessions_history.http import rows
from sessions_history.member_models import Role
from sessions_history.message_fields import (
    CONNECTION_CHARACTERS,
    MESSAGE_ID,
    MOST_OFFSET,
)
from sessions_history.models import HistoryEntry

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_MOMENT_OR_NULL = {**MOMENT_SCHEMA, "type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_OFFSET: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_OFFSET}
_ROLE: Schema = {"type": "string", "enum": list(map(str, Role))}
_MESSAGE_ID = {"type": "string", "pattern": f"^{MESSAGE_ID.pattern}$"}
_EPOCH = {**_TEXT, "description": "The incarnation of the log, if it is known."}
_METADATA = {"type": ["object", "null"], "description": "For the responder."}

ITEMS: Schema = {"type": "array", "items": {}}
ITEM_OR_ITEMS: Schema = {"description": "One item, or an array of items."}


def describe_optional(properties: Schema, **optional: Schema) -> Schema:
    """Return the JSON Schema of an object that may lack some of its properties."""
    described = describe_object(properties)
    described["properties"] |= optional
    return described


@cache
def describe_session() -> Schema:
    """Return the JSON Schema of a session."""
    described = describe_item(rows.find_own(""))
    described["properties"]["role"] = {**_ROLE, "description": "That of the client."}
    return described


def describe_page(item: Schema, **more: Schema) -> Schema:
    """Return the JSON Schema of a page of a list."""
    about = "The cursor of the next page; null on the last one."
    cursor = {"type": ["string", "null"], "description": about}
    items = {"type": "array", "items": item}
    return describe_object({"items": items, "next_cursor": cursor, **more})


ENTRY = describe_optional(
    {
        "type": {"const": "entry"},
        "offset": _OFFSET,
        "kind": _TEXT,
        "from": {"type": "string", "enum": HistoryEntry.Sender.values},
        "at": MOMENT_SCHEMA,
        "state": {"type": "string", "enum": HistoryEntry.State.values},
        "data": {},
    },
    author={**_TEXT, "description": "The member whose message it is."},
    replaces={**_OFFSET, "description": "The answer in whose place it stands."},
    parts={
        "type": "array",
        "items": {"type": "object"},
        "description": "Those of an answer, each whole; a text has its position.",
    },
    changes={**_COUNT, "description": "How many changes made the parts."},
)
ENTRIES = describe_page(ENTRY, session=_TEXT, epoch=_TEXT, last_offset=_COUNT)

PRESENT = describe_object(
    {
        "members": {
            "type": "array",
            "items": describe_object({"member": _TEXT, "data": {}}),
        }
    }
)
MEMBERS = describe_object(
    {
        "role": {**_ROLE, "description": "That of the client."},
        "items": {
            "type": "array",
            "items": describe_object(
                {
                    "author": {**_TEXT, "description": "As entries name it."},
                    "user": {
                        "type": ["string", "null"],
                        "description": "The key of the user; null for an owner that"
                        " began the session.",
                    },
                    "role": _ROLE,
                    "since": _MOMENT_OR_NULL,
                }
            ),
        },
    }
)
INVITATION = describe_object(
    {
        "id": _TEXT,
        "role": _ROLE,
        "single_use": {"type": "boolean"},
        "created_at": MOMENT_SCHEMA,
        "expires_at": MOMENT_SCHEMA,
        "used_at": _MOMENT_OR_NULL,
        "revoked_at": _MOMENT_OR_NULL,
    }
)
INVITATIONS = describe_object({"items": {"type": "array", "items": INVITATION}})
_TOKEN = {**_TEXT, "description": "For the link; it is shown this once."}
MADE_INVITATION = describe_object({**INVITATION["properties"], "token": _TOKEN})
JOINED = describe_object({"session": _TEXT, "role": _ROLE})

ACK = describe_optional(
    {"type": {"const": "ack"}, "id": _MESSAGE_ID, "offset": _OFFSET},
    chain={**_TEXT, "description": "The newest commit of the session."},
)


def _describe_message(kind: str, properties: Schema, **optional: Schema) -> Schema:
    described = describe_optional({"type": {"const": kind}, **properties}, **optional)
    # A field that the server does not know is passed over, as on a socket.
    return {**described, "title": kind, "additionalProperties": True}


_DECISION: Schema = {
    "id": _MESSAGE_ID,
    "offset": _OFFSET,
    "part": {"type": "string", "minLength": 1, "maxLength": PART_ID_LENGTH},
}
_CONNECTION: Schema = {
    "type": "string",
    "maxLength": CONNECTION_CHARACTERS,
    "description": "The connection of the client, whose typing this begins or ends.",
}
_NOTE = {"type": "string", "maxLength": NOTE_LENGTH}
MESSAGES: Schema = {
    "oneOf": [
        _describe_message(
            "message",
            {"id": _MESSAGE_ID, "data": {}},
            answer={
                "type": ["boolean", "null"],
                "description": "Whether the responder answers; as the role has it"
                " without a value.",
            },
            metadata=_METADATA,
            connection=_CONNECTION,
        ),
        _describe_message(
            "typing", {"active": {"type": "boolean"}}, connection=_CONNECTION
        ),
        _describe_message("cancel", {"offset": _OFFSET}, epoch=_EPOCH),
        _describe_message(
            "regenerate",
            {"id": _MESSAGE_ID, "offset": _OFFSET},
            epoch=_EPOCH,
            metadata=_METADATA,
        ),
        _describe_message("approve", _DECISION, note=_NOTE, epoch=_EPOCH),
        _describe_message("deny", _DECISION, note=_NOTE, epoch=_EPOCH),
    ]
}
