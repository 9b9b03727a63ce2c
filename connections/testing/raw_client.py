"""A WebSocket client that sends any frames, valid or not."""

import asyncio
import select
import socket
import struct
from typing import ClassVar, NamedTuple, Self

from connections.testing.waiting import scale

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
RESET = b"<reset>"

_MASK = b"\x11\x22\x33\x44"


class Frame(NamedTuple):
    """A frame from a server."""

    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        """The code of a close frame."""
        return int.from_bytes(self.payload[:2], "big")

    @property
    def close_reason(self) -> str:
        """The reason of a close frame."""
        return self.payload[2:].decode()


def build_request(path: str, port: int, *headers: str) -> bytes:
    """Return the handshake request of a client."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def build_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    is_final: bool = True,
    reserved: int = 0,
    is_masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """Return a client's frame; `announced` overrides the size in its header."""
    size = len(payload) if announced is None else announced
    first = (0x80 if is_final else 0) | reserved << 4 | opcode
    second = 0x80 if is_masked else 0
    if size < 126:
        header = bytes((first, second | size))
    elif size < 65536:
        header = struct.pack("!BBH", first, second | 126, size)
    else:
        header = struct.pack("!BBQ", first, second | 127, size)
    if not is_masked:
        return header + payload
    repeated = _MASK * (len(payload) // 4 + 1)
    value = int.from_bytes(payload, "big") ^ int.from_bytes(
        repeated[: len(payload)], "big"
    )
    return header + _MASK + value.to_bytes(len(payload), "big")


class RawClient:
    """One TCP connection; made by connect() or open(), closed by close_all()."""

    opened: ClassVar[list["RawClient"]] = []

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self.port = 0
        """The port of the server."""
        self.close_frame: Frame | None = None
        """The close frame, once it was read."""
        self.headers: dict[str, str] = {}
        """The headers of the handshake's response, by lower-case name."""
        self._loop = asyncio.get_running_loop()
        self.opened.append(self)

    @classmethod
    async def connect(
        cls, port: int, *, source: str | None = None, receive_bytes: int | None = None
    ) -> Self:
        """Open a TCP connection to 127.0.0.1, from an address and with a window."""
        client = cls(socket.socket())
        if receive_bytes is not None:
            client._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes
            )
        if source is not None:
            client._socket.bind((source, 0))
        client._socket.setblocking(False)
        client.port = port
        await client._loop.sock_connect(client._socket, ("127.0.0.1", port))
        return client

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        *headers: str,
        source: str | None = None,
        receive_bytes: int | None = None,
    ) -> Self:
        """
        Open a WebSocket; `headers` are more lines of the handshake.

        Raises:
            ConnectionError: the server refused; the message begins with the status.
        """
        client = await cls.connect(port, source=source, receive_bytes=receive_bytes)
        try:
            await client.send(build_request(path, port, *headers))
            status, client.headers, body = await client.read_response()
            if status != 101:
                raise ConnectionError(f"{status} {body.decode()}")
        except BaseException:
            client.close()
            raise
        return client

    @classmethod
    def close_all(cls) -> None:
        """Close all open connections."""
        while cls.opened:
            cls.opened.pop().close()

    async def send(self, *parts: bytes) -> None:
        """Send bytes and wait until the kernel has them."""
        await self._loop.sock_sendall(self._socket, b"".join(parts))

    async def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Read status, headers and, except for a WebSocket, the body."""
        async with asyncio.timeout(scale(15)):
            while b"\r\n\r\n" not in self._buffer:
                await self._receive()
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            status = int(first.split()[1])
            body = b""
            if status != 101:
                body = await self._take(int(headers.get("content-length", 0)))
        return status, headers, body

    async def read_frame(self, seconds: float | None = 10) -> Frame:
        """
        Read a frame; None waits without a deadline.

        Raises:
            ConnectionError: the server has closed.
        """
        async with asyncio.timeout(scale(seconds)):
            first, second = await self._take(2)
            size = second & 0x7F
            if size >= 126:
                wide = await self._take(2 if size == 126 else 8)
                size = int.from_bytes(wide, "big")
            frame = Frame(first & 0x0F, await self._take(size))
        if frame.opcode == CLOSE:
            self.close_frame = frame
        return frame

    async def read_close(self, seconds: float = 10) -> Frame:
        """Read on until the close frame."""
        async with asyncio.timeout(scale(seconds)):
            while self.close_frame is None:
                await self.read_frame(seconds)
        return self.close_frame

    async def read_end(self, seconds: float = 10) -> bytes:
        """Read until the server has closed; return the rest of the bytes, or RESET."""
        async with asyncio.timeout(scale(seconds)):
            try:
                while True:
                    await self._receive()
                    self._buffer = self._buffer[-1000:]
            except ConnectionResetError:
                return self._buffer + RESET
            except ConnectionError:
                return self._buffer

    async def read_some(self, size: int) -> bytes:
        """Read at most so many bytes from the socket."""
        return await self._loop.sock_recv(self._socket, size)

    async def read_chunked(self) -> None:
        """Read a chunked body to its end."""
        async with asyncio.timeout(scale(5)):
            while not self._buffer.endswith(b"0\r\n\r\n"):
                await self._receive()
        self._buffer = b""

    def is_unanswered(self) -> bool:
        """Return True if no bytes wait and the server has not closed."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def is_dropped(self) -> bool:
        """Return True if the server has reset the connection; reads nothing."""
        poller = select.poll()
        poller.register(self._socket, 0)
        return bool(poller.poll(0))

    def finish_sending(self) -> None:
        """Half-close the connection (FIN); reading still works."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._receive()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    async def _receive(self) -> None:
        received = await self._loop.sock_recv(self._socket, 65536)
        if not received:
            raise ConnectionError("closed by the server")
        self._buffer += received
