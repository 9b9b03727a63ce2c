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
