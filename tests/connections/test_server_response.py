from http import HTTPStatus

import pytest

from connections import close_codes
from connections.close_codes import CloseReason
from connections.server.websocket.response import Opening, find_refusal
from tests.connections.handshakes import read

START = {
    "type": "websocket.http.response.start",
    "status": 404,
    "headers": [(b"x-why", b"because")],
}


def body(text: bytes, more_body: bool = False) -> dict[str, object]:
    return {
        "type": "websocket.http.response.body",
        "body": text,
        "more_body": more_body,
    }


def test_a_denial_in_one_part_says_its_length() -> None:
    opening = Opening(read())
    opening.begin_denial(START)
    head, _, text = opening.deny(body(b"no")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"x-why: because" in head
    assert b"Content-Length: 2" in head
    assert text == b"no"


def test_a_denial_in_parts_ends_with_the_connection() -> None:
    opening = Opening(read())
    opening.begin_denial(START)
    first = opening.deny(body(b"no", more_body=True))
    assert b"content-length" not in first.lower()
    assert b"Connection: close" in first
    assert opening.deny(body(b" place")) == b" place"


def test_a_body_needs_a_start() -> None:
    with pytest.raises(ValueError, match="without its start"):
        Opening(read()).deny(body(b"no"))


@pytest.mark.parametrize("status", ["200", None, True, 101, 100, 199, 600, 99999, 40.3])
def test_a_denial_has_the_status_of_a_final_response(status: object) -> None:
    """After 101 a proxy would take the connection for an open WebSocket."""
    opening = Opening(read())
    with pytest.raises(ValueError, match="200 to 599"):
        opening.begin_denial({**START, "status": status})
    assert opening.refuse(500, "an error").startswith(b"HTTP/1.1 500")


@pytest.mark.parametrize("status", [HTTPStatus.FORBIDDEN, 403])
def test_a_status_may_be_of_the_enumeration(status: int) -> None:
    opening = Opening(read())
    opening.begin_denial({**START, "status": status})
    assert opening.deny(body(b"no")).startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_a_denial_that_cannot_be_sent_leaves_room_for_the_refusal() -> None:
    opening = Opening(read())
    opening.begin_denial(START)
    with pytest.raises(TypeError, match="is bytes"):
        opening.deny({**body(b""), "body": "text"})
    assert opening.refuse(500, "an error").startswith(b"HTTP/1.1 500")


def test_a_refusal_does_not_mix_with_a_denial_under_way() -> None:
    opening = Opening(read())
    assert opening.refuse(503, "later").startswith(b"HTTP/1.1 503")
    opening.begin_denial(START)
    opening.deny(body(b"no", more_body=True))
    assert opening.refuse(503, "later") == b""


@pytest.mark.parametrize(
    ("close_reason", "status"),
    [
        (None, 504),
        (close_codes.ASKED_TO_RECONNECT, 504),
        (close_codes.RATE_LIMITED, 429),
        (close_codes.DRAINING, 503),
    ],
)
def test_an_unanswered_handshake_is_a_reason_for_503_only_in_a_drain(
    close_reason: CloseReason | None, status: int
) -> None:
    assert find_refusal(close_reason)[0] == status
