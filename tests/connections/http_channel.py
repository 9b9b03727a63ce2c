"""One HTTP connection of the server in this process, on a socket of the test."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server as TcpTransport
from twisted.python.failure import Failure

from connections.asgi import Application
from connections.server.http import HttpChannel
from connections.server.http_factory import HttpFactory
from connections.server.server import Server
from connections.server.timers import CoarseTimers
from connections.server.transport import WriteBatch
from connections.testing.waiting import scale
from tests.connections.fake_loop import FakeLoop

_BUFFER_BYTES = 4096
"""Size of the kernel's buffers: few bytes fill them."""


class Reactor:
    """Remembers which transports wait for the kernel."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()
        self.addReader = self.removeReader = lambda one: None
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def callLater(self, seconds: float, action: Callable[..., None], *args: Any) -> Any:
        return asyncio.get_running_loop().call_soon(action, *args)


class Peer:
    """A client, the channel that serves it, and the time of its timers."""

    def __init__(
        self,
        application: Application,
        *,
        beside: "Peer | None" = None,
        address: str = "127.0.0.1",
        **options: Any,
    ) -> None:
        self.time: FakeLoop = FakeLoop() if beside is None else beside.time
        if beside is None:
            options = {"request_buffer_size": 1_000_000, **options}
            self.server: Server = Server(application, endpoints=["tcp:0"], **options)
            self.server.loop = asyncio.get_running_loop()
            self.server.write_batch = WriteBatch(self.server.loop)
            timers: Any = self.time
            self.server.timers = CoarseTimers(timers)
        else:
            self.server = beside.server
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._socket = socket.socket()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.connect(listening.getsockname())
            ours, _ = listening.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        ours.setblocking(False)
        self._socket.setblocking(False)
        self._reactor = Reactor()
        self.channel: HttpChannel = HttpFactory(self.server).buildProtocol(None)
        self.transport = TcpTransport(
            ours, self.channel, (address, 40_000), None, 1, self._reactor
        )
        self.channel.makeConnection(self.transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()
        self._socket.close()

    @property
    def is_connected(self) -> bool:
        return bool(self.transport.connected)

    async def send(self, *parts: bytes) -> None:
        """Let the channel receive these bytes."""
        for part in parts:
            self.channel.dataReceived(part)
        await self.settle()

    async def send_over_socket(self, data: bytes) -> None:
        """Send bytes as a client of a WebSocket, which has left its HTTP channel."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)
        await self.settle()

    async def read(self, most: int = 1_000_000) -> bytes:
        """Return what has arrived, and take at most so many bytes from the kernel."""
        received = b""
        while len(received) < most:
            await self.settle()
            try:
                piece = self._socket.recv(min(most - len(received), 65_536))
            except BlockingIOError:
                break
            if not piece:
                break
            received += piece
        await self.settle()
        return received

    async def read_to(
        self, end: bytes, *, most: int = 1_000_000, seconds: float = 0, count: int = 1
    ) -> bytes:
        """
        Return what arrives until these bytes have come so often.

        Each `most` bytes take some `seconds` of the channel's time. The kernel may
        take its own, in which none passes here.
        """
        received = b""
        async with asyncio.timeout(scale(20)):
            while received.count(end) < count:
                piece = await self.read(most)
                received += piece
                self.time.advance(seconds * len(piece) / most)
        await self.settle()
        return received

    async def settle(self) -> None:
        """Let the applications run, and the kernel take what it can."""
        for _ in range(20):
            await asyncio.sleep(0)
            for transport in list(self._reactor.writers):
                with contextlib.suppress(BlockingIOError):
                    failure = transport.doWrite()
                if failure:
                    transport.connectionLost(Failure(failure))

    async def finish_sending(self) -> None:
        """Half-close the connection from the side of the client."""
        self.transport.readConnectionLost(Failure(ConnectionDone()))
        await self.settle()

    async def leave(self) -> None:
        """Close the connection from the side of the client."""
        if self.channel.websocket is not None:
            self._socket.close()
        elif self.is_connected:
            self.transport.connectionLost(Failure(ConnectionDone()))
        await self.settle()
