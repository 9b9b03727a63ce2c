"""The frame parser, also against the `websockets` library on arbitrary streams."""

import struct
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import frames as reference
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from connections.exceptions import ProtocolViolation
from connections.server.websocket import frames
from connections.server.websocket.frames import FrameReader

_MAX = 1000
_MASK = b"\x01\x02\x03\x04"


def build(
    first: int, payload: bytes, *, is_masked: bool = True, wide: int | None = None
) -> bytes:
    """Return a client's frame; `wide` is the width of its size in bytes."""
    size = len(payload)
    if wide is None:
        wide = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[wide]
    mask_bit = 0x80 if is_masked else 0
    header = bytes((first, mask_bit | short)) + size.to_bytes(wide or 1, "big")[-wide:]
    if not wide:
        header = header[:2]
    if not is_masked:
        return header + payload
    return header + _MASK + bytes(b ^ _MASK[i % 4] for i, b in enumerate(payload))


Events = list[tuple[int, object]]


def read(data: bytes, sizes: list[int]) -> tuple[Events, int]:
    """Return what comes out of the bytes, fed in pieces, and the code of the end."""
    reader = FrameReader(_MAX)
    events: Events = []
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    try:
        for piece in [*pieces, data]:
            reader.feed(piece)
            while (event := reader.next_event()) is not None:
                opcode, payload = event
                if opcode is frames.FRAGMENT:
                    continue
                if opcode is frames.CLOSE:
                    frames.parse_close(payload)
                events.append((int(opcode), payload))
                if opcode is frames.CLOSE:
                    return events, 0
    except ProtocolViolation as violation:
        return events, violation.code
    return events, 0


def read_with_reference(data: bytes) -> tuple[Events, int]:
    """Do the same with the `websockets` library."""
    protocol = Protocol(SERVER, state=OPEN, max_size=_MAX)
    protocol.receive_data(data)
    events: Events = []
    opcode, message = 0, b""
    for frame in protocol.events_received():
        assert isinstance(frame, reference.Frame)
        payload = bytes(frame.data)
        if frame.opcode >= reference.Opcode.CLOSE:
            events.append((int(frame.opcode), payload))
            continue
        if frame.opcode is not reference.Opcode.CONT:
            opcode = int(frame.opcode)
        message += payload
        if frame.fin:
            if opcode != frames.TEXT:
                events.append((opcode, message))
            else:
                # The library leaves UTF-8 to its caller.
                try:
                    events.append((opcode, message.decode()))
                except UnicodeDecodeError:
                    return events, 1007
            message = b""
    sent = protocol.close_sent
    ended = protocol.parser_exc is not None and sent is not None
    return events, int(sent.code) if ended and sent is not None else 0


_frames = st.builds(
    build,
    st.one_of(
        st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x00, 0x88, 0x89, 0x8A]),
        st.integers(0, 255),
    ),
    st.one_of(
        st.text(max_size=30).map(str.encode),
        st.binary(max_size=130),
        st.integers(0, 5000).map(lambda code: struct.pack("!H", code) + b"bye"),
        st.just(b"x" * 600),
    ),
    is_masked=st.sampled_from([True, True, True, True, True, False]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_frames, max_size=6), st.lists(st.integers(1, 50), max_size=20))
def test_it_reads_what_the_reference_reads(
    parts: list[bytes], sizes: list[int]
) -> None:
    """The same events and the same kind of end, however the bytes are cut."""
    data = b"".join(parts)
    events, code = read(data, sizes)
    expected, expected_code = read_with_reference(data)
    if code == 1007:
        # Wrong UTF-8 is refused at its fragment, the reference waits for the rest.
        assert expected[: len(events)] == events
        return
    is_close_last = events[-1:] != [] and events[-1][0] == frames.CLOSE
    if is_close_last and (expected, expected_code) == (events[:-1], 1002):
        # RFC 6455, section 5.4, lets a control frame stand within a message; the
        # library refuses a close there.
        return
    assert events == expected
    # A frame can be wrong in two ways; which one is named first may differ.
    both = {code, expected_code}
    wrong = {1002, 1007, 1009}
    assert code == expected_code or both <= wrong


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 5), max_size=50))
def test_rubbish_never_raises_anything_else(data: bytes, sizes: list[int]) -> None:
    read(data, sizes)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_message_of_any_size_goes_both_ways(size: int) -> None:
    reader = FrameReader(300_000)
    payload = bytes(i % 251 for i in range(size))
    reader.feed(build(0x82, payload))
    assert reader.next_event() == (frames.BINARY, payload)
    assert reader.held_bytes == 0
    sent = frames.build_frame(frames.BINARY, payload)
    parsed = Protocol(CLIENT, state=OPEN, max_size=None)
    parsed.receive_data(sent)
    (frame,) = parsed.events_received()
    assert isinstance(frame, reference.Frame)
    assert bytes(frame.data) == payload


def test_it_holds_no_more_than_a_message_and_says_how_much() -> None:
    reader = FrameReader(_MAX)
    reader.feed(build(0x02, b"x" * 600))
    assert reader.next_event() == (frames.FRAGMENT, 600)
    assert reader.held_bytes == 600
    assert reader.is_within_message
    reader.feed(build(0x80, b"x" * 401)[:6])
    with pytest.raises(ProtocolViolation) as caught:
        reader.next_event()
    assert caught.value.code == 1009


def test_what_was_handed_on_is_held_no_longer() -> None:
    """A client that said much once, and is silent, costs nothing for it."""
    reader = FrameReader(_MAX)
    received = build(0x82, bytes(500)) * 2
    before = sys.getrefcount(received)
    reader.feed(received)
    reader.next_event()
    assert sys.getrefcount(received) > before
    reader.next_event()
    assert sys.getrefcount(received) == before


def test_an_event_is_taken_one_at_a_time() -> None:
    """What is behind a full queue stays bytes, it does not become messages."""
    reader = FrameReader(_MAX)
    reader.feed(build(0x81, b"a") * 1000)
    assert reader.next_event() == (frames.TEXT, "a")
    assert reader.held_bytes == 999 * 7


@pytest.mark.parametrize("parts", [(b"",), (b"", b"", b""), (b"", b"middle", b"")])
@pytest.mark.parametrize("opcode", [frames.TEXT, frames.BINARY])
def test_an_empty_fragment_is_a_fragment_like_any(
    parts: tuple[bytes, ...], opcode: int
) -> None:
    """A message of nothing at all is a message (the suite's 1.1.1, 6.1.1 to 6.1.3)."""
    firsts = [opcode, *[0] * (len(parts) - 1)]
    firsts[-1] |= 0x80
    whole = b"".join(map(build, firsts, parts))
    message = b"".join(parts)
    expected = message.decode() if opcode == frames.TEXT else message
    assert read(whole, []) == ([(opcode, expected)], 0)


VALID_TEXTS = [
    # The suite's 6.5 to 6.9, 6.11, 6.22, 6.23: first, last and special code points.
    *("κόσμε", "\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000"),
    *("\ufdd0", "\ufffd", "\ufffe", "\uffff", "\U00010000", "\U0001fffe"),
    *("\U000fffff", "\U0010ffff"),
]

INVALID_TEXTS = [
    # The suite's 6.10, 6.12 to 6.21: beyond Unicode, lone continuations and starts,
    # cut sequences, impossible bytes, overlong forms, surrogates alone and in pairs.
    *(b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf4\x90\x80\x80"),
    *(b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    *(b"\x80", b"\xbf", b"\x80\xbf\x80", bytes(range(0x80, 0xC0))),
    *(b"\xc0 \xc1 \xdf ", b"\xe0 \xef ", b"\xf0 \xf7 ", b"\xf8 \xfb ", b"\xfc \xfd "),
    *(b"\xc3", b"\xe0\x80", b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf"),
    *(b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"),
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf"),
    *(b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80"),
    *(b"\xed\xa0\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf"),
    *(b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf"),
]


def read_in_three_ways(payload: bytes) -> Iterator[tuple[Events, int]]:
    """Read a text as one frame, as one short read, and as a fragment for each byte."""
    yield read(build(0x81, payload), [])
    try:
        text = FrameReader(_MAX).take_whole_text(build(0x81, payload))
        yield [(int(frames.TEXT), text)], 0
    except ProtocolViolation as violation:
        yield [], violation.code
    bytewise = b"".join(build(0x00, payload[i : i + 1]) for i in range(len(payload)))
    yield read(build(0x01, b"") + bytewise + build(0x80, b""), [])


@pytest.mark.parametrize("text", VALID_TEXTS, ids=ascii)
def test_utf8_arrives_however_it_is_cut(text: str) -> None:
    for found in read_in_three_ways(text.encode()):
        assert found == ([(frames.TEXT, text)], 0)


@pytest.mark.parametrize("payload", INVALID_TEXTS, ids=bytes.hex)
@pytest.mark.parametrize("around", [(b"", b""), ("κόσμε".encode(), b"edited")])
def test_what_is_no_utf8_is_1007_however_it_is_cut(
    payload: bytes, around: tuple[bytes, bytes]
) -> None:
    before, after = around
    for found in read_in_three_ways(before + payload + after):
        assert found == ([], 1007)


def test_wrong_utf8_is_refused_at_its_fragment() -> None:
    reader = FrameReader(_MAX)
    reader.feed(build(0x01, b"\xce\xba\xff"))
    with pytest.raises(ProtocolViolation) as caught:
        reader.next_event()
    assert caught.value.code == 1007


def test_a_character_may_be_cut_by_fragments() -> None:
    reader = FrameReader(_MAX)
    reader.feed(build(0x01, "é".encode()[:1]) + build(0x80, "é".encode()[1:]))
    assert reader.next_event() == (frames.FRAGMENT, 1)
    assert reader.next_event() == (frames.TEXT, "é")


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_a_close_code_that_may_not_travel_is_refused(code: int) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        frames.parse_close(code.to_bytes(2, "big"))
    assert caught.value.code == 1002


@pytest.mark.parametrize(
    "code",
    [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999],
)
@pytest.mark.parametrize("reason", ["", "bye", "é" * 61 + "x"])
def test_a_close_code_that_may_travel_is_taken(code: int, reason: str) -> None:
    payload = code.to_bytes(2, "big") + reason.encode()
    assert frames.parse_close(payload) == (code, reason)


def test_a_close_of_one_byte_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        frames.parse_close(b"\x03")


def test_a_reason_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        frames.parse_close(b"\x03\xe8\xff")
    assert caught.value.code == 1007


def test_a_long_reason_is_cut_between_characters() -> None:
    frame = frames.build_close(4000, "é" * 100)
    assert len(frame) <= 2 + 125
    assert frame[4:].decode() == "é" * 61


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 100])
def test_masking_in_python_is_as_in_c(size: int) -> None:
    """The fallback of frames.py, where the library is not installed."""
    payload = bytes(range(size))
    expected = bytes(b ^ _MASK[i % 4] for i, b in enumerate(payload))
    assert frames.mask_in_python(payload, _MASK) == expected


@given(text=st.text(max_size=130), cut=st.integers(0, 3), behind=st.binary(max_size=3))
def test_the_short_way_says_what_the_long_way_says(
    text: str, cut: int, behind: bytes
) -> None:
    """A read that is one short text and nothing else is read at once, no other."""
    whole = build(0x81, text.encode())
    received = whole[: len(whole) - cut] + behind
    events, code = read(received, [])
    try:
        found = FrameReader(_MAX).take_whole_text(received)
    except ProtocolViolation as violation:
        assert (events, code) == ([], violation.code)
        return
    if found is None:
        assert received != whole or len(text.encode()) > 125
    else:
        assert events == [(frames.TEXT, found)]


def test_the_short_way_is_not_taken_within_a_message_or_over_the_limit() -> None:
    reader = FrameReader(10)
    assert reader.take_whole_text(build(0x81, b"x" * 11)) is None
    reader.feed(build(0x01, b"part"))
    assert reader.next_event() is not None
    assert reader.take_whole_text(build(0x81, b"x")) is None
