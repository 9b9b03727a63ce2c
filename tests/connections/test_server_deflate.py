"""Compression: its negotiation, its bounds, and what is never compressed."""

import json
import random
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as WebsocketsOpcode

from connections import close_codes
from connections.asgi import TRANSPORT, Message, Receive, Send, get_extension
from connections.capacity.load.frames import build_frame as build_masked
from connections.config.sections import CompressionConfig
from connections.exceptions import ProtocolViolation, Refused
from connections.layers.prepared_message import PreparedMessage
from connections.metrics.counters import CompressionCounts
from connections.middleware import reject
from connections.server.websocket import frames
from connections.server.websocket.deflate import (
    Agreement,
    Deflater,
    Inflater,
    negotiate,
)
from connections.server.websocket.frames import FrameReader
from connections.testing.communicators import make_config
from tests.connections.handshakes import HEADERS
from tests.connections.http_channel import Peer

ON = CompressionConfig(enabled=True)
KEPT = replace(ON, server_no_context_takeover=False)
ALONE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "response"),
    [
        ("permessage-deflate", ALONE),
        ("Permessage-Deflate ;client_max_window_bits", ALONE),
        ("permessage-deflate; server_no_context_takeover", ALONE),
        ("permessage-deflate; client_no_context_takeover", ALONE),
        (
            "permessage-deflate; server_max_window_bits=10",
            f"{ALONE}; server_max_window_bits=10",
        ),
        (
            'permessage-deflate; server_max_window_bits="9"',
            f"{ALONE}; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; client_max_window_bits=11",
            f"{ALONE}; client_max_window_bits=11",
        ),
        (
            "x-other; a=b, permessage-deflate; server_max_window_bits=8, "
            "permessage-deflate; server_max_window_bits=15",
            f"{ALONE}; server_max_window_bits=15",
        ),
        (
            "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=7,"
            ", permessage-deflate",
            ALONE,
        ),
    ],
)
def test_the_first_offer_that_can_be_met_is_answered(
    offers: str, response: str
) -> None:
    agreement = negotiate([offers.encode()], ON)
    assert agreement is not None
    assert agreement.response.decode() == response
    assert not agreement.keeps_window
    several = negotiate([part.encode() for part in offers.split(",")], ON)
    assert several == agreement, "headers of one name are one list"


@pytest.mark.parametrize(
    "offer",
    [
        "x-webkit-deflate-frame",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=1e1",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=11",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=",
        'permessage-deflate; client_max_window_bits="10',
        "permessage-deflate; unknown",
        "permessage-deflate; =",
        "permessage-deflate;",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate, broken;;",
        "",
        ",",
    ],
)
def test_an_offer_that_is_invalid_or_cannot_be_met_is_declined(offer: str) -> None:
    assert negotiate([offer.encode()], ON) is None


def test_a_window_is_kept_only_where_both_sides_want_it() -> None:
    kept = negotiate([b"permessage-deflate"], KEPT)
    assert kept == Agreement(
        keeps_window=True,
        window_bits=12,
        response=b"permessage-deflate; client_no_context_takeover",
    )
    offer = b"permessage-deflate; server_no_context_takeover"
    alone = negotiate([offer], KEPT)
    assert alone is not None
    assert not alone.keeps_window


def test_a_long_run_of_separators_is_skipped_in_one_step() -> None:
    """A step for each space, each over the rest of the run, held the event loop."""
    spaces = " " * 200_000
    offers = f"{spaces},{spaces}x-other,{spaces}permessage-deflate,{spaces}"
    agreement = negotiate([offers.encode()], ON)
    assert agreement is not None
    assert agreement.response.decode() == ALONE


@settings(max_examples=200)
@given(st.text(alphabet='permssage-dflt;,=" 0189\t\x00é', max_size=60))
def test_no_header_raises(text: str) -> None:
    negotiate([text.encode("latin-1")], ON)


def make_deflater(
    config: CompressionConfig = ON, *, keeps_window: bool = False, bits: int = 15
) -> tuple[Deflater, CompressionCounts]:
    counts = CompressionCounts()
    agreement = Agreement(keeps_window, bits, b"")
    return Deflater(agreement, config, counts), counts


def inflate_with_reference(sent: list[bytes], *, keeps_window: bool) -> list[bytes]:
    """Return the messages of frames as the `websockets` library reads them."""
    reader = PerMessageDeflate(not keeps_window, True, 15, 15)
    found = []
    for frame in sent:
        is_deflated = bool(frame[0] & 0x40)
        size = frame[1]
        start = 2 if size < 126 else 4 if size == 126 else 10
        opcode = WebsocketsOpcode(frame[0] & 0x0F)
        one = Frame(opcode, frame[start:], rsv1=is_deflated)
        found.append(bytes(reader.decode(one).data))
    return found


TEXTS = [
    (f'{{"number": {number}, "text": "' + "to be or not to be " * 60 + '"}').encode()
    for number in range(4)
]


@pytest.mark.parametrize("keeps_window", [False, True])
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_another_implementation_reads_what_is_compressed(
    keeps_window: bool, bits: int
) -> None:
    deflater, counts = make_deflater(keeps_window=keeps_window, bits=bits)
    plain = [*TEXTS, b"short", b"", bytes(2000), *TEXTS]
    sent = [deflater.build(frames.TEXT, one) for one in plain]
    assert inflate_with_reference(sent, keeps_window=keeps_window) == plain
    assert 0 < counts.after_bytes < counts.before_bytes / 4
    assert sent[0][0] == 0xC1
    assert sent[4][0] == 0x81


def test_a_kept_window_compresses_better_and_is_counted() -> None:
    alone, _ = make_deflater()
    keeping, _ = make_deflater(keeps_window=True, bits=12)
    first = len(keeping.build(frames.TEXT, TEXTS[0]))
    assert len(keeping.build(frames.TEXT, TEXTS[1])) < first / 2
    assert keeping.held_bytes == 32_768
    alone.build(frames.TEXT, TEXTS[0])
    assert alone.held_bytes == 0


def test_bytes_that_do_not_become_smaller_are_sent_as_they_are() -> None:
    noise = random.Random(1).randbytes(3000)
    deflater, _counts = make_deflater(keeps_window=True, bits=12)
    sent = [
        deflater.build(frames.BINARY, one) for one in (TEXTS[0], noise, TEXTS[1], noise)
    ]
    assert [frame[0] for frame in sent] == [0xC2, 0x82, 0xC2, 0x82]
    assert inflate_with_reference(sent, keeps_window=True)[2] == TEXTS[1]


@pytest.mark.parametrize("key", ["token", "ticket", "access_token", "refresh_token"])
def test_a_message_with_a_token_or_ticket_is_never_compressed(key: str) -> None:
    content = {"type": "entry", "text": "x" * 2000, "data": {key: "secret"}}
    deflater, counts = make_deflater()
    text = json.dumps(content)
    assert deflater.build(frames.TEXT, text.encode())[0] == 0x81
    assert deflater.build_prepared(PreparedMessage(text))[0] == 0x81
    assert counts.before_bytes == 0


def test_a_message_to_many_is_compressed_once_for_each_window() -> None:
    message = PreparedMessage(TEXTS[0].decode())
    wide = [make_deflater()[0].build_prepared(message) for _ in range(3)]
    narrow = make_deflater(bits=9)[0].build_prepared(message)
    assert wide[0] is wide[1] is wide[2]
    assert narrow is not wide[0]
    assert inflate_with_reference([wide[0], narrow], keeps_window=False) == [
        TEXTS[0],
        TEXTS[0],
    ]
    plain = PreparedMessage(TEXTS[0].decode(), compress=False)
    assert make_deflater()[0].build_prepared(plain)[0] == 0x81


def test_own_messages_follow_a_message_to_many_in_a_kept_window() -> None:
    """The client's window holds the message to many, the server's does not."""
    deflater, _ = make_deflater(keeps_window=True, bits=12)
    message = PreparedMessage(TEXTS[2].decode())
    sent = [
        deflater.build(frames.TEXT, TEXTS[0]),
        deflater.build_prepared(message),
        deflater.build(frames.TEXT, TEXTS[1]),
        deflater.build(frames.TEXT, TEXTS[0]),
    ]
    assert inflate_with_reference(sent, keeps_window=True) == [
        *(TEXTS[0], TEXTS[2], TEXTS[1], TEXTS[0])
    ]


def deflate(payload: bytes, level: int = 9, bits: int = 15) -> bytes:
    made = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (made.compress(payload) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


def read(
    *pieces: bytes, size: int = 100_000, ratio: float = 1000
) -> tuple[list[tuple[int, Any]], int]:
    """Return the messages of frames, and the code of the violation."""
    reader = FrameReader(size)
    reader.inflater = Inflater(size, ratio)
    events: list[tuple[int, Any]] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next_event()) is not None:
                if event[0] is not frames.FRAGMENT:
                    events.append((int(event[0]), event[1]))
    except ProtocolViolation as violation:
        return events, violation.code
    assert reader.held_bytes == 0
    return events, 0


@pytest.mark.parametrize(
    "payload",
    [
        # RFC 7692, section 7.2.3: one block, no compression, a final block, two
        # blocks.
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ],
)
def test_the_examples_of_the_rfc_are_read(payload: bytes) -> None:
    assert read(build_masked(0xC1, payload)) == ([(1, "Hello")], 0)
    halves = build_masked(0x41, payload[:3]) + build_masked(0x80, payload[3:])
    assert read(halves) == ([(1, "Hello")], 0)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_messages_in_fragments_with_control_frames_between(level: int) -> None:
    data = deflate(TEXTS[0] * 5, level)
    third = len(data) // 3
    stream = (
        build_masked(0x42, data[:third]),
        build_masked(0x89, b"ping"),
        build_masked(0x00, data[third : 2 * third]),
        build_masked(0x00, b""),
        build_masked(0x80, data[2 * third :]),
        build_masked(0x81, b"plain"),
        build_masked(0xC1, b"\x00"),
    )
    assert read(*stream) == (
        [(9, b"ping"), (2, TEXTS[0] * 5), (1, "plain"), (1, "")],
        0,
    )


def test_a_message_of_exactly_the_size_is_taken_though_it_cannot_be_compressed() -> (
    None
):
    noise = random.Random(2).randbytes(100_000)
    data = deflate(noise, 6)
    assert len(data) > 100_000
    assert read(build_masked(0xC2, data)) == ([(2, noise)], 0)


_LARGE = deflate(bytes(180_000))
_STORED = deflate(bytes(120_000), level=0)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        ([build_masked(0xC9, b"x")], 1002),
        ([build_masked(0xC8, b"\x03\xe8")], 1002),
        ([build_masked(0x41, b"\x00"), build_masked(0xC0, b"\x00")], 1002),
        ([build_masked(0xA1, b"x")], 1002),
        ([build_masked(0x91, b"x")], 1002),
        ([build_masked(0xE1, deflate(b"x"))], 1002),
        ([build_masked(0xC0, b"x")], 1002),
        ([build_masked(0xC1, b"\x07\xff\xff")], 1007),
        ([build_masked(0xC1, deflate(b"caf\xc3"))], 1007),
        ([build_masked(0x41, deflate(b"\xff" * 50)[:8]), b"x"], 1007),
        ([build_masked(0xC2, b"\x03\x00" * 1000)], 1007),
        ([build_masked(0xC2, deflate(bytes(100_001)))], 1009),
        ([build_masked(0xC2, deflate(bytes(10_000_000)))], 1009),
        ([build_masked(0xC2, bytes(120_000))], 1009),
        (
            [
                build_masked(0x42, _LARGE[: len(_LARGE) // 2]),
                build_masked(0x80, _LARGE[len(_LARGE) // 2 :]),
            ],
            1009,
        ),
        (
            [
                build_masked(0x42, _STORED[:60_000]),
                build_masked(0x00, _STORED[60_000:]),
            ],
            1009,
        ),
    ],
)
def test_what_fails_the_connection(stream: list[bytes], code: int) -> None:
    assert read(*stream)[1] == code


def test_the_ratio_is_bounded_above_four_kilobytes() -> None:
    assert read(build_masked(0xC2, deflate(bytes(4096))), ratio=10)[1] == 0
    assert read(build_masked(0xC2, deflate(bytes(4097))), ratio=10)[1] == 1009
    text = deflate(TEXTS[0] * 4)
    assert read(build_masked(0xC1, text), ratio=100)[1] == 0


def test_an_unfinished_compressed_message_counts_its_decompressor() -> None:
    reader = FrameReader(100_000)
    reader.inflater = Inflater(100_000, 1000)
    reader.feed(build_masked(0x42, deflate(bytes(50_000))))
    assert reader.next_event() is not None
    assert reader.held_bytes >= 50_000 + 32_768


def test_without_an_agreement_rsv1_is_a_violation() -> None:
    reader = FrameReader(1000)
    reader.feed(build_masked(0xC1, deflate(b"x")))
    with pytest.raises(ProtocolViolation, match="reserved"):
        reader.next_event()


@settings(max_examples=100)
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_rubbish_never_raises_anything_else(data: bytes, tail: bytes) -> None:
    _events, code = read(build_masked(0x42, data), build_masked(0x80, tail), size=500)
    assert code in (0, 1007, 1009)


# A whole WebSocket


def make_application(**accept: Any) -> Any:
    """Return an application that echoes, and sends a text as it is for "plain"."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", **accept})
        while (message := await receive())["type"] == "websocket.receive":
            reply: Message = {"type": "websocket.send", "text": message["text"]}
            if message["text"].startswith("plain"):
                reply["compress"] = False
            await send(reply)

    return application


def make_handshake(extensions: str = "permessage-deflate") -> bytes:
    headers = {**HEADERS, b"Sec-WebSocket-Extensions": [extensions.encode()]}
    lines = [b"GET /ws HTTP/1.1"]
    lines += [name + b": " + value[0] for name, value in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.fixture
def configured(settings: Any) -> Any:
    def configure(**options: Any) -> None:
        settings.WEBSOCKET = make_config(**options)

    return configure


@pytest.mark.parametrize(
    ("enabled", "accept", "is_agreed"),
    [
        (False, {}, False),
        (True, {}, True),
        (False, {"compression": True}, True),
        (True, {"compression": False}, False),
    ],
)
async def test_it_is_agreed_where_it_is_on_for_all_or_for_the_connection(
    configured: Any, enabled: bool, accept: dict[str, bool], is_agreed: bool
) -> None:
    configured(compression={"enabled": enabled})
    async with Peer(make_application(**accept)) as peer:
        await peer.send(make_handshake())
        answer = await peer.read()
        assert (f"Sec-WebSocket-Extensions: {ALONE}".encode() in answer) is is_agreed
        text = TEXTS[0].decode()
        await peer.send_over_socket(build_masked(0x81, text.encode()))
        assert (await peer.read())[0] == (0xC1 if is_agreed else 0x81)
        await peer.send_over_socket(build_masked(0x81, b"plain" + text.encode()))
        assert (await peer.read())[0] == 0x81


async def test_a_refused_client_agrees_on_nothing(configured: Any) -> None:
    """Nobody knows who it is, and it gets two short messages."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await reject(scope, receive, send, Refused(close_codes.UNAUTHENTICATED))

    configured(compression={"enabled": True})
    async with Peer(application) as peer:
        await peer.send(make_handshake())
        answer = await peer.read()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Extensions" not in answer


async def test_a_bomb_ends_with_1009_and_a_compressed_ping_with_1002(
    configured: Any,
) -> None:
    configured(compression={"enabled": True})
    for frame, code in (
        (build_masked(0xC2, deflate(bytes(1 << 28))), 1009),
        (build_masked(0xC9, b""), 1002),
    ):
        async with Peer(make_application()) as peer:
            await peer.send(make_handshake())
            await peer.read()
            await peer.send_over_socket(frame)
            assert (await peer.read())[2:4] == code.to_bytes(2, "big")


async def test_kept_windows_are_in_the_budget_and_freed_first(configured: Any) -> None:
    configured(
        compression={"enabled": True, "server_no_context_takeover": False},
        buffers={"max_total_bytes": "60kB"},
    )
    async with Peer(make_application()) as first:
        second = Peer(make_application(), beside=first)
        async with second:
            for peer in (first, second):
                await peer.send(make_handshake())
                await peer.read()
                await peer.send_over_socket(build_masked(0x81, TEXTS[0]))
                assert (await peer.read())[0] == 0xC1
            assert first.server.budget.total_bytes == 32_768, "one window of two"
            for peer in (first, second):
                await peer.send_over_socket(build_masked(0x81, TEXTS[1]))
                assert (await peer.read())[0] == 0xC1, "nobody was ended"


async def test_a_message_to_many_reaches_each_as_it_agreed(configured: Any) -> None:
    """The compressed frame is made once; a client without an agreement has its own."""
    configured(compression={"enabled": True})
    transports: list[Any] = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        transports.append(get_extension(scope, TRANSPORT))
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async with Peer(application) as first:
        second, plain = (Peer(application, beside=first) for _ in range(2))
        async with second, plain:
            for peer, offer in (
                (first, "permessage-deflate"),
                (second, "permessage-deflate"),
                (plain, "x-none"),
            ):
                await peer.send(make_handshake(offer))
                await peer.read()
            message = PreparedMessage(TEXTS[0].decode())
            assert all(one.send_prepared(message) for one in transports)
            compressed = await first.read()
            assert compressed == await second.read()
            assert compressed[0] == 0xC1
            assert (await plain.read())[4:] == TEXTS[0]
            counts = first.server.compression
            assert counts.before_bytes == 2 * len(TEXTS[0])
