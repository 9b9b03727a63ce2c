"""Encode slots as the words that the scripts of the Redis pool read and return."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

from connections.pool.base import Slot


def encode_word(word: str) -> str:
    """Percent-encode a word, so that it has no spaces or control characters."""
    return quote(word, safe=":@", errors="surrogatepass") or "%"


def encode_moment(seconds: float) -> str:
    """
    Return 16 hex digits that sort like the number; decode_moment() is exact.

    IEEE 754 doubles sort like unsigned integers once the sign bit is inverted, and
    all other bits too where it was set.
    """
    (bits,) = struct.unpack(">Q", struct.pack(">d", seconds))
    bits = bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63)
    return f"{bits:016x}"


def decode_moment(text: str) -> float:
    bits = int(text, 16)
    bits = bits ^ (1 << 63 if bits >> 63 else 0xFFFFFFFFFFFFFFFF)
    (seconds,) = struct.unpack(">d", struct.pack(">Q", bits))
    return float(seconds)


def read_slots(client_id: str, words: Sequence[Any]) -> Iterator[Slot]:
    """Return the slots that acquire.lua took away, oldest first."""
    for index in range(0, len(words), 5):
        connection_id, opened, limit, node, _reason = words[index : index + 5]
        yield Slot(
            connection_id=connection_id,
            client_id=client_id,
            node_id=unquote(node),
            opened_at=decode_moment(opened),
            limit=int(limit),
        )
