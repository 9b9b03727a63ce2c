"""
Run thousands of WebSocket clients in one thread, with epoll and raw bytes.

Frames are masked before the clock starts, and replies are compared as bytes. A
round trip thus costs a client a few microseconds, far less than a server.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from connections.capacity.load.client import Client, Dialect, answer_pings, keep_alive
from connections.capacity.load.echoes import Echoes
from connections.capacity.load.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    build_frame,
    build_reply,
    split_frames,
)
from connections.capacity.load.opening import KEY, Opening

LOOPBACK = "127.0.0.1"
_READ_BYTES = 65_536
_IP_BIND_ADDRESS_NO_PORT = 24


class Clients:
    """Open connections, keep them alive, and exchange messages over them."""

    def __init__(self, host: str, port: int, addresses: int) -> None:
        self._host = host
        self._port = port
        self._addresses = addresses
        self._epoll = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self._made = 0
        self.lost = 0
        """Connections that the server has closed."""

    def __len__(self) -> int:
        return len(self._by_fd)

    # Opening

    def open(
        self,
        count: int,
        *,
        concurrency: int,
        dialect: Dialect,
        headers: Sequence[str],
        path: str = "",
        seconds: float = 120,
    ) -> tuple[list[Client], list[float]]:
        """
        Open connections, `concurrency` at a time; return them and their times.

        Each has one of `headers`, which may begin with a Host of its own.

        Raises:
            ConnectionError: a connection was refused, or answered wrongly.
            TimeoutError: not all connections were open in time.
        """
        opened: list[Client] = []
        times: list[float] = []
        started = 0
        deadline = time.monotonic() + seconds
        waiting: set[Client] = set()
        lost = self.lost

        def record(client: Client) -> None:
            waiting.discard(client)
            client.is_open = True
            times.append(time.monotonic() - client.sent_at)
            opened.append(client)

        try:
            while len(opened) < count:
                while started < count and len(waiting) < concurrency:
                    lines = headers[self._made % len(headers)] if headers else ""
                    begun = self._begin(path or dialect.path, lines, dialect, record)
                    waiting.add(begun)
                    started += 1
                self.poll(0.5)
                if self.lost > lost:
                    raise ConnectionError("the server has closed a connection")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(opened)} of {count} open in {seconds} s")
        finally:
            # A refusal of one that is left would fail a later step.
            for client in waiting:
                if client.socket.fileno() >= 0:
                    self.drop(client)
        return opened, times

    def _begin(
        self, path: str, lines: str, dialect: Dialect, record: Callable[[Client], None]
    ) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        index = self._made % self._addresses
        if self._host == LOOPBACK:
            # One address has 28,000 ports, and its own limits at the server. The
            # kernel chooses the port at connect(), when it is unique per peer.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.1.{index // 250}.{index % 250 + 1}", 0))
        self._made += 1
        if not lines.startswith("Host: "):
            lines = f"Host: {self._host}:{self._port}\r\n{lines}"
        request = (
            f"GET {path} HTTP/1.1\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {KEY.decode()}\r\n{lines}\r\n"
        ).encode()
        client = Client(sock, request, dialect)
        client.sent_at = time.monotonic()
        client.on_data = Opening(record).take
        error = sock.connect_ex((self._host, self._port))
        if error not in (0, errno.EINPROGRESS):
            raise ConnectionError(os.strerror(error))
        self._by_fd[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        return client

    # Polling

    def poll(self, seconds: float) -> None:
        """Wait for events at most so many seconds, and handle them."""
        for fd, event in self._epoll.poll(seconds, 2048):
            client = self._by_fd.get(fd)
            if client is None:
                continue
            if event & select.EPOLLOUT:
                client.socket.sendall(client.request)
                self._epoll.modify(fd, select.EPOLLIN)
                continue
            try:
                data = client.socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            if data:
                client.on_data(client, data)
            else:
                self.lost += 1
                self.drop(client)

    def rest(self, seconds: float) -> None:
        """Answer pings for some seconds, to keep the connections alive."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.poll(left)

    def drop(self, client: Client) -> None:
        """Reset a connection, which frees its port at once."""
        self._by_fd.pop(client.socket.fileno(), None)
        linger = struct.pack("ii", 1, 0)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.socket.close()

    def confirm(self, clients: Sequence[Client], seconds: float) -> str:
        """
        Ping each connection, and wait until it has answered or is closed.

        Return why one was closed, or an empty text.

        A server completes the handshake of a connection that it refuses, and sends
        the close frame after it, later on a busy machine.

        Raises:
            TimeoutError: a connection was neither answered nor closed in time.
        """
        answered: set[Client] = set()
        lost, deadline = self.lost, time.monotonic() + seconds

        def take(client: Client, data: bytes) -> None:
            keep_alive(client, data)
            frames, client.buffer = split_frames(client.buffer)
            if any(raw[0] == PONG for raw, _ in frames):
                answered.add(client)

        clients = [client for client in clients if client.socket.fileno() >= 0]
        for client in clients:
            client.on_data = take
            take(client, b"")  # What came with the handshake.
            # A closed socket is counted by the next poll.
            with contextlib.suppress(OSError):
                client.socket.send(build_frame(PING, b""))
        while (left := len(clients) - len(answered) - self.lost + lost) > 0:
            self.poll(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} connections answer no ping in {seconds} s")
        for client in clients:
            client.on_data = keep_alive
        return next(filter(None, (client.why_closed for client in clients)), "")

    # Echo

    def prepare_pings(self, clients: Sequence[Client]) -> None:
        """Prepare a ping for each connection, and the pong that must follow."""
        for index, client in enumerate(clients):
            payload = f"{index:06d}".encode()
            client.frame = build_frame(PING, payload)
            client.reply = bytes((PONG, len(payload))) + payload

    def prepare_message(self, clients: Sequence[Client], text: str) -> None:
        """Prepare a message for each connection; any answer is the reply."""
        for client in clients:
            client.frame = build_frame(TEXT, text.encode())
            client.reply = b""

    def prepare_echo(self, clients: Sequence[Client], size: int) -> None:
        """Prepare a distinct masked message for each connection, and its echo."""
        for index, client in enumerate(clients):
            text = client.dialect.wrap(f"{index:06d}".ljust(size, "x"))
            client.frame = build_frame(TEXT, text.encode())
            client.reply = build_reply(text.encode())

    def exchange(self, clients: Sequence[Client], seconds: float) -> Echoes:
        """
        Send the prepared message on each connection, again after each reply.

        Raises:
            ConnectionError: a reply differs from the expected one.
            TimeoutError: a reply is missing.
        """
        echoes = Echoes()
        take = echoes.take
        for client in clients:
            client.on_data = take
            client.buffer = b""
        started, cpu = time.monotonic(), time.process_time()
        for client in clients:
            client.sent_at = time.monotonic()
            client.socket.send(client.frame)
        deadline = started + seconds
        while time.monotonic() < deadline:
            self.poll(0.1)
        echoes.seconds = time.monotonic() - started
        echoes.own_cpu_seconds = time.process_time() - cpu
        echoes.is_over = True
        stalled = time.monotonic() + 10
        while echoes.settled < len(clients):
            self.poll(0.1)
            if time.monotonic() > stalled:
                raise TimeoutError("a reply is missing")
        for client in clients:
            client.on_data = keep_alive
        return echoes

    # Fan-out

    def count_deliveries(
        self, clients: Sequence[Client], trigger: bytes, reply: bytes, seconds: float
    ) -> tuple[int, float]:
        """
        Have a reply sent to all again and again; return its deliveries and the time.

        The first client sends the trigger, and again whenever half of the replies of
        the one before have arrived: the server never waits for the generator.

        Raises:
            ConnectionError: something else than the reply arrived.
            TimeoutError: a reply is missing.
        """
        size, sender = len(reply), clients[0]
        sent = received = 0

        def take(client: Client, data: bytes) -> None:
            nonlocal received
            # Nearly all reads are one reply, or several.
            if client.buffer or data.replace(reply, b""):
                data = answer_pings(client, client.buffer + data)
                count = data.count(reply)
                client.buffer = data[count * size :]
                if not reply.startswith(client.buffer[:size]):
                    raise ConnectionError(f"not the reply: {client.buffer[:100]!r}")
            else:
                count = len(data) // size
            received += count

        for client in clients:
            client.on_data = take
            client.buffer = b""
        started = time.monotonic()
        deadline, stalled = started + seconds, started + seconds + 300
        while (is_on := time.monotonic() < deadline) or received < sent * len(clients):
            if is_on and received >= (sent - 0.5) * len(clients):
                sender.socket.send(trigger)
                sent += 1
            self.poll(0.1)
            if time.monotonic() > stalled:
                raise TimeoutError(f"{sent * len(clients) - received} replies missing")
        took = time.monotonic() - started
        for client in clients:
            client.on_data = keep_alive
        return received, took

    def watch_closes(self, clients: Sequence[Client]) -> set[Client]:
        """Return a set to which clients are added when the server closes them."""
        closed: set[Client] = set()

        def take(client: Client, data: bytes) -> None:
            client.buffer += data
            frames, client.buffer = split_frames(client.buffer)
            if any(raw[0] == CLOSE for raw, _ in frames):
                client.socket.send(build_frame(CLOSE, b""))
                closed.add(client)

        for client in clients:
            client.on_data = take
        return closed
