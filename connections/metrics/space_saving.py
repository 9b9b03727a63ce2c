"""Count the most frequent keys of a stream in bounded memory."""

from collections.abc import Mapping
from heapq import nlargest
from operator import itemgetter

Row = tuple[str, float, float]
"""A key, its count, and by how much the count may be too high."""


class SpaceSaving:
    """
    Counts of at most `capacity` keys, after the Space-Saving algorithm.

    Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k
    Elements in Data Streams (2005). A count is never too low, and too high by at
    most its error, which is below total / capacity where keys come one by one.
    A key that is absent was counted at most `floor` times.
    """

    __slots__ = ("_counts", "_missed", "capacity", "total")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.total: float = 0
        self._counts: dict[str, list[float]] = {}
        # The most that add_all() left out of any one key.
        self._missed: float = 0

    @property
    def floor(self) -> float:
        """The largest count that an absent key can have."""
        if len(self._counts) < self.capacity:
            return self._missed
        return self._missed + min(count for count, _ in self._counts.values())

    def add(self, key: str, amount: float = 1) -> None:
        """Count a key."""
        self.total += amount
        row = self._counts.get(key)
        if row is not None:
            row[0] += amount
            return
        error = self._missed
        if len(self._counts) >= self.capacity:
            least = min(self._counts, key=self._counts.__getitem__)
            error += self._counts.pop(least)[0]
        self._counts[key] = [error + amount, error]

    def add_all(self, amounts: Mapping[str, float]) -> None:
        """Count many keys; of those that are absent, only the largest amounts."""
        absent = {}
        for key, amount in amounts.items():
            if key in self._counts:
                self.add(key, amount)
            elif amount:
                absent[key] = amount
        largest = nlargest(self.capacity + 1, absent.items(), key=itemgetter(1))
        for key, amount in largest[: self.capacity]:
            self.add(key, amount)
            del absent[key]
        self.total += sum(absent.values())
        self._missed += largest[-1][1] if absent else 0

    def list(self) -> list[Row]:
        """Return the keys, the largest count first."""
        rows = [(key, count, error) for key, (count, error) in self._counts.items()]
        return sorted(rows, key=itemgetter(1), reverse=True)
