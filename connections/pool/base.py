"""The contract of a pool: what every backend promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
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

    replaced: tuple[str, ...] = ()
    """Connection ids that came back on another node, and said so."""

    lost: tuple[str, ...] = ()
    """Connection ids whose lease ran out and that were not re-taken."""


OnTaken = Callable[[Renewal], None]
"""Told at once, on the event loop, of slots taken away between renewals."""


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

    degraded_reason: str | None = None
    """Why the limits do not hold across nodes just now; None while they do."""

    @property
    def is_degraded(self) -> bool:
        """Whether the pool is less than exact at the moment."""
        return self.degraded_reason is not None

    @property
    def is_refusing(self) -> bool:
        """Whether every newcomer is refused until the pool is exact again."""
        return False

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
        The backend is asked even where there is nothing to keep.

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
    def get_held_ids(self) -> Collection[str]:
        """Return the connections whose slots this process holds, as it knows."""

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


class SharedPool(Pool):
    """A pool that several nodes share, so that it can be out of reach."""

    is_shared = True

    on_taken: OnTaken = staticmethod(lambda renewal: None)

    @abstractmethod
    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        """
        Take the slots of connections admitted while the pool was out of reach.

        Each counts as the newcomer that it was: the client's oldest goes, be it
        the one taken here. Idempotent per connection_id.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """
