"""Check the status and the headers of an HTTP response."""

import re
from collections.abc import Iterable

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2: a token."""

_LINE_BREAKS = re.compile(rb"[\r\n\0]")

_LENGTH = re.compile(rb"[0-9]{1,18}")


_OF_HANDSHAKE = frozenset(
    (
        *(b"connection", b"content-length", b"transfer-encoding", b"upgrade"),
        *(b"sec-websocket-accept", b"sec-websocket-extensions"),
        *(b"sec-websocket-protocol", b"sec-websocket-version"),
    )
)
"""RFC 6455, section 4.2.2, and those that frame a body, of which there is none."""

_OF_CONNECTION = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade"),
    )
)
"""RFC 9110, section 7.6.1."""

_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def require_status(status: object) -> None:
    """
    Check that an application may answer with a status.

    Raises:
        ValueError: it is none of a final response. After 101 a proxy would pass on
            what follows as that of an open WebSocket.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"the status of a response is 200 to 599, not {status!r}")


def keep_content_headers(
    headers: Iterable[tuple[bytes, bytes]],
) -> list[tuple[bytes, bytes]]:
    """
    Return the headers of an application's response without those of the connection.

    The server alone frames the body and decides how long the connection lasts.

    Raises:
        TypeError, ValueError: as require_header(), or Content-Length is no number, or
            there are several.
    """
    kept = []
    lengths = 0
    for name, value in headers:
        require_header(name, value)
        key = name.lower()
        if key == b"content-length":
            lengths += 1
            if lengths > 1 or not _LENGTH.fullmatch(value):
                raise ValueError("a response has one Content-Length, a whole number")
        if key not in _OF_CONNECTION:
            kept.append((name, value))
    return kept


def require_addable(name: bytes, value: bytes) -> None:
    """
    Check that a consumer may add a header to the acceptance of a handshake.

    Raises:
        ValueError: the header is the server's own, or a client would refuse its value
            (RFC 9110, section 5.5).
    """
    if name.lower() in _OF_HANDSHAKE:
        raise ValueError(
            f"the header {name.decode()!r} is the server's; for a subprotocol there is"
            " accept(subprotocol=...)"
        )
    if _CONTROLS.search(value):
        raise ValueError(f"the header {name.decode()!r} contains a control character")


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
