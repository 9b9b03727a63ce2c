"""A valid handshake that tests can vary."""

from collections.abc import Mapping

from connections.server.websocket.handshake import (
    Handshake,
    read_handshake,
    read_headers,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    b"Host": [b"example.com"],
    b"Connection": [b"keep-alive, Upgrade"],
    b"Upgrade": [b"websocket"],
    b"Sec-Websocket-Version": [b"13"],
    b"Sec-Websocket-Key": [KEY],
}


def read(
    uri: bytes = b"/ws",
    *,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    headers: Mapping[bytes, list[bytes]] | None = None,
) -> Handshake:
    """Read a handshake; the headers given replace those of a valid one."""
    whole = {**HEADERS, **(headers or {})}
    return read_handshake(method, uri, version, read_headers(whole.items()))
