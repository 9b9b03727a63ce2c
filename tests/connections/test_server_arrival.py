"""The first bytes of a TCP connection: a handshake here, all else for the channel."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.tcp import Server as TcpTransport

from connections.asgi import Message, Receive, Send
from connections.server.arrival import Arrival
from connections.server.http import HttpChannel
from connections.server.http_factory import HttpFactory
from connections.server.port import Port
from connections.testing.waiting import scale, wait_until
from connections.workers.board import Board, Cell
from tests.connections.http_channel import Peer, Reactor

HANDSHAKE = (
    b"GET /ws/%C3%A9?a=b HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nX_Forged: x\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=1\r\n"
    b"Sec-WebSocket-Protocol: chat, other\r\nCookie: b=2\r\n\r\n"
)
TIMEOUT_SECONDS = 10


class Accepting:
    """Accepts each WebSocket, and answers each request with 204."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            continue


class Newcomers:
    """Clients of one server, whose connections arrive and count none of its time."""

    def __init__(self, peer: Peer) -> None:
        self.server, self.time = peer.server, peer.time
        self.channels: list[HttpChannel] = []
        self.clients: list[socket.socket] = []
        self.reactor = Reactor()

    def arrive(self, first: bytes = b"", *, has_left: bool = False) -> socket.socket:
        """Connect a client that has sent some bytes, and may have left since."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            self.clients.append(client)
            client.sendall(first)
            if has_left:
                client.close()
            ours, address = listening.accept()
            if not has_left:
                client.setblocking(False)
        Arrival(self.server, ours, address, self.adopt).begin()
        return client

    def adopt(self, sock: socket.socket) -> HttpChannel:
        channel: HttpChannel = HttpFactory(self.server).buildProtocol(None)
        address = sock.getpeername()
        ours = socket.socket(fileno=sock.detach())
        transport = TcpTransport(ours, channel, address, None, 1, self.reactor)
        channel.makeConnection(transport)
        self.channels.append(channel)
        return channel

    async def read(self, client: socket.socket) -> bytes:
        """Return the first bytes of an answer."""
        async with asyncio.timeout(scale(10)):
            while True:
                for transport in list(self.reactor.writers):
                    transport.doWrite()
                # A deadline of the loop's own read could drop what it has just read.
                with contextlib.suppress(BlockingIOError):
                    return client.recv(65_536)
                await asyncio.sleep(0.01)


@pytest.fixture
def application() -> Accepting:
    return Accepting()


@pytest.fixture
async def newcomers(settings: Any, application: Accepting) -> Any:
    limits = {"timeout_seconds": TIMEOUT_SECONDS, "max_pending": 3}
    settings.WEBSOCKET = {"handshake": limits}
    async with Peer(application) as peer:
        await peer.leave()
        found = Newcomers(peer)
        yield found
        for websocket in found.server.websockets:
            websocket.abort()
        for client in found.clients:
            client.close()
        for channel in found.channels:
            if channel.transport is not None and channel.websocket is None:
                channel.transport.abortConnection()
        await peer.settle()


def drop_ports(scope: Message) -> Iterator[tuple[str, Any]]:
    for key, value in scope.items():
        if key in ("client", "server"):
            yield key, value[0]
        elif key == "headers":
            yield key, sorted(value)
        elif key != "extensions":
            yield key, value


async def test_a_plain_handshake_needs_no_channel(
    newcomers: Newcomers, application: Accepting
) -> None:
    client = newcomers.arrive(HANDSHAKE)
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 101 ")
    assert newcomers.channels == []
    assert [one["path"] for one in application.scopes] == ["/ws/é"]
    assert newcomers.server.http_channels == set()


async def test_a_handshake_whose_client_has_left_opens_nothing(
    newcomers: Newcomers, application: Accepting
) -> None:
    """As of a client that gave up while the node stood still."""
    newcomers.arrive(HANDSHAKE, has_left=True)
    late = newcomers.arrive(HANDSHAKE)
    assert (await newcomers.read(late)).startswith(b"HTTP/1.1 101 ")
    assert len(application.scopes) == 1
    assert (newcomers.channels, newcomers.server.http_channels) == ([], set())


async def test_both_parsers_give_an_application_the_same_scope(
    newcomers: Newcomers, application: Accepting
) -> None:
    whole, parts = newcomers.arrive(HANDSHAKE), newcomers.arrive(HANDSHAKE[:50])
    assert (await newcomers.read(whole)).startswith(b"HTTP/1.1 101 ")
    newcomers.channels[0].dataReceived(HANDSHAKE[50:])
    assert (await newcomers.read(parts)).startswith(b"HTTP/1.1 101 ")
    one, other = application.scopes
    assert dict(drop_ports(one)) == dict(drop_ports(other))


async def test_a_handshake_that_comes_later_is_awaited(newcomers: Newcomers) -> None:
    client = newcomers.arrive()
    assert len(newcomers.server.http_channels) == 1
    client.sendall(HANDSHAKE)
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 101 ")
    assert newcomers.channels == []
    assert newcomers.server.http_channels == set()


async def test_a_request_is_left_to_the_channel(newcomers: Newcomers) -> None:
    client = newcomers.arrive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 204 ")


async def test_a_handshake_of_another_version_is_answered_by_the_channel(
    newcomers: Newcomers,
) -> None:
    client = newcomers.arrive(HANDSHAKE.replace(b"Version: 13", b"Version: 8"))
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 426 ")


async def test_a_client_that_sends_nothing_is_refused_in_time(
    newcomers: Newcomers,
) -> None:
    client = newcomers.arrive()
    newcomers.time.advance(TIMEOUT_SECONDS + 0.2)
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 408 ")
    assert newcomers.server.admission.refusals["timeout"] == 1


async def test_the_first_bytes_do_not_extend_the_deadline(newcomers: Newcomers) -> None:
    client = newcomers.arrive()
    newcomers.time.advance(TIMEOUT_SECONDS * 0.9)
    client.sendall(HANDSHAKE[:50])
    await wait_until(lambda: bool(newcomers.channels))
    newcomers.time.advance(TIMEOUT_SECONDS * 0.1 + 0.2)
    assert (await newcomers.read(client)).startswith(b"HTTP/1.1 408 ")


async def test_beyond_the_bound_the_oldest_silent_client_is_refused(
    newcomers: Newcomers,
) -> None:
    clients = [newcomers.arrive() for _ in range(4)]
    assert (await newcomers.read(clients[0])).startswith(b"HTTP/1.1 408 ")
    assert newcomers.server.admission.refusals["oldest"] == 1
    clients[3].sendall(HANDSHAKE)
    assert (await newcomers.read(clients[3])).startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_leaves_in_silence_leaves_nothing(
    newcomers: Newcomers,
) -> None:
    newcomers.arrive().close()
    await wait_until(lambda: not newcomers.server.http_channels)
    newcomers.arrive()
    assert newcomers.channels == []
    assert newcomers.server.admission.refusals == {}


async def test_a_drain_refuses_a_handshake_and_closes_its_socket(
    newcomers: Newcomers, application: Accepting
) -> None:
    newcomers.server.admission.is_draining = True
    client = newcomers.arrive(HANDSHAKE)
    answer = await newcomers.read(client)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert await newcomers.read(client) == b""
    assert application.scopes == []
    assert newcomers.server.connections == {}


async def test_a_head_in_parts_whose_client_has_left_opens_nothing(
    newcomers: Newcomers, application: Accepting
) -> None:
    newcomers.arrive(HANDSHAKE[:40]).close()
    (channel,) = newcomers.channels
    channel.dataReceived(HANDSHAKE[40:])
    assert (newcomers.server.connections, channel.websocket) == ({}, None)
    await asyncio.sleep(0)
    assert application.scopes == []


async def test_an_application_learns_that_its_client_has_left_before_it_answers(
    newcomers: Newcomers, application: Accepting
) -> None:
    """The end of the connection waits in the kernel, behind unread bytes."""
    client = newcomers.arrive(HANDSHAKE)
    (websocket,) = newcomers.server.websockets
    assert not websocket.has_left
    client.sendall(b"early")
    client.close()
    assert websocket.has_left
    await wait_until(lambda: not newcomers.server.websockets)
    assert websocket.has_left


@pytest.mark.parametrize(
    ("failure", "is_served"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (ValueError("I/O operation on closed file"), True),
        (RuntimeError("a defect of ours"), False),
    ],
)
async def test_a_failure_of_the_access_log_ends_no_other_connection(
    newcomers: Newcomers,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    is_served: bool,
) -> None:
    def fail(protocol: str, action: str, details: Any) -> None:
        raise failure

    newcomers.server.action_logger = fail
    client = newcomers.arrive(HANDSHAKE)
    if is_served:
        assert (await newcomers.read(client)).startswith(b"HTTP/1.1 101 ")
    else:
        with pytest.raises(ConnectionResetError):
            await newcomers.read(client)
        await wait_until(lambda: not newcomers.server.connections)
    assert str(failure) in caplog.text
    newcomers.server.action_logger = None
    again = newcomers.arrive(HANDSHAKE)
    assert (await newcomers.read(again)).startswith(b"HTTP/1.1 101 ")


async def test_a_port_outlives_a_connection_that_cannot_be_taken(
    newcomers: Newcomers,
) -> None:
    """Twisted closes the port of a method that raises."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    factory = HttpFactory(newcomers.server)
    broken = object()
    port = Port(listening, factory, broken, is_tls=False, share=None)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        with socket.create_connection(listening.getsockname()) as client:
            client.setblocking(False)
            port.doRead()
            async with asyncio.timeout(scale(10)):
                assert await loop.sock_recv(client, 1) == b""
    port.stopListening()


@pytest.mark.parametrize("does_other_accept", [True, False])
async def test_a_port_whose_node_drains_leaves_its_clients_to_another_worker(
    does_other_accept: bool,
) -> None:
    """After the last worker nobody would answer them."""
    board = Board.create()
    own, other = Cell(board, 0), Cell(board, 1)
    node = SimpleNamespace(is_draining=False)
    server = SimpleNamespace(node=node, connections={}, http_channels=set())
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    factory = HttpFactory(server)
    port = Port(listening, factory, server, is_tls=False, share=own)
    assert other.find_least() == 0
    node.is_draining = True
    if does_other_accept:
        other.publish(7)
    with socket.create_connection(listening.getsockname()) as client:
        client.setblocking(False)
        port.doRead()
        assert other.find_least() is None
        if does_other_accept:
            listening.accept()[0].close()  # It waits for the other worker.
        else:
            async with asyncio.timeout(scale(10)):
                # This server is too simple to serve it.
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    node.is_draining = False
    port.doRead()
    assert other.find_least() == 0
    port.stopListening()
