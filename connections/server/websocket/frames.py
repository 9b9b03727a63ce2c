"""
Parse and build WebSocket frames, without I/O (RFC 6455, section 5).

Autobahn's parser, which daphne uses, drops the TCP connection where the RFC asks for
a close frame, cannot be stopped within a read, and passes events through four layers
of calls. The parser of the `websockets` library parses a whole read at once: 64 kB
of tiny messages become ten thousand messages in memory, whatever the bound on the
queue. This parser yields one event at a time and stops when the queue is full. The
tests compare it with `websockets` on arbitrary streams.
"""

import codecs
from enum import IntEnum
from typing import Any, Protocol

from connections import close_codes
from connections.exceptions import ProtocolViolation
from connections.layers.prepared_message import PreparedMessage
from connections.server.compat import find_mask_function


def mask_in_python(
    data: bytes | bytearray | memoryview, mask: bytes | bytearray
) -> bytes:
    """Return data masked or unmasked (RFC 6455, section 5.3)."""
    size = len(data)
    repeated = bytes(mask) * (size // 4) + mask[: size % 4]
    masked = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return masked.to_bytes(size, "little")


apply_mask = find_mask_function() or mask_in_python


class Opcode(IntEnum):
    """The opcode of a frame (RFC 6455, section 11.8)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10
    FRAGMENT = 16
    """Never on the wire: a fragment arrived, its message is incomplete."""


CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG, FRAGMENT = (
    Opcode.CLOSE,
    Opcode.PING,
    Opcode.PONG,
    Opcode.FRAGMENT,
)

_FIN = 0x80
_RESERVED = 0x70
DEFLATED = 0x40
"""RSV1 of the first frame: the message is compressed (RFC 7692, section 6)."""

_MASKED = 0x80
_MAX_CONTROL_BYTES = 125
_WHOLE_TEXT = _FIN | TEXT
_SHORT_TEXTS = tuple(bytes((_WHOLE_TEXT, size)) for size in range(126))

Event = tuple[Opcode, Any]
"""
An opcode with the text or bytes of a message, the bytes of a control frame, or the
size of a fragment.
"""


class MessageInflater(Protocol):
    """Inflates compressed messages (deflate.py)."""

    compressed_bytes: int

    @property
    def held_bytes(self) -> int:
        """Memory that a message under way holds."""

    def inflate(self, payload: bytes, *, is_final: bool) -> bytes:
        """Return the inflated bytes of a frame."""


class FrameReader:
    """
    Turns the bytes of a client into messages and control frames.

    feed() takes received bytes, next_event() returns one event after another. It
    never holds more than one message of max_message_size and one read. With an
    inflater it takes compressed messages too.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_drops_messages",
        "_is_deflated",
        "_message",
        "_needed",
        "_opcode",
        "_position",
        "inflater",
        "max_message_size",
    )

    def __init__(self, max_message_size: int) -> None:
        self.max_message_size = max_message_size
        self._buffer: bytes | bytearray = b""
        self._position = 0
        # The bytes from _position on that the next step needs at least. Bytes that
        # trickle in one by one are not parsed one by one.
        self._needed = 2
        # The fragments of an incomplete message.
        self._opcode: Opcode | None = None
        self._message: bytes | bytearray = b""
        self._is_deflated = False
        self._drops_messages = False
        self.inflater: MessageInflater | None = None
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def held_bytes(self) -> int:
        """How many bytes wait for the rest of their frame or message."""
        held = len(self._buffer) - self._position + len(self._message)
        return held + self.inflater.held_bytes if self.inflater else held

    @property
    def is_within_message(self) -> bool:
        """Return True while a frame or message is incomplete."""
        return self._opcode is not None or len(self._buffer) > self._position

    def feed(self, received: bytes) -> None:
        """Add bytes in the order of their arrival."""
        if self._position == len(self._buffer):
            self._buffer = received
        else:
            if self._position or isinstance(self._buffer, bytes):
                self._buffer = bytearray(memoryview(self._buffer)[self._position :])
            self._buffer += received
        self._position = 0

    def drop_messages(self) -> None:
        """Return each frame of a message as a fragment from now on, and keep none."""
        self._drops_messages = True
        self._message, self._is_deflated = b"", False

    def take_whole_text(self, received: bytes) -> str | None:
        """
        Return the text if a read is exactly one short text message.

        This is the most frequent case. Otherwise it returns None and consumes
        nothing; feed() must follow.

        Raises:
            ProtocolViolation: the text is not UTF-8.
        """
        size = len(received) - 6
        if (
            not 0 <= size < 126
            or received[0] != _WHOLE_TEXT
            or received[1] != _MASKED | size
            or size > self.max_message_size
            or self._opcode is not None
            or len(self._buffer) > self._position
        ):
            return None
        return _decode(apply_mask(received[6:], received[2:6]))

    def next_event(self) -> Event | None:
        """
        Return the next event, or None until more bytes are fed.

        Raises:
            ProtocolViolation: the client broke the protocol; reading must end.
        """
        buffer, start = self._buffer, self._position
        available = len(buffer) - start
        if available < self._needed:
            return None
        first, second = buffer[start], buffer[start + 1]
        size = second & 0x7F
        header = 6
        if size >= 126:
            header = 8 if size == 126 else 14
            if available < header - 4:
                self._needed = header - 4
                return None
            size = int.from_bytes(buffer[start + 2 : start + header - 4], "big")
        is_plain = (
            first == _FIN | TEXT
            and second & _MASKED
            and self._opcode is None
            and size <= self.max_message_size
            and not self._drops_messages
        )
        if not is_plain:
            # Before any payload has arrived: a refused frame is never held.
            self._check_header(first, second, size)
        if available < header + size:
            self._needed = header + size
            return None
        end = start + header + size
        payload = apply_mask(
            buffer[start + header : end], buffer[start + header - 4 : start + header]
        )
        if available == header + size:
            # The buffer of a quiet client must not keep consumed bytes.
            self._buffer, self._position = b"", 0
        else:
            self._position = end
        self._needed = 2
        return (TEXT, _decode(payload)) if is_plain else self._take(first, payload)

    def _check_header(self, first: int, second: int, size: int) -> None:
        """Raise ProtocolViolation for an invalid header."""
        opcode = first & 0x0F
        reserved = first & _RESERVED
        begins_deflated = reserved == DEFLATED and opcode in (TEXT, BINARY)
        if reserved and not (begins_deflated and self.inflater is not None):
            raise ProtocolViolation(1002, "reserved bits are set")
        if not second & _MASKED:
            raise ProtocolViolation(1002, "a frame is not masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise ProtocolViolation(1002, f"unknown opcode {opcode}")
            if not first & _FIN:
                raise ProtocolViolation(1002, "a control frame is fragmented")
            if size > _MAX_CONTROL_BYTES:
                raise ProtocolViolation(1002, "a control frame is too long")
            return
        if opcode > BINARY:
            raise ProtocolViolation(1002, f"unknown opcode {opcode}")
        if opcode == CONTINUATION and self._opcode is None:
            raise ProtocolViolation(1002, "a continuation of nothing")
        if opcode != CONTINUATION and self._opcode is not None:
            raise ProtocolViolation(1002, "a message within a message")
        held, most = len(self._message), self.max_message_size
        if self.inflater is not None and (begins_deflated or self._is_deflated):
            # Bytes that cannot be compressed grow a little.
            held, most = self.inflater.compressed_bytes, most + most // 8 + 1024
        if held + size > most:
            raise ProtocolViolation(1009, "a message is too big")

    def _take(self, first: int, payload: bytes) -> Event:
        """Return the event of a complete and valid frame."""
        opcode = first & 0x0F
        if opcode >= CLOSE:
            return Opcode(opcode), bytes(payload)
        is_final, size = bool(first & _FIN), len(payload)
        if self._drops_messages:
            self._opcode = None if is_final else BINARY
            return FRAGMENT, size
        if first & DEFLATED:
            self._is_deflated = True
        if self._is_deflated and self.inflater is not None:
            payload = self.inflater.inflate(payload, is_final=is_final)
            self._is_deflated = not is_final
        if self._opcode is None:
            if is_final:
                is_text = opcode == TEXT
                return (TEXT, _decode(payload)) if is_text else (BINARY, bytes(payload))
            self._opcode = Opcode(opcode)
            self._message = bytearray()
            if opcode == TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._message += payload
        if self._decoder is not None:
            # Invalid UTF-8 is refused at the fragment that holds it.
            try:
                self._decoder.decode(payload, final=is_final)
            except UnicodeDecodeError as exc:
                raise ProtocolViolation(1007, "a text is not UTF-8") from exc
        if not is_final:
            return FRAGMENT, size
        whole = self._opcode
        message, self._message = bytes(self._message), b""
        self._opcode = self._decoder = None
        return whole, _decode(message) if whole is TEXT else message


def _decode(payload: bytes) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as exc:
        raise ProtocolViolation(1007, "a text is not UTF-8") from exc


def build_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of a server: a complete message or a control frame."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65536:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big") + payload


def build_text(text: str) -> bytes:
    """Return the frame of a text message from a server."""
    payload = text.encode()
    if len(payload) < 126:
        return _SHORT_TEXTS[len(payload)] + payload
    return build_frame(TEXT, payload)


def build_prepared(message: PreparedMessage) -> bytes:
    """Return the frame of a message to many clients, as of one to a single client."""
    return build_frame(TEXT if message.is_text else BINARY, message.payload)


def build_close(code: int, reason: str) -> bytes:
    """Return a close frame; a reason that is too long is cut."""
    text = reason.encode("utf-8", "replace")[: _MAX_CONTROL_BYTES - 2]
    while text and not _is_utf8(text):
        text = text[:-1]
    return build_frame(CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> tuple[int, str]:
    """
    Return code and reason of a client's close frame; 1005 without a code.

    Raises:
        ProtocolViolation: the code or the reason is not allowed.
    """
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not close_codes.may_send(code):
        raise ProtocolViolation(1002, "a close code that may not be sent")
    return code, _decode(payload[2:])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
