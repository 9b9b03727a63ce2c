"""Index the slots that one node holds, by connection and by client."""

from collections.abc import Iterator

from connections.pool.base import Slot


class HeldSlots:
    """A set of slots; one per connection id."""

    __slots__ = ("_by_client", "_by_id")

    def __init__(self) -> None:
        self._by_id: dict[str, Slot] = {}
        self._by_client: dict[str, dict[str, Slot]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection_id: str) -> bool:
        return connection_id in self._by_id

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._by_id.values()))

    def get_ids(self) -> list[str]:
        """Return the connection ids of all slots."""
        return list(self._by_id)

    def of_client(self, client_id: str) -> list[Slot]:
        """Return a client's slots."""
        return list(self._by_client.get(client_id, {}).values())

    def add(self, slot: Slot) -> None:
        """Add a slot; one that is in the set already stays as it is."""
        if slot.connection_id not in self._by_id:
            self._by_id[slot.connection_id] = slot
            own = self._by_client.setdefault(slot.client_id, {})
            own[slot.connection_id] = slot

    def remove(self, connection_id: str) -> Slot | None:
        """Remove a slot and return it; None if it is not in the set."""
        slot = self._by_id.pop(connection_id, None)
        if slot is not None:
            own = self._by_client[slot.client_id]
            del own[connection_id]
            if not own:
                del self._by_client[slot.client_id]
        return slot

    def clear(self) -> None:
        """Remove all slots."""
        self._by_id.clear()
        self._by_client.clear()
