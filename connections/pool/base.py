"""Define the contract of a pool, for every backend."""

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
    """Seconds since the Unix epoch; a client's slots are ordered by it, then by id."""

    limit: int
    """How many slots this client may have."""

    @property
    def order(self) -> tuple[float, str]:
        """A sort key: the oldest slot of a client is the least."""
        return self.opened_at, self.connection_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The result of a renewal: the connection ids whose slots this node has lost."""

    evicted: tuple[str, ...] = ()
    """Connections that another node's acquire() evicted."""

    replaced: tuple[str, ...] = ()
    """Connections whose client returned on another node with their id."""

    lost: tuple[str, ...] = ()
    """Connections whose lease ended and whose slot could not be taken again."""


OnTaken = Callable[[Renewal], object]
"""Called at once, on the event loop, with slots taken away between renewals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The use of a pool at one moment."""

    slots: int
    clients: int
    limit: int
    is_recovering: bool = False
    """True while nodes report their slots again after Redis lost them."""


class Pool(ABC):
    """
    Enforces max_total_connections and each client's own limit.

    Slots are ids in ordered sets, never a counter, because a counter drifts.
    """

    is_shared: bool
    """True if other nodes take slots from the same pool."""

    degraded_reason: str | None = None
    """Why the limits do not hold across nodes at present; None while they do."""

    @property
    def is_degraded(self) -> bool:
        """True while the limits do not hold across nodes."""
        return self.degraded_reason is not None

    @property
    def is_refusing(self) -> bool:
        """True while every acquire() is refused until the pool is exact again."""
        return False

    @abstractmethod
    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        """
        Take a slot and return the slots that were taken away for it, oldest first.

        One atomic step, idempotent per connection_id: replace `replaces` if it
        belongs to the same client; decide whether this slot is admitted at all;
        evict the client's oldest while it is at its limit; take. No slot is
        evicted for a connection that is then refused.

        Raises:
            PoolFull: max_total_connections slots are taken.
            ClientFull: the client is at its limit and the policy is to refuse.
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        """
        Extend the leases of this node's slots.

        Never evicts. A slot that was lost is taken again where there is room.
        Without slots, the call still checks that the backend answers.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    def release(self, connection_id: str) -> None:
        """
        Release a slot; an id without a slot is no error.

        Returns at once and never raises, so that it can stand in a `finally`. A
        shared backend releases in the background; the slot of a release that is
        lost expires with its lease.
        """

    @abstractmethod
    def get_held_ids(self) -> Collection[str]:
        """Return the connections whose slots this process holds, from its memory."""

    @abstractmethod
    async def get_usage(self) -> Usage:
        """
        Return how many slots and clients there are.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish pending releases and close the backend."""


class SharedPool(Pool):
    """A pool that several nodes share, and that can be out of reach."""

    is_shared = True

    on_taken: OnTaken = staticmethod(lambda renewal: None)

    @abstractmethod
    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        """
        Take the slots of connections admitted while the pool was out of reach.

        Each is treated as new: the client's oldest is evicted, be it the one taken
        here. Idempotent per connection_id.

        Raises:
            PoolUnavailable: the backend did not answer in time.
        """
