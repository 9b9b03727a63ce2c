"""Keep presence in the memory of one process."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from connections.exceptions import PresenceUnavailable
from connections.presence.base import (
    ONLINE,
    Change,
    Delta,
    PresenceStore,
    Renewal,
)


@dataclass(slots=True)
class _Entry:
    """One member of a room, the nodes that hold it, and the end of its linger."""

    data: str
    nodes: dict[str, None] = field(default_factory=dict)
    due: float = 0


class MemoryStore(PresenceStore):
    """
    A presence store in the memory of one process.

    No step awaits anything, so each is atomic on the event loop. Without is_whole
    other processes have members of their own, and no question is answered.
    """

    is_shared = False

    def __init__(
        self,
        *,
        lease_seconds: float,
        linger_seconds: float,
        max_members: int,
        clock: Callable[[], float],
        is_whole: bool = True,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._linger_seconds = linger_seconds
        self._max_members = max_members
        self._clock = clock
        self._is_whole = is_whole
        self._rooms: dict[str, dict[str, _Entry]] = {}
        self._leases: dict[str, float] = {}
        self._held: dict[str, dict[tuple[str, str], None]] = {}
        # The members that linger, in the order of their ends.
        self._lingering: dict[tuple[str, str], None] = {}

    async def renew(self, node_id: str, held: int) -> Renewal:
        now = self._clock()
        is_known = self._leases.get(node_id, 0) > now
        self._leases[node_id] = now + self._lease_seconds
        for other in [one for one, ends in self._leases.items() if ends <= now]:
            del self._leases[other]
            for room, member in self._held.pop(other, {}):
                self._let_go(other, room, member)
        self._end_lingers()
        self.online = len(self._rooms.get(ONLINE, ()))
        is_whole = len(self._held.get(node_id, ())) == held
        return Renewal.KNOWN if is_known and is_whole else Renewal.EXPIRED

    async def apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> Collection[tuple[str, str]]:
        if self._leases.get(node_id, 0) <= self._clock():
            raise PresenceUnavailable("the lease of this node has ended")
        deltas: dict[str, Delta] = {}
        refused = []
        held = self._held.setdefault(node_id, {})
        for one in changes:
            key = (one.room, one.member)
            if not one.is_present:
                if key in held:
                    del held[key]
                    self._let_go(node_id, *key)
                continue
            members = self._rooms.setdefault(one.room, {})
            entry = members.get(one.member)
            if entry is None:
                if one.room != ONLINE and len(members) >= self._max_members:
                    refused.append(key)
                    continue
                entry = members[one.member] = _Entry(one.data)
                if not one.is_quiet:
                    deltas.setdefault(one.room, Delta()).join(one.member, one.data)
            entry.nodes[node_id] = None
            entry.data = one.data
            held[key] = None
            self._lingering.pop(key, None)
        self._report(deltas)
        return refused

    async def get_present(self, room: str) -> Mapping[str, str]:
        now = self._require_whole()
        return {
            member: entry.data
            for member, entry in self._rooms.get(room, {}).items()
            if self._is_present(entry, now)
        }

    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        now, entries = self._require_whole(), self._rooms.get(room, {})
        return {
            member
            for member in members
            if member in entries and self._is_present(entries[member], now)
        }

    async def count(self, room: str) -> int:
        return len(await self.get_present(room))

    async def forget(self, members: Sequence[str]) -> None:
        for room, member in list(self._lingering):
            if member in members:
                self._rooms[room][member].due = 0
        # The order of lingers is that of their ends.
        self._lingering = dict(
            sorted(self._lingering.items(), key=lambda one: one[0][1] not in members)
        )
        self._end_lingers()

    async def close(self) -> None:
        for contents in (self._rooms, self._leases, self._held, self._lingering):
            contents.clear()

    def _require_whole(self) -> float:
        """Return the present moment; raise if other processes have members."""
        if not self._is_whole:
            raise PresenceUnavailable(
                "presence is in the memory of each worker; use PostgreSQL in DATABASES,"
                " or set REDIS_URL, to share it"
            )
        return self._clock()

    def _is_present(self, entry: _Entry, now: float) -> bool:
        if not entry.nodes:
            return entry.due > now
        ends = max(self._leases.get(node_id, 0) for node_id in entry.nodes)
        return ends + self._linger_seconds > now

    def _let_go(self, node_id: str, room: str, member: str) -> None:
        """Release a member from a node; without another node it lingers."""
        entry = self._rooms[room][member]
        del entry.nodes[node_id]
        if not entry.nodes:
            entry.due = self._clock() + self._linger_seconds
            self._lingering[room, member] = None

    def _end_lingers(self) -> None:
        now = self._clock()
        deltas: dict[str, Delta] = {}
        for key in list(self._lingering):
            room, member = key
            if self._rooms[room][member].due > now:
                break
            del self._lingering[key], self._rooms[room][member]
            if not self._rooms[room]:
                del self._rooms[room]
            deltas.setdefault(room, Delta()).leave(member)
        self._report(deltas)

    def _report(self, deltas: Mapping[str, Delta]) -> None:
        for room, delta in deltas.items():
            self.on_delta(room, delta)
