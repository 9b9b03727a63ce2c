"""Keep the pool of a single node in its own memory."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from connections.exceptions import ClientFull, PoolFull
from connections.pool.base import Pool, Renewal, Slot, Usage


class LocalPool(Pool):
    """
    A pool in the memory of one process.

    No step awaits anything, so each is atomic on the event loop. There are no
    leases, because a slot cannot outlive the process that holds it.
    """

    is_shared = False

    def __init__(self, *, max_total: int, evict_oldest: bool = True) -> None:
        self.max_total = max_total
        self.evict_oldest = evict_oldest
        self._slots: dict[str, Slot] = {}
        # The slots of each client, oldest first.
        self._by_client: dict[str, list[Slot]] = {}

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        return self.take(slot, replaces=replaces)

    def take(self, slot: Slot, *, replaces: str | None = None) -> tuple[Slot, ...]:
        """
        Take a slot as acquire() does, outside of an event loop.

        Raises:
            PoolFull, ClientFull: as acquire().
        """
        if slot.connection_id in self._slots:
            return ()
        own = self._by_client.get(slot.client_id, [])
        given_up = [held for held in own if held.connection_id == replaces]
        kept = [held for held in own if held.connection_id != replaces]
        excess = len(kept) + 1 - slot.limit
        if excess > 0:
            if not self.evict_oldest:
                raise ClientFull(slot.client_id, slot.limit)
            given_up = sorted(given_up + kept[:excess], key=lambda held: held.order)
        if len(self._slots) - len(given_up) >= self.max_total:
            raise PoolFull(self.max_total)
        for held in given_up:
            self.release(held.connection_id)
        self.adopt(slot)
        return tuple(given_up)

    def adopt(self, slot: Slot) -> None:
        """Take a slot whatever the limits say; a second call changes nothing."""
        if slot.connection_id in self._slots:
            return
        self._slots[slot.connection_id] = slot
        insort(
            self._by_client.setdefault(slot.client_id, []),
            slot,
            key=lambda held: held.order,
        )

    def has_room(self, slot: Slot) -> bool:
        """Return True if the slot could be taken without an eviction."""
        own = self._by_client.get(slot.client_id, ())
        return len(self._slots) < self.max_total and len(own) < slot.limit

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        lost = tuple(
            slot.connection_id
            for slot in slots
            if slot.connection_id not in self._slots
        )
        return Renewal(lost=lost)

    def release(self, connection_id: str) -> None:
        slot = self._slots.pop(connection_id, None)
        if slot is None:
            return
        own = self._by_client[slot.client_id]
        del own[bisect_left(own, slot.order, key=lambda held: held.order)]
        if not own:
            del self._by_client[slot.client_id]

    def get_held_ids(self) -> list[str]:
        return list(self._slots)

    async def get_usage(self) -> Usage:
        return Usage(
            slots=len(self._slots),
            clients=len(self._by_client),
            limit=self.max_total,
        )

    async def close(self) -> None:
        self._slots.clear()
        self._by_client.clear()
