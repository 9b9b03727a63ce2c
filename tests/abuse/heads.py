"""
Invalid request heads, each with its expected answer.

A head is a name, what becomes of a right handshake, and the status that this
project answers; where it accepts only to say why not, code and reason.
"""

from collections.abc import Callable

Head = tuple[str, Callable[[bytes], bytes], str]

_UNKNOWN = "4001 unauthenticated"
_LISTED = "https://app.example.com"
_OWN = "http://127.0.0.1:{port}"
_EVIL = "evil.example"


def _add(*headers: str) -> Callable[[bytes], bytes]:
    added = "".join(f"{header}\r\n" for header in headers).encode("latin-1")
    return lambda request: request[:-2] + added + b"\r\n"


def _swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda request: request.replace(old, new, 1)


def _with_origin(*origins: str) -> Callable[[bytes], bytes]:
    """Return a function that replaces the Origin; {port} is the server's."""

    def change(request: bytes) -> bytes:
        lines = request.split(b"\r\n")
        own = next(line for line in lines if line.startswith(b"Origin: "))
        port = own.rpartition(b":")[2].decode()
        written = [f"Origin: {one.format(port=port)}".encode() for one in origins]
        at = lines.index(own)
        return b"\r\n".join([*lines[:at], *written, *lines[at + 1 :]])

    return change


HEADS: tuple[Head, ...] = (
    ("one header of 20 kB", _add("X-Large: " + "x" * 20_000), "431"),
    ("20 headers of 1 kB", _add(*[f"X-Large: {'x' * 1000}"] * 20), "400"),
    ("600 headers", _add(*(f"X-{index}: x" for index in range(600))), "400"),
    (
        "1000 subprotocols",
        _add("Sec-WebSocket-Protocol: " + ", ".join(f"p{n}" for n in range(1000))),
        "101",
    ),
    ("NUL", _add("X-Nul: a\0b"), "400"),
    ("a vertical tab", _add("X-Tab: a\x0bb"), "400"),
    ("NEL", _add("X-Nel: a\x85b"), "400"),
    ("line feeds alone", lambda request: request.replace(b"\r\n", b"\n"), "408"),
    ("HTTP/1.0", _swap(b"HTTP/1.1", b"HTTP/1.0"), "400"),
    ("HTTP/9.9", _swap(b"HTTP/1.1", b"HTTP/9.9"), "400"),
    ("POST", _swap(b"GET", b"POST"), "400"),
    ("no key", _swap(b"Sec-WebSocket-Key", b"X-Key"), "400"),
    ("no upgrade", _swap(b"Connection: Upgrade", b"Connection: close"), "400"),
    ("a short key", _swap(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhl"), "400"),
    ("version 8", _swap(b"Version: 13", b"Version: 8"), "426"),
    ("a tab in a name", _swap(b"Host:", b"Ho\tst:"), "400"),
    ("two hosts", _swap(b"Host:", b"Host: evil.example\r\nHost:"), "400"),
    ("a foreign host", _swap(b"Host: 127.0.0.1", b"Host: evil.example"), "403"),
    ("an empty host", _swap(b"Host: ", b"Host:\r\nX-Host: "), "403"),
    (
        "a suffix of the host",
        _swap(b"Host: 127.0.0.1", b"Host: 127.0.0.1.evil.example"),
        "403",
    ),
    ("a body of 300 MB", _add("Content-Length: 300000000"), "413"),
    ("a length that is none", _add("Content-Length: -1"), "400"),
    (
        "chunks and a length",
        _add("Content-Length: 5", "Transfer-Encoding: chunked"),
        "400",
    ),
    ("an unknown path", _swap(b"/echo/", b"/nowhere/"), "404"),
    ("a path upwards", _swap(b"/echo/", b"/../../etc/passwd"), "404"),
    ("a path that is not ASCII", _swap(b"/echo/", b"/\xff\xfe/"), "400"),
    (
        "a token not ASCII",
        _add("Authorization: Bearer \xe9\xff"),
        "4001 unauthenticated",
    ),
    ("an empty token", _add("Authorization: Bearer "), _UNKNOWN),
    (
        "a token of 10 kB",
        _add("Authorization: Bearer " + "x" * 10_000),
        "4001 unauthenticated",
    ),
    ("only a token for a subprotocol", _add("Sec-WebSocket-Protocol: bearer.x"), "400"),
    ("zeros", lambda request: bytes(1000), "408"),
    ("rubbish", lambda request: b"\xff\xfe\r\n\r\n" * 9, "400"),
)
"""Valid and invalid request heads."""

ORIGINS: tuple[Head, ...] = (
    ("its own", _with_origin(_OWN), "101"),
    ("one that is listed", _with_origin(_LISTED), "101"),
    ("none", _with_origin(), "403"),
    ("null", _with_origin("null"), "403"),
    ("empty", _with_origin(""), "403"),
    ("another host", _with_origin(f"http://{_EVIL}"), "403"),
    ("a suffix", _with_origin(f"{_OWN}.{_EVIL}"), "403"),
    (
        "a suffix of the host",
        _with_origin("http://127.0.0.1.evil.example:{port}"),
        "403",
    ),
    ("a prefix of a listed one", _with_origin("https://evilapp.example.com"), "403"),
    (
        "a suffix of a listed one",
        _with_origin(f"{_LISTED}.{_EVIL}"),
        "403",
    ),
    ("below a listed one", _with_origin("https://evil.app.example.com"), "403"),
    ("user information", _with_origin(f"{_OWN}@{_EVIL}"), "403"),
    ("user information before", _with_origin("http://evil@127.0.0.1:{port}"), "403"),
    ("a trailing dot", _with_origin("http://127.0.0.1.:{port}"), "403"),
    ("a trailing dot of a listed one", _with_origin(f"{_LISTED}."), "403"),
    ("another port", _with_origin("http://127.0.0.1:1"), "403"),
    ("no port", _with_origin("http://127.0.0.1"), "403"),
    (
        "another port of a listed one",
        _with_origin(f"{_LISTED}:444"),
        "403",
    ),
    ("another scheme", _with_origin("ftp://127.0.0.1:{port}"), "403"),
    ("another scheme of a listed one", _with_origin("http://app.example.com"), "403"),
    ("a path", _with_origin(f"{_OWN}/x"), "403"),
    ("two", _with_origin(_OWN, f"http://{_EVIL}"), "403"),
    ("the same twice", _with_origin(_OWN, _OWN), "403"),
    ("two in one", _with_origin(f"{_OWN} http://{_EVIL}"), "403"),
    ("a file", _with_origin("file://"), "403"),
    ("an extension", _with_origin("chrome-extension://abcdef"), "403"),
)
"""RFC 6455, section 10.2; https://app.example.com is listed."""
