"""A socket on the event loop: what is written, what waits, how it ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from connections.server.transport import SocketTransport, WriteBatch
from connections.testing.waiting import scale


class Listener:
    """Notes what a line tells its receiver."""

    def __init__(self) -> None:
        self.received = b""
        self.drained = 0
        self.lost = 0
        self.fails = False

    def take(self, received: bytes) -> None:
        if self.fails:
            raise RuntimeError("a defect of ours")
        self.received += received

    def on_drained(self) -> None:
        self.drained += 1

    def on_lost(self) -> None:
        self.lost += 1


class Pair:
    """A line, who listens to it, and the client's end."""

    def __init__(self, batch: WriteBatch | None = None) -> None:
        self.client, server = socket.socketpair()
        self.client.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.listener = Listener()
        self._loop = asyncio.get_running_loop()
        self.batch = batch or WriteBatch(self._loop)
        self.line = SocketTransport(server, self.listener, self._loop, self.batch)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.client, data)
        await self.turn()

    async def turn(self) -> None:
        """Let the loop see what the kernel has."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def read(self, size: int) -> bytes:
        """Read so many bytes at the client's end, or up to the end."""
        data = b""
        async with asyncio.timeout(scale(5)):
            while len(data) < size:
                received = await self._loop.sock_recv(self.client, 65_536)
                if not received:
                    break
                data += received
        return data


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.line.abort()
    await pair.turn()
    pair.client.close()


async def test_bytes_go_both_ways(pair: Pair) -> None:
    await pair.send(b"there")
    assert pair.listener.received == b"there"
    pair.line.write(b"and back")
    assert await pair.read(8) == b"and back"


async def test_what_the_kernel_does_not_take_waits_in_order(pair: Pair) -> None:
    pair.line.write(b"a" * 300_000)
    waiting = pair.line.unsent_bytes
    assert 0 < waiting < 300_000
    pair.line.write(b"b" * 1000)
    assert pair.line.unsent_bytes == waiting + 1000
    assert await pair.read(301_000) == b"a" * 300_000 + b"b" * 1000
    await pair.turn()
    assert pair.line.unsent_bytes == 0
    assert pair.listener.drained == 1


async def test_frames_of_one_iteration_leave_together_at_its_end(pair: Pair) -> None:
    for part in (b"ack ", b"and ", b"entry"):
        pair.line.write(part)
    with pytest.raises(BlockingIOError):
        pair.client.recv(100)
    await pair.turn()
    assert pair.client.recv(100) == b"ack and entry"
    assert (pair.line.unsent_bytes, pair.listener.drained) == (0, 1)


async def test_one_short_frame_waits_for_those_of_other_connections(
    pair: Pair,
) -> None:
    """It is not counted as unsent: no other frame waits for it."""
    pair.line.write(b"by itself")
    with pytest.raises(BlockingIOError):
        pair.client.recv(100)
    assert (pair.line.unsent_bytes, pair.line.unconfirmed_bytes) == (0, 9)
    await pair.turn()
    assert pair.client.recv(100) == b"by itself"
    assert pair.listener.drained == 0


async def test_a_long_frame_leaves_at_once_behind_those_before(pair: Pair) -> None:
    pair.line.write(b"a" * 20_000)
    assert len(pair.client.recv(100)) == 100
    assert await pair.read(19_900) == b"a" * 19_900
    await pair.turn()
    pair.line.write(b"before ")
    pair.line.write(b"b" * 70_000)
    assert pair.client.recv(7) == b"before "
    pair.line.write(b"c" * 300_000)
    assert await pair.read(370_000) == b"b" * 70_000 + b"c" * 300_000
    await pair.turn()
    assert pair.line.unsent_bytes == 0


async def test_a_shared_frame_leaves_at_once_and_in_order(pair: Pair) -> None:
    """It is one of many: their system calls follow each other already."""
    pair.line.write_now(b"shared")
    assert pair.client.recv(100) == b"shared"
    pair.line.write(b"before ")
    pair.line.write_now(b"after")
    await pair.turn()
    assert pair.client.recv(100) == b"before after"
    pair.line.close()
    pair.line.write_now(b"too late")
    assert await pair.read(100) == b""


async def test_a_full_batch_leaves_at_once(pair: Pair) -> None:
    others = [Pair(pair.batch) for _ in range(99)]
    pair.line.write(b"first")
    for other in others[:-1]:
        other.line.write(b"x")
    with pytest.raises(BlockingIOError):
        pair.client.recv(100)
    others[-1].line.write(b"x")
    assert pair.client.recv(100) == b"first"
    for other in others:
        assert other.client.recv(100) == b"x"
        other.line.abort()
        other.client.close()
    await pair.turn()


@pytest.mark.parametrize("parts", [(b"the last",), (b"the ", b"last")])
@pytest.mark.parametrize("end", ["close", "close_sending", "leave"])
async def test_what_is_deferred_is_sent_before_the_end(
    pair: Pair, parts: tuple[bytes, ...], end: str
) -> None:
    for part in parts:
        pair.line.write(part)
    if end == "leave":
        pair.client.shutdown(socket.SHUT_WR)
    else:
        getattr(pair.line, end)()
    assert await pair.read(100) == b"the last"
    assert pair.listener.lost == (end != "close_sending")


async def test_an_abort_drops_what_is_deferred(pair: Pair) -> None:
    pair.line.write(b"x")
    pair.line.abort()
    await pair.turn()
    assert pair.line.unconfirmed_bytes == 0
    assert pair.listener.lost == 1


async def test_a_paused_line_leaves_bytes_to_the_kernel(pair: Pair) -> None:
    pair.line.pause_reading()
    pair.line.pause_reading()
    await pair.send(b"later")
    assert pair.listener.received == b""
    pair.line.resume_reading()
    await pair.turn()
    assert pair.listener.received == b"later"


async def test_closing_sends_what_waits_first(pair: Pair) -> None:
    pair.line.write(b"a" * 300_000)
    pair.line.close()
    pair.line.close()
    assert len(await pair.read(400_000)) == 300_000
    assert pair.listener.lost == 1


async def test_closing_one_way_goes_on_reading(pair: Pair) -> None:
    pair.line.write(b"a" * 300_000)
    pair.line.close_sending()
    assert len(await pair.read(400_000)) == 300_000
    await pair.send(b"still heard")
    assert pair.listener.received == b"still heard"
    assert pair.listener.lost == 0


async def test_an_abort_is_told_once_and_drops_what_waits(pair: Pair) -> None:
    pair.line.write(b"a" * 300_000)
    pair.line.abort()
    pair.line.abort()
    pair.line.close()
    pair.line.write(b"nothing")
    assert pair.listener.lost == 0, "not within the call"
    await pair.turn()
    assert pair.listener.lost == 1
    assert pair.line.unsent_bytes == 0


async def test_the_client_that_leaves_is_noticed(pair: Pair) -> None:
    pair.client.close()
    await pair.turn()
    assert pair.listener.lost == 1


async def test_writing_to_who_has_gone_ends_the_line(pair: Pair) -> None:
    pair.line.pause_reading()
    pair.client.close()
    pair.line.write(b"anyone?")
    await pair.turn()
    assert pair.listener.lost == 1


async def test_a_failure_of_ours_costs_one_connection(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.listener.fails = True
    with contextlib.suppress(OSError):
        await pair.send(b"x")
    assert pair.listener.lost == 1
    assert "a defect of ours" in caplog.text


@pytest.mark.parametrize("unread", [b"", b"unread"])
async def test_a_client_that_has_left_is_known_before_its_bytes_are_read(
    pair: Pair, unread: bytes
) -> None:
    assert not pair.line.has_left
    pair.client.sendall(unread)
    assert not pair.line.has_left
    pair.client.close()
    assert pair.line.has_left
    await pair.turn()
    assert (pair.line.has_left, pair.listener.lost) == (True, 1)
