"""
A well-behaved client in its own process that measures service during an attack.

    python -m tests.abuse.canary 8000

For each "begin" on its input it says "ready" and then exchanges messages and opens
connections until "end", to which it answers with one line of JSON: Sighting.
"""

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import websockets

from connections.testing.waiting import scale
from tests.project import ROOT

_ADDRESS = "127.254.0.1"
_MESSAGE_SECONDS = 0.025
_CONNECT_SECONDS = 0.2
_ANSWER_SECONDS = scale(7.5)
"""A message without an answer after this time counts as lost."""


@dataclass(slots=True)
class Sighting:
    """The canary's measurements: round trips, connects and failures."""

    round_trip_seconds: list[float] = field(default_factory=list)
    connect_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def find_percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile of the values; `part` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Canary:
    """Start, read and stop the canary's process."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.abuse.canary", str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Sighting]:
        """Measure during the block; the measurements are complete at its end."""
        sighting = Sighting()
        await asyncio.to_thread(self._ask, "begin")
        try:
            yield sighting
        finally:
            seen = json.loads(await asyncio.to_thread(self._ask, "end"))
            for name, values in seen.items():
                setattr(sighting, name, values)

    def stop(self) -> None:
        """End the process."""
        self._process.communicate(timeout=scale(30))

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


class _Singing:
    """One measurement: a connection that sends, and short-lived connections."""

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/echo/"
        self._origin = f"http://127.0.0.1:{port}"
        self._is_over = asyncio.Event()
        self.is_ready = asyncio.Event()
        self.sighting = Sighting()
        self.tasks = [
            asyncio.create_task(self._note_failure(work))
            for work in (self._talk, self._come_and_go)
        ]

    async def end(self) -> Sighting:
        """Finish the measurement and return it."""
        self._is_over.set()
        await asyncio.gather(*self.tasks)
        return self.sighting

    async def _note_failure(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (websockets.WebSocketException, OSError, TimeoutError) as exc:
            self.sighting.failures.append(f"{type(exc).__name__}: {exc}")
        finally:
            self.is_ready.set()

    async def _talk(self) -> None:
        async with self._connect() as connection:
            while not self._is_over.is_set():
                await self._exchange(connection)
                self.is_ready.set()
                await self._rest(_MESSAGE_SECONDS)

    async def _come_and_go(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            async with self._connect() as connection:
                self.sighting.connect_seconds.append(time.monotonic() - began)
                await self._exchange(connection)
            await self._rest(_CONNECT_SECONDS)

    async def _exchange(self, connection: websockets.ClientConnection) -> None:
        began = time.monotonic()
        await connection.send("tweet")
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer = await connection.recv()
        if answer != "tweet":
            self.sighting.failures.append(f"another answer: {answer!r:.80}")
        self.sighting.round_trip_seconds.append(time.monotonic() - began)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), seconds)

    def _connect(self) -> websockets.connect:
        return websockets.connect(
            self._url,
            origin=websockets.Origin(self._origin),
            local_addr=(_ADDRESS, 0),
            compression=None,
            ping_interval=None,
            open_timeout=_ANSWER_SECONDS,
        )


async def _main(port: int) -> None:
    while await asyncio.to_thread(sys.stdin.readline):
        singing = _Singing(port)
        await singing.is_ready.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(dataclasses.asdict(await singing.end())), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
