from typing import Any

import pytest

from connections.server.websocket.handshake import (
    BadHandshake,
    build_acceptance,
    build_denial_head,
    build_refusal,
    build_response_head,
)
from tests.connections.handshakes import KEY, read


def test_the_key_is_answered_as_the_rfc_shows() -> None:
    """RFC 6455, section 1.3."""
    assert read().accept_key == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_scope_has_what_the_request_says() -> None:
    scope = read(
        b"/a%20b/%C3%A9?x=%20",
        headers={
            b"Sec-Websocket-Protocol": [b"a, b", b"c"],
            b"Origin": [b"https://one", b"https://two"],
            b"X_Forged": [b"x"],
            b"Daphne-Root-Path": [b"/admin"],
        },
    ).get_scope()
    assert scope["path"] == "/a b/é"
    assert scope["raw_path"] == b"/a%20b/%C3%A9"
    assert scope["query_string"] == b"x=%20"
    assert scope["subprotocols"] == ["a", "b", "c"]
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    assert origins == [b"https://one", b"https://two"], "a second one is not hidden"
    names = {name for name, _ in scope["headers"]}
    assert not names & {b"x_forged", b"daphne-root-path"}


def test_handshakes_share_the_headers_that_clients_send_alike() -> None:
    """A header with a secret, or a long one, is never kept for others."""
    headers = {
        b"User-Agent": [b"a browser"],
        b"Origin": [b"https://example.com/" + b"x" * 200],
        b"Authorization": [b"Bearer secret"],
        b"Cookie": [b"sessionid=secret"],
    }
    one, two = ({pair[0]: pair for pair in read(headers=headers).headers} for _ in "ab")
    assert one == two
    assert {name for name in one if one[name] is two[name]} == {
        *(b"connection", b"host", b"sec-websocket-version"),
        *(b"upgrade", b"user-agent"),
    }


def test_a_shared_header_is_checked_each_time() -> None:
    for _ in range(2):
        with pytest.raises(BadHandshake, match="value is not valid"):
            read(headers={b"User-Agent": [b"a\x0bb"]})


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"method": b"POST"}, 400),
        ({"version": b"HTTP/1.0"}, 400),
        ({"uri": "/é".encode()}, 400),
        ({"headers": {b"Connection": [b"close"]}}, 400),
        ({"headers": {b"Sec-Websocket-Version": [b"8"]}}, 426),
        ({"headers": {b"Sec-Websocket-Version": []}}, 426),
        ({"headers": {b"Sec-Websocket-Key": [b"c2hvcnQ="]}}, 400),
        ({"headers": {b"Sec-Websocket-Key": [KEY, KEY]}}, 400),
        ({"headers": {b"Sec-Websocket-Key": [b"not base64!"]}}, 400),
        ({"headers": {b"X-Odd": [b"a\x0bb"]}}, 400),
        ({"headers": {b"X Odd": [b"a"]}}, 400),
        ({"headers": {b"Sec-Websocket-Protocol": ["é".encode()]}}, 400),
    ],
)
def test_what_is_no_handshake_is_refused(options: dict[str, Any], status: int) -> None:
    with pytest.raises(BadHandshake) as caught:
        read(**options)
    assert caught.value.status == status


def test_the_acceptance_carries_subprotocol_and_headers() -> None:
    handshake = read(headers={b"Sec-Websocket-Protocol": [b"a, b"]})
    text = build_acceptance(handshake, "b", [(b"x-id", b"7")]).decode()
    assert text.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert "Sec-WebSocket-Protocol: b\r\n" in text
    assert text.endswith("x-id: 7\r\n\r\n")


def test_a_subprotocol_must_have_been_offered() -> None:
    with pytest.raises(ValueError, match="did not offer"):
        build_acceptance(read(), "b", [])


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\0b", b"a\n"])
def test_a_header_cannot_be_split(value: bytes) -> None:
    with pytest.raises(ValueError, match="not valid"):
        build_response_head(200, [(b"x", value)])


def test_a_refusal_is_a_whole_response() -> None:
    text = build_refusal(503, "why", [(b"Retry-After", b"1")]).decode()
    head, body = text.split("\r\n\r\n")
    assert head.splitlines()[0] == "HTTP/1.1 503 Service Unavailable"
    assert "Content-Length: 4" in head.splitlines()
    assert "Connection: close" in head.splitlines()
    assert body == "why\n"


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"connection", b"Upgrade"])
def test_headers_about_the_connection_of_a_denial_are_the_servers(name: bytes) -> None:
    head = build_denial_head(403, [(name, b"chunked"), (b"X-Why", b"chunked")], 3)
    assert head.count(b"chunked") == 1
    assert head.count(b"Connection: close\r\n") == 1


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"x")],
        [(b"Content-Length", b"3"), (b"content-length", b"3")],
        [(b"x y", b"v")],
        [(b"x", b"a\r\nb")],
        [(b"x", None)],
        [(None, b"v")],
    ],
)
def test_a_denial_with_wrong_headers_is_an_error(headers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        build_denial_head(403, headers, 3)


def test_the_length_of_a_denial_is_given_once_and_only_when_known() -> None:
    own = [(b"Content-Length", b"3")]
    assert build_denial_head(404, own, 3).lower().count(b"content-length") == 1
    assert b"Content-Length: 5" in build_denial_head(404, [], 5)
    assert b"content-length" not in build_denial_head(404, [], None).lower()
