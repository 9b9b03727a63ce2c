"""Define the contract of a presence store, for every backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

ONLINE = "online"
"""The room of every client that is present anywhere; it has no events."""

SESSIONS = "session:"
"""How the rooms of sessions begin; who is in them is for their members alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One member whose presence on a node changes."""

    room: str
    member: str
    is_present: bool
    data: str = "{}"
    """The public data, as a JSON object."""

    is_quiet: bool = False
    """True for a member that the store lost: it has joined before."""


@dataclass(slots=True, kw_only=True)
class Delta:
    """The members that joined and left a room; a member is in one of the two."""

    joined: dict[str, str] = field(default_factory=dict)
    """The public data by member."""

    left: dict[str, None] = field(default_factory=dict)

    def join(self, member: str, data: str) -> None:
        """Add a member that joined."""
        self.left.pop(member, None)
        self.joined[member] = data

    def leave(self, member: str) -> None:
        """Add a member that left."""
        self.joined.pop(member, None)
        self.left[member] = None

    def __len__(self) -> int:
        return len(self.joined) + len(self.left)


def read_delta(
    message: Mapping[str, Any], decode: Callable[[str], str] = str
) -> tuple[str, Delta]:
    """Return the room and the delta of a message on the bus."""
    delta = Delta()
    for member, data in message.get("joined", ()):
        delta.join(member, decode(data))
    for member in message.get("left", ()):
        delta.leave(member)
    return message["room"], delta


OnDelta = Callable[[str, Delta], None]
"""Called on the event loop with a room and the members that joined and left."""


class Bus(Protocol):
    """The part of the bus between nodes that a store uses."""

    def on_message(self, kind: str, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call back for each message of a kind, on the event loop."""

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call back after each new subscription: messages may be missing."""


class Renewal(Enum):
    """What a store knows of a node that renews its lease."""

    KNOWN = "known"
    EXPIRED = "expired"
    """The lease was new or had ended: the node reports its members again."""

    LOST = "lost"
    """The store lost its contents: the node reports its members quietly."""


class PresenceStore(ABC):
    """
    Holds the members of rooms, each on the leases of the nodes that have them.

    A member hangs on the lease of its node: no write renews a member. A member
    that no node holds any longer stays for linger_seconds, and then leaves. So a
    node that is killed loses its members within its lease and the linger, and a
    member that another node takes meanwhile has never left. The backend's clock
    alone times leases and lingers. Every method but close() raises
    PresenceUnavailable if the backend did not answer, or knows too little.
    """

    is_shared: bool
    """True if other nodes and processes read the same store."""

    online: int | None = None
    """The members of ONLINE at the last renewal, those that linger included."""

    on_delta: OnDelta = staticmethod(lambda room, delta: None)

    on_gap: Callable[[], None] = staticmethod(lambda: None)
    """Called on the event loop when events may be missing."""

    @abstractmethod
    async def renew(self, node_id: str, held: int) -> Renewal:
        """
        Renew the lease of a node that holds some members; end what has expired.

        A node calls it once a beat, and after an error: a store may count all members.
        `held` is the number of members that the node has reported. A store that
        knows another number has lost some.
        """

    @abstractmethod
    async def apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> Collection[tuple[str, str]]:
        """
        Apply changes of a node with a lease, and return those refused.

        A change is refused if its room is full; it is named by room and member.
        ONLINE is never full.
        A repetition changes nothing.

        Raises:
            PresenceUnavailable: the node has no lease; it renews first.
        """

    @abstractmethod
    async def get_present(self, room: str) -> Mapping[str, str]:
        """Return the public data of each member of a room, as JSON."""

    @abstractmethod
    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        """Return those of the members that are in a room, in one round trip."""

    @abstractmethod
    async def count(self, room: str) -> int:
        """Return the number of members of a room."""

    @abstractmethod
    async def forget(self, members: Sequence[str]) -> None:
        """
        Remove members from all rooms at once if they only linger there.

        Raises:
            PresenceUnavailable: the store did not answer in time.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the backend; members stay until their lease and linger end."""
