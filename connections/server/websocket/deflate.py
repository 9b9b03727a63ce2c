"""
Negotiate permessage-deflate, compress and inflate messages, without I/O (RFC 7692).

Only zlib is used. A client never keeps its window from one message to the next: the
server holds no memory for it between messages, and a token in one message shares no
window with the text of another (security.md explains CRIME).
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from connections.config.sections import CompressionConfig
from connections.exceptions import ProtocolViolation
from connections.layers.prepared_message import PreparedMessage
from connections.metrics.counters import CompressionCounts
from connections.server.websocket import frames

_NAME = "permessage-deflate"

_MAX_WINDOW_BITS = 15
_MIN_WINDOW_BITS = 9
"""zlib cannot compress with the 8 that RFC 7692 allows (zlib.h, deflateInit2)."""

_KEPT_WINDOW_BITS = 12
_MEMORY_LEVEL = 8
_KEPT_MEMORY_LEVEL = 5
"""A window that is kept takes 32 kB in place of 256 kB, at some loss of size."""

_INFLATE_BYTES = (1 << _MAX_WINDOW_BITS) + 7_168
"""Memory of a decompressor: zconf.h."""

_END = b"\x00\x00\xff\xff"
"""The end of a flushed block, which is left out of a message: RFC 7692, 7.2.1."""

_UNCHECKED_BYTES = 4_096
"""A message that inflates to no more may have any ratio."""

_MAX_FINAL_BLOCKS = 16
"""Final blocks in one message: each costs a new decompressor."""

_SECRETS = (b'token"', b'ticket"')
"""Ends of the keys of a JSON text whose value is a credential."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})(?:\s*=\s*(?:({_TOKEN})|"({_TOKEN})"))?\s*')
_EXTENSION = re.compile(rf"({_TOKEN})\s*")
_SEPARATORS = re.compile(r"[,\s]*")
"""A list may have empty elements: RFC 9110, section 5.6.1."""

_WINDOW_BITS = re.compile(r"[89]|1[0-5]")


@dataclass(frozen=True, slots=True)
class Agreement:
    """The parameters of permessage-deflate on one connection."""

    keeps_window: bool
    """False: each message of the server is compressed alone."""

    window_bits: int
    """The window of the server's compressor."""

    response: bytes
    """The value of Sec-WebSocket-Extensions in the answer to the handshake."""


def negotiate(values: Iterable[bytes], config: CompressionConfig) -> Agreement | None:
    """
    Return the agreement on the first offer that is valid and can be met, or None.

    `values` are those of the Sec-WebSocket-Extensions headers. A header that breaks
    the grammar offers nothing (RFC 6455, section 9.1; RFC 7692, section 7.1).
    """
    for name, parameters in _parse(b",".join(values).decode("latin-1")):
        agreement = _accept(parameters, config) if name.lower() == _NAME else None
        if agreement is not None:
            return agreement
    return None


Parameters = list[tuple[str, str | None]]


def _parse(text: str) -> Iterator[tuple[str, Parameters]]:
    """Yield the offered extensions, or none if the text breaks the grammar."""
    offers: list[tuple[str, Parameters]] = []
    position = _skip_separators(text, 0)
    while position < len(text):
        named = _EXTENSION.match(text, position)
        if named is None:
            return
        position, parameters = named.end(), []
        while found := _PARAMETER.match(text, position):
            parameters.append((found[1].lower(), found[2] or found[3]))
            position = found.end()
        if position < len(text) and text[position] != ",":
            return
        offers.append((named[1], parameters))
        position = _skip_separators(text, position)
    yield from offers


def _skip_separators(text: str, position: int) -> int:
    """Return the position behind a run, in one step: a client chooses its length."""
    found = _SEPARATORS.match(text, position)
    return position if found is None else found.end()


def _accept(offered: Parameters, config: CompressionConfig) -> Agreement | None:
    """Return the agreement on one offer, or None if it is invalid or cannot be met."""
    parameters = dict(offered)
    if len(parameters) < len(offered):
        return None  # A parameter is given twice.
    for name, value in offered:
        is_bare = name in ("server_no_context_takeover", "client_no_context_takeover")
        if is_bare and value is None:
            continue
        if name == "client_max_window_bits" and value is None:
            continue
        has_bits = name in ("server_max_window_bits", "client_max_window_bits")
        if not has_bits or value is None or not _WINDOW_BITS.fullmatch(value):
            return None
    most = parameters.get("server_max_window_bits")
    keeps_window = not (
        config.server_no_context_takeover or "server_no_context_takeover" in parameters
    )
    window_bits = min(
        int(most or _MAX_WINDOW_BITS),
        _KEPT_WINDOW_BITS if keeps_window else _MAX_WINDOW_BITS,
    )
    if window_bits < _MIN_WINDOW_BITS:
        return None
    response = [_NAME, "client_no_context_takeover"]
    if not keeps_window:
        response.append("server_no_context_takeover")
    if most is not None:
        response.append(f"server_max_window_bits={window_bits}")
    if parameters.get("client_max_window_bits") is not None:
        # The client may use no larger window than it said: one less surprise for it.
        response.append(
            f"client_max_window_bits={parameters['client_max_window_bits']}"
        )
    return Agreement(keeps_window, window_bits, "; ".join(response).encode())


class Deflater:
    """
    Builds the frames of messages to one client, compressed where that is worth it.

    A message stays as it is if it is smaller than min_size, is a JSON text with a
    token or ticket, or would not become smaller.
    """

    __slots__ = ("_agreement", "_config", "_counts", "_kept", "held_bytes")

    def __init__(
        self, agreement: Agreement, config: CompressionConfig, counts: CompressionCounts
    ) -> None:
        self._agreement = agreement
        self._config = config
        self._counts = counts
        # The compressor whose window is kept, after its first message.
        self._kept: zlib._Compress | None = None
        self.held_bytes = 0
        """Memory that is held between messages."""

    def build(self, opcode: int, payload: bytes) -> bytes:
        """Return the frame of a message."""
        size = len(payload)
        if size < self._config.min_size or any(one in payload for one in _SECRETS):
            return frames.build_frame(opcode, payload)
        if self._agreement.keeps_window:
            if self._kept is None:
                self._kept = self._make_compressor()
                memory = 1 << (self._agreement.window_bits + 2)
                self.held_bytes = memory + (1 << (_KEPT_MEMORY_LEVEL + 9))
            compressor = self._kept
        else:
            compressor = self._make_compressor()
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        compressed = compressed[: -len(_END)]
        if len(compressed) >= size:
            self.forget_window()
            return frames.build_frame(opcode, payload)
        self.record(size, len(compressed))
        return frames.build_frame(opcode | frames.DEFLATED, compressed)

    def build_prepared(self, message: PreparedMessage) -> bytes:
        """
        Return the frame of a message to many clients, one for each window size.

        The compressor of the frame is not that of this client, so its own begins a
        new window.
        """
        agreement = self._agreement
        frame = message.get_frame(("deflate", agreement.window_bits), self._build_alone)
        self.forget_window()
        if frame[0] & frames.DEFLATED:
            self.record(message.size_bytes, len(frame))
        return frame

    def forget_window(self) -> None:
        """Free the memory that is held; the next message is compressed alone."""
        self._kept = None
        self.held_bytes = 0

    def record(self, before_bytes: int, after_bytes: int) -> None:
        """Count a message that was sent compressed."""
        self._counts.before_bytes += before_bytes
        self._counts.after_bytes += after_bytes

    def _build_alone(self, message: PreparedMessage) -> bytes:
        if not message.may_compress:
            return frames.build_prepared(message)
        alone = Agreement(False, self._agreement.window_bits, b"")
        opcode = frames.TEXT if message.is_text else frames.BINARY
        return Deflater(alone, self._config, CompressionCounts()).build(
            opcode, message.payload
        )

    def _make_compressor(self) -> "zlib._Compress":
        memory = _KEPT_MEMORY_LEVEL if self._agreement.keeps_window else _MEMORY_LEVEL
        bits = -self._agreement.window_bits
        return zlib.compressobj(self._config.level, zlib.DEFLATED, bits, memory)


class Inflater:
    """
    Inflates the messages of one client, each within its bounds.

    A message may inflate to max_message_size, and above 4 kB to max_ratio times its
    compressed size. The decompressor stops there: no more is ever in memory.
    """

    __slots__ = (
        "_final_blocks",
        "_inflated_bytes",
        "_max_message_size",
        "_max_ratio",
        "_stream",
        "compressed_bytes",
    )

    def __init__(self, max_message_size: int, max_ratio: float) -> None:
        self._max_message_size = max_message_size
        self._max_ratio = max_ratio
        self._stream: zlib._Decompress | None = None
        self._inflated_bytes = 0
        self._final_blocks = 0
        self.compressed_bytes = 0
        """Bytes of the message under way, as they arrived."""

    @property
    def held_bytes(self) -> int:
        """Memory of the decompressor of a message under way."""
        return 0 if self._stream is None else _INFLATE_BYTES

    def inflate(self, payload: bytes, *, is_final: bool) -> bytes:
        """
        Return the inflated bytes of a frame, the next of its message.

        Raises:
            ProtocolViolation: the message inflates to too much (1009), or its bytes
                are no deflated ones (1007).
        """
        self.compressed_bytes += len(payload)
        allowed = max(_UNCHECKED_BYTES, self.compressed_bytes * self._max_ratio)
        allowed = min(self._max_message_size, int(allowed))
        waiting = payload + _END if is_final else payload
        pieces = []
        while waiting:
            if self._stream is None:
                self._stream = zlib.decompressobj(-_MAX_WINDOW_BITS)
            room = allowed - self._inflated_bytes
            try:
                piece = self._stream.decompress(waiting, room + 1)
            except zlib.error as exc:
                raise ProtocolViolation(1007, "a message is not deflated") from exc
            if len(piece) > room:
                raise ProtocolViolation(1009, "a message inflates to too much")
            self._inflated_bytes += len(piece)
            pieces.append(piece)
            waiting = self._stream.unused_data
            if self._stream.eof:
                self._begin_stream()
        if is_final:
            self._stream = None
            self.compressed_bytes = self._inflated_bytes = self._final_blocks = 0
        return b"".join(pieces)

    def _begin_stream(self) -> None:
        """Begin anew after a final block: RFC 7692, section 7.2.3.4."""
        self._stream = None
        self._final_blocks += 1
        if self._final_blocks > _MAX_FINAL_BLOCKS:
            raise ProtocolViolation(1007, "a message has too many final blocks")
