"""Read the fields of a client's message; bad ones get an error that names them."""

import re
from typing import Any

from connections.asgi import Message
from connections.exceptions import InvalidMessage
from sessions_history.approval_models import NOTE_LENGTH, PART_ID_LENGTH
from sessions_history.approvals import Call
from sessions_history.payloads import clean_text

MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{12,80}-[0-9]{1,15}")
MOST_OFFSET = 2**63 - 1
CONNECTION_CHARACTERS = 32


def read_id(content: Message) -> str:
    """
    Return the id of a message.

    Raises:
        InvalidMessage: it has none.
    """
    message_id = content.get("id")
    if not isinstance(message_id, str) or not MESSAGE_ID.fullmatch(message_id):
        raise InvalidMessage(
            "invalid_message", "id: 12 or more of A-Z a-z 0-9 _ -, then - and a number"
        )
    return message_id


def read_offset(content: Message, message_id: str | None = None) -> int:
    """
    Return the offset that a message names.

    Raises:
        InvalidMessage: it names none.
    """
    offset: Any = content.get("offset")
    is_number = isinstance(offset, int) and not isinstance(offset, bool)
    if not is_number or not 0 < offset <= MOST_OFFSET:
        text = "offset: a whole number"
        raise InvalidMessage("invalid_message", text, message_id=message_id)
    return int(offset)


def read_epoch(content: Message, message_id: str | None = None) -> str | None:
    """
    Return the epoch that a message names, or None.

    Raises:
        InvalidMessage: it is no text.
    """
    epoch = content.get("epoch")
    if not isinstance(epoch, str | None):
        text = "epoch: a text, or none"
        raise InvalidMessage("invalid_message", text, message_id=message_id)
    return epoch


def read_active(content: Message) -> bool:
    """
    Return whether the user types, as a message says.

    Raises:
        InvalidMessage: it does not say.
    """
    is_typing = content.get("active")
    if not isinstance(is_typing, bool):
        raise InvalidMessage("invalid_message", "active: true or false")
    return is_typing


def read_connection(content: Message) -> str:
    """
    Return the connection of the client that a posted message names, or "".

    Raises:
        InvalidMessage: it is no text, or too long.
    """
    return _read_text(content, "connection", CONNECTION_CHARACTERS, None)


def read_call(content: Message, session_id: str, message_id: str) -> Call:
    """
    Return the tool call that a message names, of a session.

    Raises:
        InvalidMessage: it names none.
    """
    offset = read_offset(content, message_id)
    part_id = _read_text(content, "part", PART_ID_LENGTH, message_id)
    if not part_id:
        text = "part: the id of a tool call"
        raise InvalidMessage("invalid_message", text, message_id=message_id)
    return Call(session_id, offset, part_id)


def read_decision(content: Message, message_id: str) -> dict[str, str]:
    """
    Return the note to a decision, and the epoch; both may be empty.

    Raises:
        InvalidMessage: one is no text, or too long.
    """
    note = _read_text(content, "note", NOTE_LENGTH, message_id)
    return {"note": note, "epoch": read_epoch(content, message_id) or ""}


def _read_text(content: Message, name: str, most: int, message_id: str | None) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        text = f"{name}: a text of at most {most} characters"
        raise InvalidMessage("invalid_message", text, message_id=message_id)
    return clean_text(value)
