"""Define the steps of a leased pool, for every store."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from connections.pool.base import Slot

SLOTS_PER_CALL = 100
"""How many slots one step names, so that it occupies the store for milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The arguments of one acquire()."""

    slot: Slot
    evicts: bool
    replaces: str | None
    own_count: int
    """How many slots the node has, among those that share the client's total."""

    has_reported: bool
    """True if a recovering pool knows the node's slots of this client."""

    releasing: Sequence[str]
    """Slots of this client that the node is releasing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of one step of an acquire()."""

    status: str
    """
    One of: "ok"; "again", a part is done, so repeat; "tell", the pool is recovering,
    so report the node's slots of this client and repeat; "taken", this connection
    had a slot and has lost it again; "client_full"; "full".
    """

    given_up: tuple[Slot, ...] = ()
    reason: str = ""
    """Why the slot was taken away again."""


class PoolSteps(ABC):
    """
    The atomic steps of a pool in a store, timed by the clock of the store alone.

    Each step may be repeated: a second call changes nothing. Each raises
    PoolUnavailable if the store did not answer in time; whether it ran the step is
    unknown then.
    """

    count_own: Callable[[int], int] = staticmethod(lambda shard: 0)
    """Returns how many slots the node has in a shard."""

    @abstractmethod
    async def acquire(self, request: Request) -> Answer:
        """Replace, evict and take as Pool.acquire() says, or a part of it."""

    def shard_of(self, client_id: str) -> int:
        """Return the number of the shard with a client's slots; 0: there is one."""
        return 0

    @abstractmethod
    async def renew(
        self, slots: Sequence[Slot], known: Collection[str]
    ) -> dict[str, str]:
        """
        Extend leases; return the ids without one: evicted, replaced or missing.

        A slot of this node that is not known to it is released in time.
        """

    @abstractmethod
    async def retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        """
        Take slots that the node has and the pool may not know.

        A recovering pool takes all. Otherwise "keep" takes a slot where there is
        room, and "late" treats it as new. Returns those that were not taken:
        evicted, replaced, lost, or "again", which has to be repeated.
        """

    @abstractmethod
    async def release(self, slots: Sequence[Slot]) -> None:
        """
        Release slots; one that is not there is no error.

        Of a slot without a client only the connection is known.
        """

    @abstractmethod
    async def get_usage(self) -> tuple[int, int, str]:
        """
        Return the slots, the clients and the state of the pool.

        While the state is "settling", a call evicts a part of the excess.
        """

    @abstractmethod
    async def check_store(self) -> None:
        """Log a warning if the store is set up so that it may lose slots."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections to the store."""
