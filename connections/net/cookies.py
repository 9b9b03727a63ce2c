"""Parse the Cookie header (RFC 6265, section 4.2) in linear time."""

import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def read_cookies(header: str) -> Iterator[tuple[str, str]]:
    """
    Yield the names and values of a Cookie header, quoted values without quotes.

    http.cookies is not used: before Python 3.11.10 and 3.12.6 it needs quadratic
    time for quoted values (CVE-2024-7592), which anyone can send in a handshake.
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
