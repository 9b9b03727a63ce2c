"""
Read the head of a plain handshake that arrived whole, without I/O.

Nearly every handshake comes in one read and in one form. This module takes that form
alone, and leaves any other request to Twisted's parser: a head in parts, with a body or
bytes behind it, with a folded, repeated or invalid field, or with another method. What
it takes means the same to both, so that no request passes one that the other refuses.
"""

import re

from connections.server.cookie_check import find_problem
from connections.server.websocket.handshake import (
    ALIKE,
    MAX_ALIKE,
    MAX_ALIKE_BYTES,
    BadHandshake,
    Header,
    read_header,
)

_MOST_BYTES = 8_192
"""Half of what Twisted's parser takes."""

_MOST_FIELDS = 64
_REQUEST_LINE = re.compile(rb"GET (/[\x21-\x7e]*) HTTP/1\.1")
_END = b"\r\n\r\n"
_ONCE = (b"host", b"upgrade")
_OF_BODIES = frozenset(
    (b"content-length", b"expect", b"te", b"trailer", b"transfer-encoding")
)

_lines: dict[bytes, Header] = {}
"""The headers in lines that many clients send alike, and that hold no secret."""


def read_head(received: bytes) -> tuple[bytes, list[Header]] | None:
    """Return the target and the headers of a handshake; None for any other request."""
    end = received.find(_END)
    if end != len(received) - len(_END) or end > _MOST_BYTES:
        return None
    first, *lines = received[:end].split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None or len(lines) > _MOST_FIELDS:
        return None
    ends = len(lines) + 2
    if b"\0" in received or (received.count(b"\r"), received.count(b"\n")) != (
        ends,
        ends,
    ):
        # A line break of another kind stands within a field.
        return None
    try:
        headers = [_lines.get(line) or _read_line(line) for line in lines]
    except BadHandshake:
        return None
    names = [name for name, _ in headers]
    if any(names.count(one) != 1 for one in _ONCE) or not _OF_BODIES.isdisjoint(names):
        return None
    if headers[names.index(b"upgrade")][1].lower() != b"websocket":
        return None
    if b"cookie" in names:
        cookies = [value for name, value in headers if name == b"cookie"]
        if find_problem(b";".join(cookies)) is not None:
            return None
    return found[1], headers


def _read_line(line: bytes) -> Header:
    """
    Return the header in a line.

    Raises:
        BadHandshake: the line is none, or begins with a space.
    """
    name, colon, value = line.partition(b":")
    if not colon:
        raise BadHandshake(400, "a line is no header")
    header = read_header(name.lower(), value.strip(b" \t"))
    if header[0] in ALIKE and len(line) <= MAX_ALIKE_BYTES:
        if len(_lines) >= MAX_ALIKE:
            _lines.clear()
        _lines[line] = header
    return header
