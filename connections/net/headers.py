"""Check the headers of an HTTP response."""

import re

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2: a token."""

_LINE_BREAKS = re.compile(rb"[\r\n\0]")


def require_header(name: object, value: object) -> None:
    """
    Check that a header can be sent.

    Raises:
        TypeError: its name or value is not bytes.
        ValueError: its name is no token, or its value contains a line break.
    """
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise TypeError(f"the name and value of a header are bytes; {name!r} is wrong")
    if not _NAME.fullmatch(name) or _LINE_BREAKS.search(value):
        raise ValueError(f"the header {name!r} is not valid")
