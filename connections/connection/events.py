"""Check the events of a consumer, before they change anything."""

from typing import Any

from connections import close_codes
from connections.asgi import Message
from connections.net.headers import require_header

_REASON_BYTES = 123
"""RFC 6455, section 5.5: a control frame holds 125 bytes, two for the code."""


def check_accept(message: Message, offered: list[str]) -> Message:
    """
    Return a websocket.accept that every server can send.

    Raises:
        TypeError, ValueError: the client did not offer the subprotocol, or a header
            is not valid.
    """
    subprotocol = message.get("subprotocol")
    if subprotocol is not None and subprotocol not in offered:
        raise ValueError(
            f"the client did not offer the subprotocol {subprotocol!r};"
            f" it offered {', '.join(offered) or 'none'}"
        )
    headers = [tuple(header) for header in message.get("headers") or ()]
    for header in headers:
        if len(header) != 2:
            raise ValueError(f"a header is a pair of bytes, not {header!r}")
        require_header(*header)
    return {**message, "headers": headers}


def check_close(message: Message) -> tuple[int, str]:
    """
    Return the code and reason of a websocket.close; a long reason is cut.

    Raises:
        TypeError, ValueError: the code may not be sent, or the reason is no text.
    """
    code: Any = message.get("code")
    if code is None:
        code = close_codes.CLOSED.code
    return require_code(code), cut_reason(message.get("reason") or "")


def require_code(code: Any) -> int:
    """
    Return a code that a close frame may hold.

    Raises:
        ValueError: RFC 6455 does not allow an application to send it.
    """
    is_number = isinstance(code, int) and not isinstance(code, bool)
    if is_number and close_codes.may_send(code):
        return int(code)
    raise ValueError(
        f"the close code {code!r} may not be sent;"
        " 1000 and 3000 to 4999 are for applications"
    )


def cut_reason(reason: object) -> str:
    """
    Return the part of a reason that fits a close frame.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a close is a str, not {type(reason).__name__}")
    encoded = reason.encode("utf-8", "replace")[:_REASON_BYTES]
    return encoded.decode("utf-8", "ignore")
