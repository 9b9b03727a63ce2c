"""Read what a client claims to have when it attaches to a session."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from connections.asgi import Message
from sessions_history.chain import Mark
from sessions_history.reads import Claim

NEW = "new"
"""The word in the path that asks for a new session."""

MANY = "many"
"""The word in the path that asks for none: each session is attached by a message."""

_OFFSET = re.compile(r"[0-9]{1,15}")
_MAX_OPEN = 100
_MAX_ACKED = 20
_MAX_OFFSET = 10**15
_MAX_ID_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """A message that attaches a connection to one more session."""

    session_id: str | None
    """None for a new session."""

    claim: Claim
    has_presence: bool
    request_id: str | None
    """The id that the client gave to the message."""


def read_claim(scope: Message) -> tuple[str | None, Claim]:
    """
    Return the session id of a path, None for a new one or none, and the claim.

    Raises:
        ValueError: the query is malformed.
    """
    session_id: str = scope["url_route"]["kwargs"]["session_id"]
    if session_id in (NEW, MANY):
        return None, Claim()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))

    def read(name: str) -> str | None:
        values = query.get(name, [])
        if len(values) > 1:
            raise ValueError(f"{name} is given twice")
        return values[0] if values else None

    epoch, offset, open_ = read("epoch"), read("offset"), read("open")
    # A chain of another release is unknown, and therefore not compared.
    mark = Mark.parse(read("chain") or "")
    acked = _parse_acked((read("acked") or "").split(","))
    if (epoch is None) != (offset is None):
        raise ValueError("epoch and offset belong together")
    open_offsets = open_.split(",") if open_ else []
    if len(open_offsets) > _MAX_OPEN:
        raise ValueError("too many open entries")
    for text in (*open_offsets, *([offset] if offset else [])):
        if not _OFFSET.fullmatch(text):
            raise ValueError("an offset is a whole number")
    return session_id, Claim(
        epoch=epoch,
        offset=int(offset or 0),
        mark=mark if epoch is not None else None,
        acked=acked if epoch is not None else (),
        open_offsets=tuple(map(int, open_offsets)) if epoch is not None else (),
    )


def asks_presence(scope: Message) -> bool:
    """
    Return whether a client asks who is present in its session.

    Raises:
        ValueError: the query is malformed.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    values = query.get("presence", ["0"])
    if values not in (["0"], ["1"]):
        raise ValueError("presence is 0 or 1")
    return values == ["1"]


def read_attach(content: dict[str, Any]) -> AttachRequest:
    """
    Return what an `attach` message asks for; its keys are those of the query.

    Raises:
        ValueError: a value is not what the key takes; the text names both.
    """
    session_id, epoch = content.get("session"), content.get("epoch")
    offset, chain = content.get("offset"), content.get("chain")
    open_offsets, request_id = content.get("open") or [], content.get("id")
    has_presence = content.get("presence", False)
    if not isinstance(session_id, str):
        raise ValueError(f"session: the id of a session, or {NEW!r}")
    if not _is_text(epoch) or not _is_text(chain):
        raise ValueError("epoch and chain: a text, or none")
    acked = content.get("acked") or []
    if not isinstance(acked, list) or not all(isinstance(one, str) for one in acked):
        raise ValueError("acked: a list of texts")
    if (epoch is None) != (offset is None):
        raise ValueError("epoch and offset belong together")
    if not isinstance(open_offsets, list) or len(open_offsets) > _MAX_OPEN:
        raise ValueError(f"open: a list of at most {_MAX_OPEN} offsets")
    if not all(map(_is_offset, [offset or 0, *open_offsets])):
        raise ValueError("offset and open: whole numbers from 0")
    if not isinstance(has_presence, bool):
        raise ValueError("presence: true or false")
    if not _is_text(request_id) or len(request_id or "") > _MAX_ID_CHARACTERS:
        raise ValueError(f"id: a text of at most {_MAX_ID_CHARACTERS} characters")
    claim = Claim()
    if epoch is not None and session_id != NEW:
        claim = Claim(
            epoch=epoch,
            offset=offset or 0,
            mark=Mark.parse(chain or ""),
            acked=_parse_acked(acked),
            open_offsets=tuple(open_offsets),
        )
    return AttachRequest(
        session_id=None if session_id == NEW else session_id,
        claim=claim,
        has_presence=has_presence,
        request_id=request_id,
    )


def _parse_acked(texts: list[str]) -> tuple[Mark, ...]:
    if len(texts) > _MAX_ACKED:
        raise ValueError(f"acked names more than {_MAX_ACKED} commits")
    return tuple(mark for text in texts if (mark := Mark.parse(text)))


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_offset(value: object) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and 0 <= value < _MAX_OFFSET  # type: ignore[operator]
