"""Clients of a soak: they connect, send, stream, stop reading and vanish."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from connections.testing import TEXT, LiveServer, RawClient, build_frame
from tests.integration.session_client import SessionClient

_CHURNERS = 8
_TALKERS = 12
PAGES = 3
_SLOW = 2
_ANSWER = {"text": "count", "count": 8, "pause_seconds": 0.02}
_UNREAD = build_frame(TEXT, b"x" * 100_000)
_AWAY = (OSError, InvalidHandshake, ConnectionClosed, TimeoutError)
_PATIENCE_SECONDS = 60


class Crowd:
    """All clients of a soak."""

    def __init__(
        self, nodes: Sequence[LiveServer], tokens: Sequence[str], *, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._nodes = nodes
        self._random = random.Random(seed)
        # Long-lived clients: talkers and pages, spread over the nodes.
        self._talkers: dict[int, ClientConnection] = {}
        self.pages = [SessionClient(tokens[n]) for n in range(PAGES)]
        self.sent: dict[SessionClient, set[str]] = {page: set() for page in self.pages}

    async def generate_load(self, seconds: float) -> None:
        """Generate load for some seconds; then only long-lived clients stay, idle."""
        ends_at = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(_CHURNERS):
                group.create_task(self._churn(number, ends_at))
            for number in range(_TALKERS):
                group.create_task(self._talk(number, ends_at))
            for page in self.pages:
                group.create_task(self._converse(page, ends_at))
            for number in range(_SLOW):
                group.create_task(self._read_nothing(number, ends_at))

    def count_standing(self) -> int:
        """Return the number of long-lived connections."""
        return len(self._talkers) + len(self.pages)

    async def leave(self) -> None:
        """Close everything."""
        await asyncio.gather(*(one.close() for one in self._talkers.values()))
        self._talkers.clear()
        for page in self.pages:
            await page.cut()

    async def _churn(self, number: int, ends_at: float) -> None:
        while asyncio.get_running_loop().time() < ends_at:
            try:
                connection = await self._open(f"127.0.1.{number}")
            except _AWAY:
                self.counts["not opened"] += 1
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(*_AWAY):
                for _ in range(self._random.randrange(4)):
                    await self._echo(connection)
            if self._random.random() < 0.5:
                connection.transport.abort()
            else:
                await connection.close()
            await connection.wait_closed()

    async def _talk(self, number: int, ends_at: float) -> None:
        """Keep one connection, and reconnect when the node ends."""
        while asyncio.get_running_loop().time() < ends_at or not self._is_open(number):
            try:
                if not self._is_open(number):
                    # Four talkers share an address, which stays below its limit.
                    address = f"127.0.2.{number // 4}"
                    self._talkers[number] = await self._open(address)
                await self._echo(self._talkers[number])
            except _AWAY:
                self._talkers.pop(number, None)
            await asyncio.sleep(self._random.uniform(0.02, 0.1))

    def _is_open(self, number: int) -> bool:
        known = self._talkers.get(number)
        return known is not None and known.close_code is None

    async def _converse(self, page: SessionClient, ends_at: float) -> None:
        """Send messages that are answered by streams, and wait for each ack."""
        loop = asyncio.get_running_loop()
        while True:
            if not page.is_connected:
                await self._reconnect(page)
            self.sent[page].add(await page.say(_ANSWER))
            try:
                await page.wait(lambda: not page.waiting or not page.is_connected, 10)
            except TimeoutError:
                # The server refused it for now, or is gone: resend after a reconnect.
                self.counts["sent again"] += 1
                await page.cut()
            if loop.time() > ends_at and page.is_connected and not page.waiting:
                break
            if self._random.random() < 0.2:
                await page.cut()
            await asyncio.sleep(0.05)
        await page.wait(
            lambda: (
                not page.is_connected
                or all(one["state"] != "streaming" for one in page.entries.values())
            ),
            _PATIENCE_SECONDS,
        )
        self.counts["acked"] = sum(len(one.acked) for one in self.pages)

    async def _reconnect(self, page: SessionClient) -> None:
        """Attach to any node that answers."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                await page.connect(self._random.choice(self._nodes))
                self.counts["attached"] += 1
                return
            except _AWAY:
                await asyncio.sleep(0.1)
        raise TimeoutError("no node accepts a session")

    async def _read_nothing(self, number: int, ends_at: float) -> None:
        """Request more than the buffers hold, without reading."""
        loop = asyncio.get_running_loop()
        while loop.time() < ends_at:
            node = self._random.choice(self._nodes)
            try:
                client = await RawClient.open(
                    node.port,
                    "/ws/echo/",
                    f"Origin: {node.url}",
                    source=f"127.0.3.{number}",
                    receive_bytes=4096,
                )
            except _AWAY:
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(*_AWAY):
                async with asyncio.timeout(max(ends_at - loop.time(), 0.1)):
                    while True:
                        await client.send(_UNREAD)
            client.reset()
            RawClient.opened.remove(client)
            self.counts["read nothing"] += 1

    async def _open(self, address: str) -> ClientConnection:
        node = self._random.choice(self._nodes)
        connection: ClientConnection = await connect(
            f"{node.ws_url}/ws/echo/",
            origin=node.url,  # type: ignore[arg-type]
            local_addr=(address, 0),
            compression=None,
            ping_interval=None,
            open_timeout=10,
            proxy=None,
        )
        self.counts["opened"] += 1
        return connection

    async def _echo(self, connection: ClientConnection) -> None:
        text = "x" * self._random.randrange(1, 2000)
        await connection.send(text)
        async with asyncio.timeout(20):
            if await connection.recv() != text:
                raise ValueError("a wrong echo")
        self.counts["echoed"] += 1
