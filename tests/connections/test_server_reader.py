"""What becomes of the messages of a client after the server's close frame."""

import zlib
from typing import Any

import pytest

from connections import close_codes
from connections.capacity.load.frames import build_frame
from connections.close_codes import CloseReason
from connections.server.websocket.deflate import Inflater
from connections.server.websocket.reader import Inbound
from connections.testing.communicators import make_config
from tests.connections.fake_loop import FakeLoop

CLOSE = build_frame(0x88, (1000).to_bytes(2, "big"))


class Owner:
    """Keeps how the client or its violation ended the connection."""

    def __init__(self) -> None:
        self.ends: list[object] = []

    def take_ping(self, payload: bytes) -> None: ...

    def take_pong(self, payload: bytes) -> None: ...

    def take_close(self, code: int, reason: str) -> None:
        self.ends.append(code)

    def fail(self, close_reason: CloseReason, explanation: str) -> None:
        self.ends.append(close_reason)


def make_closing(owner: Owner, *before: bytes) -> Inbound:
    """Return an Inbound that got some bytes, and drops messages from then on."""
    transport: Any = None
    loop: Any = FakeLoop()
    config = make_config(max_message_size="1MB")
    inbound = Inbound(config, transport, owner, loop)
    inbound.open(Inflater(1_000_000, 1000))
    for received in before:
        inbound.take(received)
    inbound.drop_messages()
    return inbound


@pytest.mark.parametrize(("first", "payload"), [(0x81, b""), (0x82, b"x")])
def test_a_flood_of_small_messages_ends(first: int, payload: bytes) -> None:
    """Each read of them held the event loop until the client closed."""
    owner = Owner()
    message = build_frame(first, payload)
    make_closing(owner).take(message * (65_536 // len(message)))
    assert owner.ends[0] is close_codes.RATE_LIMITED


def test_messages_are_dropped_and_not_inflated() -> None:
    owner = Owner()
    inbound = make_closing(owner, build_frame(0x01, "é".encode()[:1]))
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(1 << 24)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    inbound.take(build_frame(0x80, "é".encode()[1:]))
    inbound.take(build_frame(0xC2, bomb[:-4]) + build_frame(0x81, b"text"))
    assert not owner.ends
    assert not len(inbound.queue)
    assert inbound.held_bytes == 0
    inbound.take(CLOSE)
    assert owner.ends == [1000]
