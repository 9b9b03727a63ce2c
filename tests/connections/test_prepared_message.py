"""Messages that are encoded once for many connections."""

import pytest

from connections.layers.prepared_message import PreparedMessage
from connections.server.websocket.frames import build_prepared, build_text


def test_connections_with_equal_parameters_share_one_frame() -> None:
    message = PreparedMessage("a text")
    first, second = (message.get_frame(None, build_prepared) for _ in range(2))
    assert first is second
    assert first == build_text("a text")


def test_other_parameters_get_a_frame_of_their_own() -> None:
    message = PreparedMessage("a text")
    message.get_frame(None, build_prepared)
    assert message.get_frame(15, lambda one: b"compressed") == b"compressed"
    assert message.get_frame(None, build_prepared) == build_text("a text")


@pytest.mark.parametrize(
    ("content", "header", "key"),
    [("é", b"\x81\x02", "text"), (b"\x00", b"\x82\x01", "bytes")],
)
def test_text_and_bytes_keep_their_kind(
    content: str | bytes, header: bytes, key: str
) -> None:
    message = PreparedMessage(content)
    assert message.get_frame(None, build_prepared) == header + message.payload
    assert message.size_bytes == len(message.payload)
    assert message.event == {"type": "websocket.send", key: content}


def test_a_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        PreparedMessage("\ud800")
