"""Index the slots that one node holds, by connection and by client."""

from collections import Counter
from collections.abc import Callable, Iterator

from connections.pool.base import Slot


class HeldSlots:
    """A set of slots; one per connection id. It counts those of each shard."""

    __slots__ = ("_by_client", "_by_id", "_by_shard", "_shard_of")

    def __init__(self, shard_of: Callable[[str], int] = lambda client_id: 0) -> None:
        self._by_id: dict[str, Slot] = {}
        self._by_client: dict[str, dict[str, Slot]] = {}
        self._by_shard: Counter[int] = Counter()
        self._shard_of = shard_of

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection_id: str) -> bool:
        return connection_id in self._by_id

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._by_id.values()))

    def get_ids(self) -> list[str]:
        """Return the connection ids of all slots."""
        return list(self._by_id)

    def get(self, connection_id: str) -> Slot | None:
        """Return the slot of a connection; None if it is not in the set."""
        return self._by_id.get(connection_id)

    def count_in(self, shard: int) -> int:
        """Return the number of slots in a shard."""
        return self._by_shard[shard]

    def of_client(self, client_id: str) -> list[Slot]:
        """Return a client's slots."""
        return list(self._by_client.get(client_id, {}).values())

    def add(self, slot: Slot) -> None:
        """Add a slot; one that is in the set already stays as it is."""
        if slot.connection_id not in self._by_id:
            self._by_id[slot.connection_id] = slot
            own = self._by_client.setdefault(slot.client_id, {})
            own[slot.connection_id] = slot
            self._by_shard[self._shard_of(slot.client_id)] += 1

    def remove(self, connection_id: str) -> Slot | None:
        """Remove a slot and return it; None if it is not in the set."""
        slot = self._by_id.pop(connection_id, None)
        if slot is not None:
            own = self._by_client[slot.client_id]
            del own[connection_id]
            if not own:
                del self._by_client[slot.client_id]
            self._by_shard[self._shard_of(slot.client_id)] -= 1
        return slot

    def clear(self) -> None:
        """Remove all slots."""
        self._by_id.clear()
        self._by_client.clear()
        self._by_shard.clear()
