"""Send and receive bytes on one client's TCP connection."""

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Protocol

from connections.error_log import get_logger

logger = get_logger(__name__)

_READ_BYTES = 65_536

_GATHERED_BYTES = 65_536
"""Bytes that are sent at once, even while more may be gathered."""

_DEFERRED_BYTES = 16_384
"""Frames of up to this size wait for the end of the loop's iteration."""

_BATCH_SIZE = 100
"""Transports that are sent at once, even while more may be written to."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""socket(7), SO_LINGER: unsent bytes are dropped, and the peer gets a reset."""


_LEFT = select.POLLHUP | select.POLLERR | select.POLLNVAL
_LEFT |= getattr(select, "POLLRDHUP", 0)
"""poll(2): the peer has closed its side, even while its bytes are unread."""


def has_peer_left(fd: int) -> bool:
    """Return True if the peer of a socket has closed or reset the connection."""
    if fd < 0:
        return True  # It is closed here, too.
    poll = select.poll()
    poll.register(fd, _LEFT)
    return bool(poll.poll(0))


def count_unconfirmed_bytes(fd: int) -> int:
    """Return what a socket's send buffer holds: tcp(7), SIOCOUTQ; 0 if unknown."""
    answer = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, answer)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(answer, sys.byteorder)


class Receiver(Protocol):
    """The object that a transport reports to."""

    def take(self, received: bytes) -> None:
        """Take received bytes."""

    def on_drained(self) -> None:
        """Learn that the kernel has taken all bytes that waited."""

    def on_lost(self) -> None:
        """Learn that the connection is closed; called once, as the last."""


class Transport(Protocol):
    """The TCP connection as a WebSocket uses it."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait in this process."""

    @property
    def has_left(self) -> bool:
        """True if the client has closed its side, even if that is unread."""

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes that the kernel has taken and the client's host has not confirmed."""

    def write(self, data: bytes) -> None:
        """Send bytes, or keep those the kernel does not take. Ignored after close()."""

    def write_now(self, data: bytes) -> None:
        """Send bytes that need not wait for those of other connections."""

    def pause_reading(self) -> None:
        """Stop reading; the kernel keeps what the client sends."""

    def resume_reading(self) -> None:
        """Resume reading."""

    def close(self) -> None:
        """Stop reading, and close once everything is sent."""

    def close_sending(self) -> None:
        """Half-close once everything is sent; keep reading."""

    def abort(self) -> None:
        """Drop the connection and its unsent bytes now."""


class WriteBatch:
    """
    The transports that were written to in this iteration of the event loop.

    Their frames are sent together, one system call after another: alternating with
    Python code each call takes a third longer, and the other side is woken for each.
    """

    __slots__ = ("_loop", "_transports")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transports: list[SocketTransport] = []

    def add(self, transport: "SocketTransport") -> None:
        """Send the frame of a transport before the loop waits for events."""
        self._transports.append(transport)
        count = len(self._transports)
        if count == 1:
            self._loop.call_soon(self._send)
        elif count == _BATCH_SIZE:
            self._send()

    def _send(self) -> None:
        transports, self._transports = self._transports, []
        for transport in transports:
            transport.send_deferred()


class SocketTransport:
    """
    A socket directly on the event loop.

    A Twisted transport costs 29 us a round trip, mostly for selecting on writes
    and for the log context around each read. Here a short frame goes to the kernel
    with those of other connections, a long one at once, and only the rest that the
    kernel does not take waits. What is written in one iteration of the loop leaves in
    one system call.
    """

    __slots__ = (
        "_batch",
        "_deferred",
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
        self,
        sock: socket.socket,
        receiver: Receiver,
        loop: asyncio.AbstractEventLoop,
        batch: WriteBatch,
    ) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # A Unix socket has no such option.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._receiver = receiver
        self._loop = loop
        self._batch = batch
        # The one short frame of this iteration. It is not counted as unsent.
        self._deferred: bytes | None = None
        # None until bytes have to wait: most clients read at once.
        self._unsent: bytearray | None = None
        self.unsent_bytes = 0
        self._is_closing = False
        self._ends_sending = False
        self._is_reading = True
        self._waits_for_kernel = False
        loop.add_reader(self._fd, self._read)

    @property
    def has_left(self) -> bool:
        return self._socket is None or has_peer_left(self._fd)

    @property
    def unconfirmed_bytes(self) -> int:
        if self._socket is None:
            return 0
        return count_unconfirmed_bytes(self._fd) + len(self._deferred or b"")

    def write(self, data: bytes) -> None:
        if self._deferred is not None:
            self._unsent = bytearray(self._deferred)
            self.unsent_bytes = len(self._deferred)
            self._deferred = None
        if self._unsent is not None:
            self._unsent += data
            self.unsent_bytes += len(data)
            if self.unsent_bytes > _GATHERED_BYTES and not self._waits_for_kernel:
                self._flush()
        elif self._socket is not None and not self._is_closing:
            if len(data) <= _DEFERRED_BYTES:
                self._deferred = data
                self._batch.add(self)
            else:
                self._send(data)

    def write_now(self, data: bytes) -> None:
        if self._deferred is None and self._unsent is None and not self._is_closing:
            self._send(data)
        else:
            self.write(data)

    def send_deferred(self) -> None:
        """Send what was written since the batch was begun."""
        data, self._deferred = self._deferred, None
        if data is not None:
            self._send(data)
        elif not self._waits_for_kernel:
            self._flush()

    def _send(self, data: bytes) -> None:
        if self._socket is None:
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
        self.send_deferred()
        if self._socket is not None and not self._is_closing:
            self._is_closing = True
            self.pause_reading()
            if self._unsent is None:
                self._loop.call_soon(self._end)

    def close_sending(self) -> None:
        self.send_deferred()
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
            # The loop would only log the exception and read on.
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
        self.send_deferred()
        if self._socket is not None:
            self._release()
            self._receiver.on_lost()

    def _release(self) -> None:
        """Close the socket."""
        sock, self._socket = self._socket, None
        self._unsent = self._deferred = None
        self.unsent_bytes = 0
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if sock is not None:
            sock.close()
