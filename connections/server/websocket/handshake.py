"""Parse and answer the opening handshake, without I/O (RFC 6455, section 4.2)."""

import base64
import binascii
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from connections.interning import share
from connections.net.headers import keep_content_headers, require_header
from connections.server.compat import HEADER_NAME_RE, INVALID_HEADER_VALUE_BYTES

Header = tuple[bytes, bytes]
Address = list[Any] | tuple[str, int]

_COMMON = (
    *(b"accept", b"accept-encoding", b"accept-language", b"authorization"),
    *(b"cache-control", b"connection", b"cookie", b"host", b"origin", b"pragma"),
    *(b"sec-websocket-extensions", b"sec-websocket-key", b"sec-websocket-protocol"),
    *(b"sec-websocket-version", b"upgrade", b"user-agent", b"x-forwarded-for"),
    *(b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"),
)
_NAMES = {name: name for name in _COMMON}
"""Names of headers that all handshakes share: a scope holds them for long."""

ALIKE = frozenset(
    (
        *(b"accept-encoding", b"accept-language", b"cache-control", b"connection"),
        *(b"host", b"origin", b"pragma", b"sec-websocket-extensions"),
        *(b"sec-websocket-version", b"upgrade", b"user-agent"),
    )
)
"""Headers that many clients send alike, and that hold no secret."""

MAX_ALIKE_BYTES = 200
MAX_ALIKE = 500

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class BadHandshake(Exception):
    """A request that cannot become a WebSocket; `status` is the HTTP answer."""

    def __init__(
        self, status: int, explanation: str, headers: Sequence[Header] = ()
    ) -> None:
        super().__init__(status, explanation)
        self.status = status
        self.explanation = explanation
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """The parsed handshake of a client."""

    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[Header]
    """Headers with names in lower case; those of one name in the order of arrival."""
    subprotocols: tuple[str, ...]
    client: Address | None
    """Host and port of the peer and of this end; None for a Unix socket."""
    local: Address | None
    is_secure: bool

    @property
    def accept_key(self) -> bytes:
        """The answer to the key of the client (RFC 6455, section 4.2.2)."""
        (key,) = get_all(self.headers, b"sec-websocket-key")
        return base64.b64encode(hashlib.sha1(key + _GUID).digest())

    def get_scope(self) -> dict[str, Any]:
        """Return the part of the ASGI scope that comes from the request."""
        return {
            "type": "websocket",
            "http_version": "1.1",
            "scheme": "wss" if self.is_secure else "ws",
            "client": self.client,
            "server": self.local,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query_string,
            "headers": self.headers,
            "subprotocols": list(self.subprotocols),
        }


def read_handshake(
    method: bytes,
    uri: bytes,
    version: bytes,
    headers: Sequence[Header],
    *,
    client: Address | None = None,
    local: Address | None = None,
    is_secure: bool = False,
) -> Handshake:
    """
    Return the handshake in an HTTP request with one Host header and these headers.

    Raises:
        BadHandshake: the request is no handshake of version 13.
    """
    # Django would read "X_Y" as "X-Y" (CVE-2015-0219). The command line sets the
    # root path; a client must not.
    headers = [
        header
        for header in headers
        if b"_" not in header[0] and header[0] != b"daphne-root-path"
    ]
    raw_path, _, query_string = uri.partition(b"?")
    if not uri.isascii():
        raise BadHandshake(400, "the path is not ASCII")
    if method != b"GET" or version != b"HTTP/1.1":
        raise BadHandshake(400, "a WebSocket opens with GET and HTTP/1.1")
    if "upgrade" not in _read_list(headers, b"connection", lower=True):
        raise BadHandshake(400, "the Connection header does not say upgrade")
    if get_all(headers, b"sec-websocket-version") != [b"13"]:
        version_header = (b"Sec-WebSocket-Version", b"13")
        raise BadHandshake(426, "the version must be 13", [version_header])
    subprotocols = _read_list(headers, b"sec-websocket-protocol")
    if not all(map(str.isascii, subprotocols)):
        # An answer could not name it: RFC 6455, section 4.1 asks for tokens.
        raise BadHandshake(400, "a subprotocol is not ASCII")
    _require_key(get_all(headers, b"sec-websocket-key"))
    return Handshake(
        # Clients of one route share the text of their path.
        path=share(unquote(raw_path.decode("ascii"))),
        raw_path=raw_path,
        query_string=query_string,
        headers=headers,
        subprotocols=tuple(subprotocols),
        client=client,
        local=local,
        is_secure=is_secure,
    )


def build_acceptance(
    handshake: Handshake,
    subprotocol: str | None,
    extra: Sequence[Header],
    extensions: bytes | None = None,
) -> bytes:
    """
    Return the response that opens the WebSocket.

    Raises:
        ValueError: the client did not offer the subprotocol, or a header is
            not valid.
    """
    headers: list[Header] = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", handshake.accept_key),
    ]
    if subprotocol is not None:
        if subprotocol not in handshake.subprotocols:
            raise ValueError(
                f"the client did not offer the subprotocol {subprotocol!r}"
            )
        headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
    if extensions is not None:
        headers.append((b"Sec-WebSocket-Extensions", extensions))
    return build_response_head(101, [*headers, *extra])


def build_refusal(status: int, explanation: str, extra: Iterable[Header] = ()) -> bytes:
    """Return a complete response that refuses the WebSocket."""
    body = explanation.encode() + b"\n"
    headers: list[Header] = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    return build_response_head(status, [*headers, *extra]) + body


def build_denial_head(
    status: int, headers: Iterable[Header], body_bytes: int | None
) -> bytes:
    """
    Return the head of an application's own refusal; the connection closes after it.

    Raises:
        TypeError, ValueError: as keep_content_headers().
    """
    extra = [(b"Connection", b"close")]
    headers = keep_content_headers(headers)
    has_length = any(name.lower() == b"content-length" for name, _ in headers)
    if body_bytes is not None and not has_length:
        extra.append((b"Content-Length", str(body_bytes).encode()))
    return build_response_head(status, [*headers, *extra])


def build_response_head(status: int, headers: Iterable[Header]) -> bytes:
    """
    Return a status line and headers.

    Raises:
        TypeError, ValueError: as require_header().
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}".encode()]
    for name, value in headers:
        require_header(name, value)
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def read_headers(raw: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[Header]:
    """
    Return the headers of a request, from the values of each name.

    Raises:
        BadHandshake: as read_header().
    """
    return [
        read_header(name.lower(), value) for name, values in raw for value in values
    ]


def read_header(name: bytes, value: bytes) -> Header:
    """
    Return a valid header; handshakes share those that many clients send alike.

    Raises:
        BadHandshake: the name or the value is not valid.
    """
    if name in ALIKE and len(value) <= MAX_ALIKE_BYTES:
        return _share_header(name, value)
    return _check_header(name, value)


def _check_header(name: bytes, value: bytes) -> Header:
    if not HEADER_NAME_RE.fullmatch(name):
        raise BadHandshake(400, "a header's name is not valid")
    if INVALID_HEADER_VALUE_BYTES.intersection(value):
        raise BadHandshake(400, "a header's value is not valid")
    return _NAMES.get(name, name), value


_share_header = functools.lru_cache(MAX_ALIKE)(_check_header)


def _require_key(keys: list[bytes]) -> None:
    try:
        is_valid = len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, IndexError):
        is_valid = False
    if not is_valid or len(keys) != 1:
        raise BadHandshake(400, "there must be one Sec-WebSocket-Key of 16 bytes")


def get_all(headers: Sequence[Header], name: bytes) -> list[bytes]:
    """Return the values of all headers of a name in lower case."""
    return [value for key, value in headers if key == name]


def _read_list(
    headers: Sequence[Header], name: bytes, *, lower: bool = False
) -> list[str]:
    text = b",".join(get_all(headers, name)).decode("latin-1")
    text = text.lower() if lower else text
    return [part.strip() for part in text.split(",") if part.strip()]
