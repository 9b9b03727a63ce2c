"""Check the events of a consumer, before they change anything."""

from typing import Any

from connections import close_codes
from connections.asgi import Message
from connections.net.headers import require_header

_REASON_BYTES = 123
"""RFC 6455, section 5.5: a control frame holds 125 bytes, two for the code."""


def complete_accept(message: Message, scope: Message, connection_id: str) -> Message:
    """
    Check a websocket.accept; add the subprotocol and X-Connection-Id.

    Without our middleware, as in a test of a consumer alone, nothing is added, and
    any subprotocol is accepted, as in Channels.

    Raises:
        TypeError, ValueError: the client did not offer the subprotocol, or a header
            is not valid.
    """
    headers = list(message.get("headers") or ())
    for header in headers:
        if len(header) != 2:
            raise ValueError(f"a header is a pair of bytes, not {header!r}")
        require_header(*header)
    if "node" not in scope:
        return {**message, "headers": headers}
    offered = scope.get("subprotocols") or []
    subprotocol = message.get("subprotocol")
    if subprotocol is None:
        # A browser that offers subprotocols requires one in the answer.
        subprotocol = next(iter(offered), None)
    elif subprotocol not in offered:
        raise ValueError(
            f"the client did not offer the subprotocol {subprotocol!r};"
            f" it offered {', '.join(offered) or 'none'}"
        )
    pairs = [*map(tuple, headers), (b"x-connection-id", connection_id.encode())]
    return {**message, "subprotocol": subprotocol, "headers": pairs}


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
