"""Test when a client counts as one that does not read."""

import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.tcp import Connection

from connections.config.sections import HttpConfig
from connections.server.send_watch import SendWatch
from connections.server.timers import CoarseTimers
from connections.testing import wait_until
from tests.connections.fake_loop import FakeLoop


class _Reactor:
    """A reactor that the test does the work of."""

    def __init__(self) -> None:
        self.addReader = self.removeReader = lambda one: None
        self.addWriter = self.removeWriter = lambda one: None


def connect_unix() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def connect_tcp() -> tuple[socket.socket, socket.socket]:
    """Return two ends; the kernel reopens a full buffer once a sixteenth is read."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer.connect(listening.getsockname())
        ours, _ = listening.accept()
    return ours, peer


class Line:
    """A transport with its watch, and the client that may read from it."""

    def __init__(self, ours: socket.socket, peer: socket.socket) -> None:
        self._ours, self._peer = ours, peer
        ours.setblocking(False)
        peer.setblocking(False)
        self.loop = FakeLoop()
        reactor: Any = _Reactor()
        protocol: Any = None
        self._transport = Connection(ours, protocol, reactor)
        self._transport.connected = True
        timers: Any = self.loop
        self.is_stalled = False
        config = HttpConfig(min_bytes_per_second=100, stall_seconds=60)
        self.watch = SendWatch(
            self._transport, CoarseTimers(timers), config, self._stall
        )

    def _stall(self) -> None:
        self.is_stalled = True

    def write(self, size: int) -> None:
        self._transport.write(bytes(size))
        self.watch.record(size)
        self.flush()

    def flush(self) -> None:
        while self.watch.unsent_bytes:
            before = self.watch.unsent_bytes
            self._transport.doWrite()
            if self.watch.unsent_bytes == before:
                return

    async def read_until_acknowledged(self, *sizes: int) -> None:
        """
        Read some bytes, until the kernel acknowledges some.

        It does so in its own time, of which the clock of the test knows nothing.
        """
        before = self._count_waiting()
        for size in sizes:
            self.read(size)
        await wait_until(lambda: self._count_waiting() < before)

    def _count_waiting(self) -> int:
        """Send what the kernel takes; return how many bytes are not acknowledged."""
        self.flush()
        in_kernel = fcntl.ioctl(self._ours.fileno(), termios.TIOCOUTQ, bytes(4))
        return self.watch.unsent_bytes + int.from_bytes(in_kernel, sys.byteorder)

    def read(self, size: int) -> int:
        with contextlib.suppress(BlockingIOError):
            return len(self._peer.recv(size))
        return 0

    def close(self) -> None:
        self.watch.stop()
        self._ours.close()
        self._peer.close()


@pytest.fixture(params=[connect_unix, connect_tcp], ids=["unix", "tcp"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = Line(*request.param())
    yield made
    made.close()


async def test_a_client_that_reads_slowly_is_no_stall(line: Line) -> None:
    """Nor while the buffers of the kernel hide it, as those of Unix sockets do."""
    for _ in range(100):
        line.write(65_536)
    for _ in range(8):
        await line.read_until_acknowledged(*[5000] * 50)
        line.loop.advance(50)
    assert not line.is_stalled


def test_a_client_that_never_reads_stalls_within_two_windows(line: Line) -> None:
    for _ in range(100):
        line.write(65_536)
    line.loop.advance(59)
    assert not line.is_stalled
    line.loop.advance(62)
    assert line.is_stalled


async def test_a_pause_shorter_than_a_window_is_no_stall(line: Line) -> None:
    for _ in range(100):
        line.write(65_536)
    for _ in range(5):
        line.loop.advance(58)
        await line.read_until_acknowledged(300_000)
        line.loop.advance(2)
    assert not line.is_stalled


def test_an_application_that_sends_little_is_no_stall(line: Line) -> None:
    """Such as an event in each minute, which the client reads."""
    for _ in range(5):
        line.write(100)
        assert line.read(1000) == 100
        line.loop.advance(61)
    assert not line.is_stalled


def test_little_that_is_never_read_is_a_stall() -> None:
    """While more than the kernel takes waits in this process."""
    line = Line(*connect_unix())
    line.write(1_000_000)
    for _ in range(2):
        line.loop.advance(61)
    assert line.is_stalled
    line.close()


def test_no_timer_runs_once_everything_is_read(line: Line) -> None:
    line.write(1000)
    assert line.read(2000) == 1000
    line.loop.advance(61)
    assert line.loop.timers == []
    line.watch.stop()
    line.watch.record(1000)
    assert line.loop.timers == []
