"""Measure a server before, during and after an attack."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from connections.testing import LiveServer, RawClient
from tests.abuse.attack import Attack, Target
from tests.abuse.canary import Canary, Sighting, find_percentile

_numbers = count(2)
"""Numbers of the attacks in this process; each has its own address range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The measurements of one attack."""

    name: str
    answers: Counter[str]
    network: str
    """The prefix of the attackers' addresses."""
    sighting: Sighting
    grown_kib: int
    """Peak memory during the attack, above the memory before it."""
    peak_kib: int
    """Peak memory during the attack, above the memory before all attacks."""
    log: str
    seconds: float

    def find_round_trip_ms(self, part: float) -> float:
        """Return a percentile of the canary's round trips."""
        return 1000 * find_percentile(self.sighting.round_trip_seconds, part)

    def find_connect_ms(self, part: float) -> float:
        """Return a percentile of how long the canary's connects took."""
        return 1000 * find_percentile(self.sighting.connect_seconds, part)


class Arena:
    """One server with its canary, for attacks in sequence."""

    def __init__(
        self,
        server: LiveServer,
        *,
        patience_seconds: float,
        offered_bytes: int,
        access_log: Path | None = None,
    ) -> None:
        self.server = server
        self._offered_bytes = offered_bytes
        self._access_log = access_log
        self._patience_seconds = patience_seconds
        self._canary = Canary(server.port)
        self._base_kib: int | None = None

    def close(self) -> None:
        """End the canary."""
        self._canary.stop()

    def access_log(self) -> str:
        """Return the server's access log."""
        return self._access_log.read_text(errors="replace") if self._access_log else ""

    async def suffer(self, attack: Attack) -> Report:
        """Run an attack; return the measurements."""
        if self._base_kib is None:
            await self._warm_up()
        server = self.server
        before_kib, log_size = server.rss_kib(), len(server.log())
        target = Target(
            port=server.port,
            number=next(_numbers),
            patience_seconds=self._patience_seconds,
            offered_bytes=self._offered_bytes,
        )
        began = time.monotonic()
        _forget_peak(server)
        async with self._canary.watching() as sighting:
            answers = await attack.run(target)
        peak_kib = _read_peak_kib(server)
        seconds = time.monotonic() - began
        RawClient.close_all()
        assert self._base_kib is not None
        return Report(
            name=attack.name,
            answers=answers,
            network=target.network,
            sighting=sighting,
            grown_kib=peak_kib - before_kib,
            peak_kib=peak_kib - self._base_kib,
            log=server.log()[log_size:],
            seconds=seconds,
        )

    def count_sockets(self) -> int:
        """Return the number of sockets of the server's process."""
        return sum(one.startswith("socket:") for one in _read_links(self.server.pid))

    async def _warm_up(self) -> None:
        """Let the server load what any client needs, and measure its memory."""
        async with self._canary.watching():
            await asyncio.sleep(1)
        self._base_kib = self.server.rss_kib()


def _read_links(pid: int) -> list[str]:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:  # Closed since.
            continue
    return links


def _forget_peak(server: LiveServer) -> None:
    """Reset VmHWM (proc(5), clear_refs)."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def _read_peak_kib(server: LiveServer) -> int:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("no VmHWM")
