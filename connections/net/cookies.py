"""The Cookie header (RFC 6265, section 4.2), read in linear time."""

import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def read_cookies(header: str) -> Iterator[tuple[str, str]]:
    """
    Yield the names and values of a Cookie header, quoted values without quotes.

    Not by http.cookies: what it takes for a quoted value grows with the square
    of its length before Python 3.11.10 and 3.12.6 (CVE-2024-7592), and whoever
    asks for a handshake may send one.
    """
    for part in header.split(";"):
        name, _, value = part.partition("=")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = _ESCAPE.sub(_unescape, value[1:-1])
        yield name.strip(), value


def _unescape(found: re.Match[str]) -> str:
    octal, character = found.groups()
    return chr(int(octal, 8)) if octal else character
