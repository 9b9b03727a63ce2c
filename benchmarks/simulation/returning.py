"""Real clients that return after the end of their node, and when each did."""

import asyncio
import json
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed

from benchmarks.simulation.live import Cluster, start_node
from connections.client.connect import Socket
from connections.client.events import State
from connections.client.reconnecting_socket import ReconnectingSocket

_DOWN_SECONDS = 6
_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """How clients came back."""

    attempts: int
    """Connects that were tried, by all clients."""

    seconds: list[float]
    """From the end of the node to the return of each client."""

    down_seconds: float
    """From the end of the node until another served its port."""


class _Client:
    """One client of the product, which notes its returns."""

    def __init__(self, clients: "_Clients", token: str, seed: int) -> None:
        self.is_ready = asyncio.Event()
        self._clients = clients
        self.socket = ReconnectingSocket(
            make_url=clients.make_url,
            subprotocols=(),
            get_token=lambda is_expired: token,
            attend=self._attend,
            on_change=self._note,
            rng=random.Random(seed).random,
            sleep=asyncio.sleep,
        )

    def _note(self, state: State, delay_seconds: float | None) -> None:
        if state is State.OPEN:
            self.is_ready.set()
        else:
            self.is_ready.clear()

    async def _attend(self, connection: Socket) -> None:
        # A consumer that says nothing has accepted it.
        self.socket.mark_ready()
        self._clients.note_return()
        with suppress(ConnectionClosed):
            async for text in connection:
                message = json.loads(text)
                if message.get("type") == "bye":
                    self.socket.on_bye(message)


class _Clients:
    def __init__(self, cluster: Cluster, count: int, seed: int) -> None:
        self.port = cluster.nodes[0].port
        self.attempts = 0
        self.ended_at: float | None = None
        self.returned: list[float] = []
        self._are_back = asyncio.Event()
        tokens = cluster.site.tokens[:count]
        self._all = [
            _Client(self, token, seed + number) for number, token in enumerate(tokens)
        ]

    def make_url(self) -> str:
        self.attempts += self.ended_at is not None
        return f"ws://127.0.0.1:{self.port}/ws/json/"

    def note_return(self) -> None:
        """Note that one has a connection again."""
        if self.ended_at is not None:
            self.returned.append(time.monotonic() - self.ended_at)
            if len(self.returned) == len(self._all):
                self._are_back.set()

    async def open(self) -> None:
        for one in self._all:
            one.socket.connect()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for one in self._all:
                await one.is_ready.wait()

    async def wait(self) -> None:
        """Wait until each has returned once."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._are_back.wait()

    async def close(self) -> None:
        for one in self._all:
            await one.socket.close()


async def measure_kill(cluster: Cluster, count: int, seed: int) -> Returns:
    """Kill the first node under its clients; another serves its port after a while."""
    clients = _Clients(cluster, count, seed)
    await clients.open()
    old = cluster.nodes[0]
    clients.ended_at = time.monotonic()
    await asyncio.to_thread(old.stop)
    await asyncio.sleep(_DOWN_SECONDS)
    new = start_node(cluster.site, old.port, "successor")
    await asyncio.to_thread(new.__enter__)
    down_seconds = time.monotonic() - clients.ended_at
    cluster.stack.push(new)
    cluster.nodes[0] = new
    return await _finish(clients, down_seconds)


async def measure_drain(cluster: Cluster, count: int, seed: int) -> Returns:
    """Drain the first node under its clients, which return to the second."""
    clients = _Clients(cluster, count, seed)
    await clients.open()
    clients.ended_at = time.monotonic()
    clients.port = cluster.nodes[1].port
    cluster.nodes[0].signal(signal.SIGTERM)
    return await _finish(clients, 0.0)


async def _finish(clients: _Clients, down_seconds: float) -> Returns:
    try:
        await clients.wait()
    finally:
        await clients.close()
    return Returns(
        attempts=clients.attempts,
        seconds=sorted(clients.returned),
        down_seconds=down_seconds,
    )
