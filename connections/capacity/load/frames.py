"""Build frames of a client, and split frames of a server (RFC 6455, section 5)."""

import os
import struct

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
"""First bytes of unfragmented frames."""


def build_frame(first: int, payload: bytes) -> bytes:
    """Return a masked frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    mask = os.urandom(4)
    repeated = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + masked.to_bytes(size, "big")


def build_reply(payload: bytes) -> bytes:
    """Return a server's text frame with a payload."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT, size)) + payload
    return struct.pack("!BBH", TEXT, 126, size) + payload


def split_frames(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return complete frames of a server with their payloads, and the rest."""
    found = []
    position = 0
    while len(data) - position >= 2:
        size, header = data[position + 1] & 0x7F, 2
        if size >= 126:
            header = 4 if size == 126 else 10
            size = int.from_bytes(data[position + 2 : position + header], "big")
        end = position + header + size
        if len(data) < end:
            break
        found.append((data[position:end], data[position + header : end]))
        position = end
    return found, data[position:]
