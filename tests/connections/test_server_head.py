"""The head of a plain handshake, and all that is left to Twisted's parser."""

import pytest

from connections.server.websocket.head import read_head

REQUEST = b"GET /ws/?a=b HTTP/1.1"
FIELDS = (
    b"Host: example.com",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: WebSocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def build(*fields: bytes, request: bytes = REQUEST) -> bytes:
    return b"\r\n".join((request, *fields)) + b"\r\n\r\n"


def test_a_plain_handshake_is_read() -> None:
    head = read_head(build(*FIELDS, b"Cookie: a=1", b"cookie:\t b=2 ", b"X-Empty:"))
    assert head is not None
    target, headers = head
    assert target == b"/ws/?a=b"
    assert headers == [
        (b"host", b"example.com"),
        (b"connection", b"keep-alive, Upgrade"),
        (b"upgrade", b"WebSocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-empty", b""),
    ]


def test_lines_that_clients_send_alike_are_shared_unless_they_hold_secrets() -> None:
    secrets = (b"Authorization: Bearer secret", b"Cookie: sessionid=secret")
    one, two = (read_head(build(*FIELDS, b"Origin: https://x", *secrets)) for _ in "ab")
    assert one is not None and two is not None
    shared = {a[0] for a, b in zip(one[1], two[1], strict=True) if a is b}
    assert shared == {
        *(b"connection", b"host", b"origin", b"sec-websocket-version", b"upgrade"),
    }


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"\r\n\r\n",
        REQUEST,
        build(*FIELDS)[:-2],
        build(*FIELDS)[:-1],
        build(*FIELDS) + b"\x81\x80abcd",
        build(*FIELDS) + build(*FIELDS),
        b"\r\n" + build(*FIELDS),
        build(*FIELDS).replace(b"\r\n", b"\n"),
        build(*FIELDS[:2], b"X-Folded: a", b" b", *FIELDS[2:]),
        build(*FIELDS, b" X-Space: before"),
        build(*FIELDS, b"X-Space : behind the name"),
        build(*FIELDS, b"no colon"),
        build(*FIELDS, b": no name"),
        build(*FIELDS, b"X-Bare: a\rb"),
        build(*FIELDS, b"X-Line: a\nb"),
        build(*FIELDS, b"X-Nul: a\0b"),
        build(*FIELDS, b"Cookie: a=\\000"),
        build(*FIELDS, b"Cookie: " + b"\\" * 101),
        build(*FIELDS, FIELDS[0]),
        build(*FIELDS, b"Upgrade: h2c"),
        build(*FIELDS[1:]),
        build(*FIELDS[:2], *FIELDS[3:]),
        build(*FIELDS[:2], b"Upgrade: h2c", *FIELDS[3:]),
        build(*FIELDS, b"Content-Length: 0"),
        build(*FIELDS, b"Transfer-Encoding: chunked"),
        build(*FIELDS, b"Expect: 100-continue"),
        build(*FIELDS, *(b"X-%d: a" % number for number in range(60))),
        build(*FIELDS, b"X-Large: " + b"a" * 8_192),
        build(*FIELDS, request=b"POST /ws/ HTTP/1.1"),
        build(*FIELDS, request=b"get /ws/ HTTP/1.1"),
        build(*FIELDS, request=b"GET /ws/ HTTP/1.0"),
        build(*FIELDS, request=b"GET /ws/ HTTP/1.1 "),
        build(*FIELDS, request=b"GET  /ws/ HTTP/1.1"),
        build(*FIELDS, request=b"GET /w s/ HTTP/1.1"),
        build(*FIELDS, request=b"GET /\xc3\xa9 HTTP/1.1"),
        build(*FIELDS, request=b"GET http://example.com/ws/ HTTP/1.1"),
        build(*FIELDS, request=b"GET * HTTP/1.1"),
    ],
)
def test_anything_else_is_left_to_the_other_parser(received: bytes) -> None:
    assert read_head(received) is None
