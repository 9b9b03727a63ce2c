"""Read what a client claims to have when it attaches to a session."""

import re
from urllib.parse import parse_qs

from connections.asgi import Message
from sessions_history.chain import Mark
from sessions_history.reads import Claim

NEW = "new"
"""The word in the path that asks for a new session."""

_OFFSET = re.compile(r"[0-9]{1,15}")
_MAX_OPEN = 100


def read_claim(scope: Message) -> tuple[str | None, Claim]:
    """
    Return the session id of a path, None for a new session, and the claim.

    Raises:
        ValueError: the query is malformed.
    """
    session_id: str = scope["url_route"]["kwargs"]["session_id"]
    if session_id == NEW:
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
