"""Check the events of a consumer, before they change anything."""

from typing import Any

from connections import close_codes
from connections.asgi import Message
from connections.net.headers import require_addable, require_header

_REASON_BYTES = 123
"""RFC 6455, section 5.5: a control frame holds 125 bytes, two for the code."""

_MOST_HEADERS = 64
_HEADERS_BYTES = 8_000
"""Of an acceptance: clients refuse a head beyond 128 lines or 8 to 16 kB."""

_BYTES = (bytes, bytearray, memoryview, type(None))


def complete_accept(message: Message, scope: Message, connection_id: str) -> Message:
    """
    Check a websocket.accept; add the subprotocol and X-Connection-Id.

    Without protect() any subprotocol is accepted and none is added, as in Channels.
    In a unit test of a consumer alone X-Connection-Id is not added either.

    Raises:
        TypeError, ValueError: the client did not offer the subprotocol, or a header
            is not valid.
    """
    headers = list(message.get("headers") or ())
    for header in headers:
        if len(header) != 2:
            raise ValueError(f"a header is a pair of bytes, not {header!r}")
        require_header(*header)
        require_addable(*header)
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > _MOST_HEADERS or size > _HEADERS_BYTES:
        raise ValueError(
            f"{len(headers)} headers of {size} bytes; a handshake takes at most"
            f" {_MOST_HEADERS} of {_HEADERS_BYTES} bytes in all"
        )
    pairs = [*map(tuple, headers), (b"x-connection-id", connection_id.encode())]
    if scope.get("is_unprotected"):
        return {**message, "headers": pairs if "asgi" in scope else headers}
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
    return {**message, "subprotocol": subprotocol, "headers": pairs}


def make_send(
    text_data: str | None, bytes_data: bytes | None, compress: bool = True
) -> Message:
    """
    Return a websocket.send; without compress the message is sent as it is.

    Raises:
        ValueError: there is neither text nor bytes.
    """
    message: Message = {"type": "websocket.send"}
    if text_data is not None:
        message["text"] = text_data
    elif bytes_data is not None:
        message["bytes"] = bytes_data
    else:
        raise ValueError("send() takes text_data or bytes_data")
    if not compress:
        message["compress"] = False
    return message


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


def measure(message: Message) -> int:
    """
    Return the bytes of a message's payload; text counts as UTF-8.

    Raises:
        TypeError: it is neither text nor bytes.
    """
    text: str | None = message.get("text")
    if text is None:
        payload = message.get("bytes")
        if not isinstance(payload, _BYTES):
            raise TypeError(f"the bytes of a message are no {_kind_of(payload)}")
        if isinstance(payload, memoryview) and payload.nbytes != len(payload):
            raise TypeError("the bytes of a message are no memoryview of larger items")
        return len(payload or b"")
    if not isinstance(text, str):
        raise TypeError(f"the text of a message is no {_kind_of(text)}")
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _kind_of(value: object) -> str:
    return type(value).__name__
