"""
Invalid frames and messages, each with its expected answer.

A case is a name, what is sent, and the status, or the code and reason, that this
project answers.
"""

from collections.abc import Iterable
from typing import Any

from connections.testing import BINARY, CLOSE, PING, PONG, TEXT, build_frame

Case = tuple[str, bytes, str]

_VIOLATION, _NO_UTF8 = "1002 protocol_error", "1007 protocol_error"
_TOO_BIG, _UNFINISHED = "1009 message_too_big", "1008 policy"


def _fragments(*payloads: bytes) -> bytes:
    """Return a text in fragments."""
    last = len(payloads) - 1
    frames = [
        build_frame(TEXT if index == 0 else 0, payload, is_final=index == last)
        for index, payload in enumerate(payloads)
    ]
    return b"".join(frames)


VIOLATIONS: tuple[Case, ...] = (
    ("an unmasked text", build_frame(TEXT, b"x", is_masked=False), _VIOLATION),
    ("an unmasked ping", build_frame(PING, is_masked=False), _VIOLATION),
    ("an unmasked close", build_frame(CLOSE, is_masked=False), _VIOLATION),
    ("RSV1", build_frame(TEXT, b"x", reserved=4), _VIOLATION),
    ("RSV2", build_frame(TEXT, b"x", reserved=2), _VIOLATION),
    ("RSV3", build_frame(PING, reserved=1), _VIOLATION),
    ("all of RSV", build_frame(BINARY, b"x", reserved=7), _VIOLATION),
    ("opcode 3", build_frame(3, b"x"), _VIOLATION),
    ("opcode 7", build_frame(7), _VIOLATION),
    ("opcode 11", build_frame(11), _VIOLATION),
    ("opcode 15", build_frame(15), _VIOLATION),
    ("a ping in fragments", build_frame(PING, is_final=False), _VIOLATION),
    ("a close in fragments", build_frame(CLOSE, is_final=False), _VIOLATION),
    ("a ping too long", build_frame(PING, b"x" * 126), _VIOLATION),
    ("a pong of 2^63 bytes", build_frame(PONG, announced=2**63 - 1), _VIOLATION),
    ("a close too long", build_frame(CLOSE, b"\x03\xe8" + b"x" * 124), _VIOLATION),
    ("a continuation of nothing", build_frame(0, b"x"), _VIOLATION),
    ("an unfinished continuation", build_frame(0, b"x", is_final=False), _VIOLATION),
    (
        "a message within a message",
        build_frame(TEXT, b"x", is_final=False) + build_frame(TEXT, b"y"),
        _VIOLATION,
    ),
    (
        "binary within text",
        build_frame(TEXT, b"x", is_final=False) + build_frame(BINARY, b"y"),
        _VIOLATION,
    ),
    (
        "a deflated text",
        build_frame(TEXT, b"\xcaH\xcd\xc9\xc9\7\0", reserved=4),
        _VIOLATION,
    ),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", _VIOLATION),
    ("zeros", bytes(1000), _VIOLATION),
    ("ones", b"\xff" * 1000, _VIOLATION),
)
"""RFC 6455, sections 5.1 to 5.5."""

NO_UTF8: tuple[Case, ...] = (
    ("a lonely 0xff", build_frame(TEXT, b"\xff"), _NO_UTF8),
    ("a lonely continuation byte", build_frame(TEXT, b"a\x80"), _NO_UTF8),
    ("an overlong slash", build_frame(TEXT, b"\xc0\xaf"), _NO_UTF8),
    ("an overlong NUL", build_frame(TEXT, b"\xe0\x80\x80"), _NO_UTF8),
    ("a surrogate", build_frame(TEXT, b"\xed\xa0\x80"), _NO_UTF8),
    ("beyond U+10FFFF", build_frame(TEXT, b"\xf4\x90\x80\x80"), _NO_UTF8),
    ("five bytes", build_frame(TEXT, b"\xf8\x88\x80\x80\x80"), _NO_UTF8),
    ("an unfinished character", build_frame(TEXT, b"caf\xc3"), _NO_UTF8),
    ("wrong in the first fragment", _fragments(b"\xff", b"a"), _NO_UTF8),
    ("wrong at the seam", _fragments(b"\xc3", b"\x28"), _NO_UTF8),
    ("unfinished over fragments", _fragments(b"\xe2\x82", b"", b""), _NO_UTF8),
    ("a surrogate over fragments", _fragments(b"\xed", b"\xa0", b"\x80"), _NO_UTF8),
    ("wrong before the end", build_frame(TEXT, b"\xff", is_final=False), _NO_UTF8),
)

VALID_CODES = (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999)

CLOSES: tuple[Case, ...] = (
    ("one byte", build_frame(CLOSE, b"x"), _VIOLATION),
    ("a reason not UTF-8", build_frame(CLOSE, b"\x03\xe8\xff"), _NO_UTF8),
    *(
        (f"code {code}", build_frame(CLOSE, code.to_bytes(2, "big")), _VIOLATION)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535)
    ),
    *(
        (f"code {code}", build_frame(CLOSE, code.to_bytes(2, "big")), f"{code}")
        for code in VALID_CODES
    ),
    ("no code", build_frame(CLOSE), "1005"),
    ("a reason", build_frame(CLOSE, b"\x0f\xa0so\0it\nis"), "4000 so\0it\nis"),
)
"""RFC 6455, section 7.4; valid codes are echoed."""

SIZES: tuple[Case, ...] = (
    ("1 MiB + 1", build_frame(BINARY, announced=2**20 + 1), _TOO_BIG),
    ("2 GiB", build_frame(BINARY, announced=2**31), _TOO_BIG),
    ("4 GiB", build_frame(TEXT, announced=2**32), _TOO_BIG),
    ("2^62", build_frame(BINARY, announced=2**62), _TOO_BIG),
    ("2^63 - 1", build_frame(TEXT, announced=2**63 - 1), _TOO_BIG),
    ("2^63", build_frame(BINARY, announced=2**63), _TOO_BIG),
    ("2^64 - 1", build_frame(BINARY, announced=2**64 - 1), _TOO_BIG),
    (
        "fragments over it together",
        build_frame(BINARY, bytes(600_000), is_final=False)
        + build_frame(0, announced=600_000),
        _TOO_BIG,
    ),
)
"""Headers that announce payloads that never arrive; the limit is 1 MiB."""

UNFINISHED: tuple[Case, ...] = (
    ("half a header", b"\x81", _UNFINISHED),
    ("half a long header", b"\x81\xfe\x01", _UNFINISHED),
    ("1 MiB, of which nothing comes", build_frame(TEXT, announced=2**20), _UNFINISHED),
    (
        "1000 bytes, of which half come",
        build_frame(BINARY, b"x" * 500, announced=1000),
        _UNFINISHED,
    ),
    ("a fragment", build_frame(TEXT, b"x" * 100, is_final=False), _UNFINISHED),
    (
        "a fragment and a ping",
        build_frame(TEXT, b"x" * 100, is_final=False) + build_frame(PING),
        _UNFINISHED,
    ),
)


def expect(cases: Iterable[tuple[str, Any, str]]) -> frozenset[str]:
    """Return the expected answers of the cases, as an attack counts them."""
    return frozenset(f"{name}: {answer}" for name, _, answer in cases)
