"""Bound the bytes that all connections hold together, in buffers or in files."""

from typing import Protocol

COUNTED_FROM_BYTES = 16_384
"""A connection that holds less is not counted; most hold nothing."""


class Holder(Protocol):
    """A connection that holds bytes for its client."""

    def end_over_budget(self) -> None:
        """End the connection and free its bytes."""


class BufferBudget:
    """
    Counts the bytes that connections hold; over the limit the largest ends.

    A flood thus ends its own connections, not the next newcomer.
    """

    def __init__(self, max_total_bytes: int) -> None:
        self._max_total_bytes = max_total_bytes
        self._held: dict[Holder, int] = {}
        self.total_bytes = 0

    def record(self, holder: Holder, held_bytes: int) -> None:
        """Record how many bytes a connection holds now."""
        before = self._held.get(holder, 0)
        if held_bytes < COUNTED_FROM_BYTES:
            if before:
                del self._held[holder]
                self.total_bytes -= before
            return
        self._held[holder] = held_bytes
        self.total_bytes += held_bytes - before
        while self.total_bytes > self._max_total_bytes and self._held:
            self._evict_largest()

    def forget(self, holder: Holder) -> None:
        """Stop counting a closed connection."""
        self.total_bytes -= self._held.pop(holder, 0)

    def _evict_largest(self) -> None:
        largest = max(self._held, key=self._held.__getitem__)
        self.total_bytes -= self._held.pop(largest)
        largest.end_over_budget()
