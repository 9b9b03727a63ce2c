"""Bound the answers under way on one node, and what a client may store."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connections.units import Clock
from sessions_history.entries import NewEntry
from sessions_history.exceptions import TooManyStreams
from sessions_history.reads import read_usage

_MOST_CLIENTS = 10_000
_READ_SECONDS = 60.0
_READ_FULL_SECONDS = 5.0
"""How long a sum that was read counts; that of a full client for less long, because
it may have deleted a session."""


class StreamQuota:
    """
    Counts the answers under way on one node, in all and by client.

    Those that wait for a person are left out, as many as may be under way.
    """

    def __init__(self, most_per_client: int, most: int) -> None:
        self._most_per_client = most_per_client
        self._most = most
        self._by_client: Counter[str] = Counter()
        # How often an answer waits, and those of them that are left out.
        self._waits: Counter[object] = Counter()
        self._left_out: set[object] = set()

    def require_room(self, client_id: str) -> None:
        """
        Check that one more answer may begin, for a client or for the application.

        Raises:
            TooManyStreams: the client or the node has its limit.
        """
        own = self._by_client[client_id] if client_id else 0
        if own >= self._most_per_client or not self.room:
            raise TooManyStreams

    @property
    def room(self) -> int:
        """How many more answers may begin in this process."""
        return max(0, self._most - self._by_client.total())

    def count_until(self, work: "asyncio.Future[Any]", client_id: str) -> None:
        """Count an answer until its work is done."""
        self._by_client[client_id] += 1
        work.add_done_callback(lambda done: self._release(client_id))

    @contextmanager
    def without(self, client_id: str, answer: object) -> Iterator[None]:
        """Leave out an answer that was counted, if there is room, within its blocks."""
        if not self._waits[answer] and len(self._left_out) < self._most:
            self._left_out.add(answer)
            self._release(client_id)
        self._waits[answer] += 1
        try:
            yield
        finally:
            self._waits[answer] -= 1
            if not self._waits[answer]:
                del self._waits[answer]
                if answer in self._left_out:
                    self._left_out.remove(answer)
                    self._by_client[client_id] += 1

    def _release(self, client_id: str) -> None:
        self._by_client[client_id] -= 1
        if not self._by_client[client_id]:
            del self._by_client[client_id]


@dataclass(slots=True)
class _Usage:
    """What a client stores: as it was read, and what was added since."""

    entries: int
    size_bytes: int
    read_at: float


class StorageQuota:
    """
    Bounds the entries and bytes that each client stores; 0 is no limit.

    A sum is read once a minute and while a client is full. In between this node
    adds what it appends, and knows neither what was trimmed nor what others add.
    It belongs to the database thread that commits.
    """

    def __init__(
        self, max_entries: int, max_bytes: int, clock: Clock = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._usages: OrderedDict[str, _Usage] = OrderedDict()

    def take(self, client_id: str, entries: Sequence[NewEntry]) -> bool:
        """Count new entries of a client; return False if they do not fit."""
        if not client_id or not (self._max_entries or self._max_bytes):
            return True
        size_bytes = sum(len(entry.data.encode()) for entry in entries)
        usage = self._usages.get(client_id)
        age = self._clock() - usage.read_at if usage else _READ_SECONDS
        is_old = age >= _READ_FULL_SECONDS
        if (
            usage is None
            or age >= _READ_SECONDS
            or (is_old and not self._fits(usage, len(entries), size_bytes))
        ):
            usage = self._usages[client_id] = _Usage(
                *read_usage(client_id), self._clock()
            )
            self._usages.move_to_end(client_id)
            if len(self._usages) > _MOST_CLIENTS:
                self._usages.popitem(last=False)
        if not self._fits(usage, len(entries), size_bytes):
            return False
        usage.entries += len(entries)
        usage.size_bytes += size_bytes
        return True

    def _fits(self, usage: _Usage, entries: int, size_bytes: int) -> bool:
        return not (
            (self._max_entries and usage.entries + entries > self._max_entries)
            or (self._max_bytes and usage.size_bytes + size_bytes > self._max_bytes)
        )
