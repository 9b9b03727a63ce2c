"""The contract of a pool: what every backend promises."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One place in the pool, held by one connection."""

    connection_id: str
    client_id: str
    node_id: str
    opened_at: float
    """Seconds since the Unix epoch; with connection_id it orders a client's slots."""

    limit: int
    """How many slots this client may have."""

    @property
    def order(self) -> tuple[float, str]:
        """The least is the client's oldest."""
        return self.opened_at, self.connection_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What a renewal found: slots that are no longer this node's to keep."""

    evicted: tuple[str, ...] = ()
    """Connection ids that another node's acquire() evicted."""

    lost: tuple[str, ...] = ()
    """Connection ids whose lease ran out and that were not re-taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of a pool is taken."""

    slots: int
    clients: int
    limit: int


class Pool(ABC):
    """
    Who may be connected: max_total_connections, and each client's own limit.

    Slots are ids in ordered sets, never a counter: a counter drifts.
    """

    is_shared: bool
    """Whether other nodes take slots from the same pool."""

    @abstractmethod
    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        """
        Take a slot and return the slots given up for it, oldest first.

        One atomic step, idempotent per connection_id: give up `replaces` if it
        is the same client's; decide whether this one is admitted at all; evict
        the client's oldest while it is at its limit; take. Nobody is evicted
        for a newcomer that is then refused.

        Raises:
            PoolFull: max_total_connections slots are taken.
            ClientFull: the client is at its limit and the policy is to refuse.
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        """
        Keep the slots of this node for another lease.

        Never evicts. A slot that was lost is taken again where there is room.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    def release(self, connection_id: str) -> None:
        """
        Give a slot back; a slot not held is no error.

        Returns at once and never raises, so that it can stand in a `finally`:
        a backend that has to ask others does so in the background, and a
        release that gets lost is made good by the lease.
        """

    @abstractmethod
    async def get_usage(self) -> Usage:
        """
        Return how many slots and clients there are.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and let go of the backend."""
