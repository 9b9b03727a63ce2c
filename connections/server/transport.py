"""One client's TCP connection, below WebSocket: bytes in, bytes out, its end."""

import asyncio
import logging
import socket
import struct
from typing import Protocol

logger = logging.getLogger(__name__)

_READ_BYTES = 65_536

_GATHERED_BYTES = 65_536
"""So much leaves at once, though more may be written in the same turn."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""socket(7), SO_LINGER: what is unsent is dropped, and the peer gets a reset."""


class Receiver(Protocol):
    """Who is told what happens on a line."""

    def take(self, received: bytes) -> None:
        """Bytes came."""

    def on_drained(self) -> None:
        """The kernel has taken everything, after some had to wait."""

    def on_lost(self) -> None:
        """The connection is gone. Said once, and the last."""


class Transport(Protocol):
    """What a WebSocket asks of its TCP connection."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait in this process."""

    def write(self, data: bytes) -> None:
        """Send, or keep what the kernel does not take now. Nothing after close()."""

    def gather(self) -> None:
        """Have what is written in this turn of the loop leave together."""

    def pause_reading(self) -> None:
        """Leave what the client sends to the kernel."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Read nothing more; close once everything is sent."""

    def close_sending(self) -> None:
        """Once everything is sent, say that nothing follows; go on reading."""

    def abort(self) -> None:
        """Drop the connection now, and what is unsent with it."""


class SocketTransport:
    """
    A socket right on the event loop.

    A transport of Twisted's costs 29 us for each message there and back, most of
    it in the call to select for writing and the log context around each read.
    Here a frame goes to the kernel at once, and only what it does not take waits.
    """

    __slots__ = (
        "_ends_sending",
        "_fd",
        "_is_closing",
        "_is_reading",
        "_loop",
        "_receiver",
        "_socket",
        "_unsent",
        "_waits_for_kernel",
        "unsent_bytes",
    )

    def __init__(
        self, sock: socket.socket, receiver: Receiver, loop: asyncio.AbstractEventLoop
    ) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._receiver = receiver
        self._loop = loop
        # None until something has to wait: most clients read what they are sent.
        self._unsent: bytearray | None = None
        self.unsent_bytes = 0
        self._is_closing = False
        self._ends_sending = False
        self._is_reading = True
        self._waits_for_kernel = False
        loop.add_reader(self._fd, self._read)

    def gather(self) -> None:
        if self._unsent is None and self._socket is not None and not self._is_closing:
            self._unsent = bytearray()
            self._loop.call_soon(self._flush)

    def write(self, data: bytes) -> None:
        if self._unsent is not None:
            self._unsent += data
            self.unsent_bytes += len(data)
            if self.unsent_bytes > _GATHERED_BYTES and not self._waits_for_kernel:
                self._flush()
            return
        if self._socket is None or self._is_closing:
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self.unsent_bytes = len(self._unsent)
            self._wait_for_kernel()

    def pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._socket is not None and not self._is_closing and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        if self._socket is not None and not self._is_closing:
            self._is_closing = True
            self.pause_reading()
            if self._unsent is None:
                self._loop.call_soon(self._end)

    def close_sending(self) -> None:
        self._ends_sending = True
        if self._unsent is None and self._socket is not None:
            self._shut_down()

    def abort(self) -> None:
        if self._socket is not None:
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
            )
            self._release()
            self._loop.call_soon(self._receiver.on_lost)

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            received = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = b""
        if not received:
            self._end()
            return
        try:
            self._receiver.take(received)
        except Exception as exc:
            # The loop would log it and call again, for the next bytes.
            logger.error(
                "Reading from a client failed: %s",
                exc,
                exc_info=exc,
                extra={"event": "reading_failed"},
            )
            self.abort()

    def _flush(self) -> None:
        if self._socket is None or self._unsent is None:
            return
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except (BlockingIOError, InterruptedError):
            self._wait_for_kernel()
            return
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        self.unsent_bytes = len(self._unsent)
        if self._unsent:
            self._wait_for_kernel()
            return
        self._unsent = None
        if self._waits_for_kernel:
            self._waits_for_kernel = False
            self._loop.remove_writer(self._fd)
        if self._is_closing:
            self._end()
            return
        if self._ends_sending:
            self._shut_down()
        self._receiver.on_drained()

    def _wait_for_kernel(self) -> None:
        if not self._waits_for_kernel:
            self._waits_for_kernel = True
            self._loop.add_writer(self._fd, self._flush)

    def _shut_down(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()

    def _end(self) -> None:
        if self._socket is not None:
            self._release()
            self._receiver.on_lost()

    def _release(self) -> None:
        """Give the socket back to the system."""
        sock, self._socket = self._socket, None
        self._unsent = None
        self.unsent_bytes = 0
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if sock is not None:
            sock.close()
