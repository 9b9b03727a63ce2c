"""Define an attack, its target and the answers it can observe."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connections.testing import RawClient, build_request

OPEN = "open"
"""The answer counted for a connection that is still open at the deadline."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server under attack, and a range of addresses for one attack."""

    port: int
    number: int
    patience_seconds: float
    """How long an attacker waits for an end before it counts as open."""
    offered_bytes: int
    """How much one attacker sends, or asks for."""

    @property
    def network(self) -> str:
        """The prefix of the attack's addresses."""
        return f"127.{self.number}."

    def find_address(self, index: int = 0) -> str:
        """Return an address of the attack; each can stand for a client."""
        return f"{self.network}{index // 250}.{index % 250 + 1}"

    def count_open(self) -> int:
        """Return the number of the attack's connections that the server holds."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        rows = (line.split() for line in lines)
        # Addresses are in the machine's byte order there; ports are not.
        return sum(
            int(local.partition(":")[2], 16) == self.port
            and remote[4:8] == f"{self.number:02X}7F"
            and inode != "0"
            for _, local, remote, _, _, _, _, _, _, inode, *_ in rows
        )

    def build_request(self, path: str = "/echo/", *headers: str) -> bytes:
        """Return a handshake with the server's own Origin."""
        return build_request(path, self.port, self.origin, *headers)

    @property
    def origin(self) -> str:
        """The Origin header of the server's own pages."""
        return f"Origin: http://127.0.0.1:{self.port}"

    async def connect(self, index: int = 0) -> RawClient:
        """Open a TCP connection."""
        return await RawClient.connect(self.port, source=self.find_address(index))

    async def open(
        self,
        path: str = "/echo/",
        *headers: str,
        index: int = 0,
        kind: type[RawClient] = RawClient,
        **options: Any,
    ) -> RawClient:
        """Open a WebSocket with the server's own Origin."""
        source = self.find_address(index)
        return await kind.open(
            self.port, path, self.origin, *headers, source=source, **options
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """
    One row of the corpus.

    `run` attacks, waits for what becomes of it, and returns how the attackers
    were answered: the status of a refused handshake, code and reason of a
    close frame, "reset", "closed", or "open".
    """

    name: str
    what: str
    run: Callable[[Target], Awaitable[Counter[str]]]
    answers: frozenset[str]
    """What this project may answer, and nothing else."""
    most: Mapping[str, int] = field(default_factory=dict)
    """Of which answers there may be how many at most."""
    recorded: frozenset[str] = frozenset()
    """Code and reason of the records that it leaves behind."""
    counted: tuple[str, ...] = ()
    """Series of /metrics that grow."""
    logged: tuple[str, ...] = ()
    """What the log says."""
    held_kib: int = 0
    """What the configured limits let it hold."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Keys that differ from those of the other attacks."""


async def read_close_reason(client: RawClient, seconds: float) -> str:
    """Return the close code and reason of a WebSocket, or how else it ended."""
    try:
        async with asyncio.timeout(seconds):
            frame = await client.read_close(seconds)
    except TimeoutError:
        return OPEN
    except ConnectionResetError:
        return "reset"
    except ConnectionError:
        return "closed"
    if not frame.payload:
        return "1005"
    return f"{frame.close_code} {frame.close_reason}".strip()


async def read_status(client: RawClient, seconds: float) -> str:
    """Return the HTTP status of a request, or how else it ended."""
    try:
        async with asyncio.timeout(seconds):
            status, _, _ = await client.read_response()
    except TimeoutError:
        return OPEN
    except ConnectionResetError:
        return "reset"
    except ConnectionError:
        return "closed"
    return str(status)


async def read_answer(client: RawClient, seconds: float) -> str:
    """Return the refusal of a handshake, or the end of its WebSocket."""
    status = await read_status(client, seconds)
    return await read_close_reason(client, seconds) if status == "101" else status


async def send_until_cut(client: RawClient, pieces: Iterable[bytes]) -> None:
    """Send all pieces, or until the server closes."""
    with contextlib.suppress(OSError):
        for piece in pieces:
            await client.send(piece)


async def during(attack: Awaitable[object], close_reason: Awaitable[str]) -> str:
    """Return the answer to an attacker that continues until the connection ends."""
    attacking = asyncio.ensure_future(attack)
    try:
        return await close_reason
    finally:
        attacking.cancel()
        await asyncio.gather(attacking, return_exceptions=True)


async def gather_answers(answers: Iterable[Awaitable[str]]) -> Counter[str]:
    """Return the count of each answer."""
    return Counter(await asyncio.gather(*answers))
