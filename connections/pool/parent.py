"""Share a pool between the workers of one parent, in the memory of the parent."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, Protocol, TypeVar

from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, SharedPool, Slot, Usage
from connections.pool.index import HeldSlots
from connections.pool.local import LocalPool

Content = dict[str, Any]
Found = TypeVar("Found", Slot, Usage, Renewal)


class ParentLine(Protocol):
    """A worker's line to its parent; messages arrive in order, or the line breaks."""

    async def ask(self, subject: str, content: Content | None = None) -> Any:
        """
        Return the answer of the parent.

        Raises:
            TimeoutError: there is none in time.
        """

    def tell(self, subject: str, content: Content) -> None:
        """Send a message that has no answer."""

    def listen(self, subject: str, take: Callable[[Content], None]) -> None:
        """Call a function with each message of the parent on a subject."""


class SlotOwner(Protocol):
    """A worker, as the pool in its parent sees it."""

    def tell(self, subject: str, content: Content) -> None:
        """Send it a message that has no answer."""


class PoolHost:
    """
    The pool in the parent.

    The slots of a worker end with its process, of which the parent learns at once;
    so they need no leases.
    """

    def __init__(self, *, max_total: int, evict_oldest: bool = True) -> None:
        self._pool = LocalPool(max_total=max_total, evict_oldest=evict_oldest)
        self._owners: dict[str, SlotOwner] = {}

    async def run(self, owner: SlotOwner, command: Content) -> Any:
        """Run a command of a worker; return its answer as JSON."""
        name = command["command"]
        if name == "release":
            self._release(command["connection_id"])
            return None
        # Those of the worker, as in the other pools: after SIGHUP it has newer ones.
        self._pool.max_total = command.get("max_total", self._pool.max_total)
        self._pool.evict_oldest = command.get("evict_oldest", self._pool.evict_oldest)
        if name == "usage":
            return asdict(await self._pool.get_usage())
        slots = [_read(Slot, one) for one in command["slots"]]
        if name == "acquire":
            return await self._acquire(owner, slots[0], command["replaces"])
        if name == "renew":
            return await self._renew(owner, slots)
        return await self._take_late(owner, slots)

    def forget(self, owner: SlotOwner) -> None:
        """Release the slots of a worker that has ended."""
        for connection_id in [
            one for one in self._owners if self._owners[one] is owner
        ]:
            self._release(connection_id)

    async def _acquire(
        self, owner: SlotOwner, slot: Slot, replaces: str | None
    ) -> Content:
        try:
            given_up = await self._pool.acquire(slot, replaces=replaces)
        except PoolFull:
            return {"refused": "full"}
        except ClientFull:
            return {"refused": "client_full"}
        self._owners[slot.connection_id] = owner
        for one in given_up:
            former = self._owners.pop(one.connection_id)
            if former is not owner:
                is_replaced = one.connection_id == replaces
                reason = "replaced" if is_replaced else "evicted"
                former.tell("taken", {reason: [one.connection_id]})
        return {"given_up": [asdict(one) for one in given_up]}

    async def _renew(self, owner: SlotOwner, slots: Sequence[Slot]) -> Content:
        """Take missing slots again, newest first, where nobody is evicted for them."""
        lost = []
        for slot in sorted(slots, key=lambda one: one.order, reverse=True):
            if slot.connection_id in self._owners:
                continue
            if self._pool.has_room(slot):
                self._pool.adopt(slot)
                self._owners[slot.connection_id] = owner
            else:
                lost.append(slot.connection_id)
        return {"lost": lost}

    async def _take_late(self, owner: SlotOwner, slots: Sequence[Slot]) -> Content:
        taken: dict[str, list[str]] = {"evicted": [], "lost": []}
        own = {slot.connection_id for slot in slots}
        own |= {one for one, former in self._owners.items() if former is owner}
        for slot in sorted(slots, key=lambda one: one.order):
            answer = await self._acquire(owner, slot, None)
            if "refused" in answer:
                taken["lost"].append(slot.connection_id)
            for one in answer.get("given_up", ()):
                if one["connection_id"] in own:
                    taken["evicted"].append(one["connection_id"])
        return taken

    def _release(self, connection_id: str) -> None:
        if self._owners.pop(connection_id, None) is not None:
            self._pool.release(connection_id)


class ParentPool(SharedPool):
    """The pool in the parent, as a worker uses it."""

    def __init__(
        self, line: ParentLine, *, max_total: int, evict_oldest: bool = True
    ) -> None:
        self._line = line
        self._max_total = max_total
        self._limits = {"max_total": max_total, "evict_oldest": evict_oldest}
        self._held = HeldSlots()
        line.listen("taken", self._take_back)

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        self._held.add(slot)
        try:
            answer = await self._ask("acquire", [slot], replaces=replaces)
        except BaseException:
            # Whether the parent took the slot is unknown, and its caller is gone.
            self.release(slot.connection_id)
            raise
        if "refused" in answer:
            self._held.remove(slot.connection_id)
            if answer["refused"] == "full":
                raise PoolFull(self._max_total)
            raise ClientFull(slot.client_id, slot.limit)
        given_up = tuple(_read(Slot, one) for one in answer["given_up"])
        for one in given_up:
            self._held.remove(one.connection_id)
        return given_up

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        return self._read_taken(await self._ask("renew", slots))

    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        return self._read_taken(await self._ask("take_late", slots))

    def release(self, connection_id: str) -> None:
        self._held.remove(connection_id)
        self._line.tell("pool", {"command": "release", "connection_id": connection_id})

    def get_held_ids(self) -> list[str]:
        return self._held.get_ids()

    async def get_usage(self) -> Usage:
        return _read(Usage, await self._ask("usage", ()))

    async def close(self) -> None:
        """Do nothing: the parent releases the slots when this process ends."""

    async def _ask(self, command: str, slots: Sequence[Slot], **options: Any) -> Any:
        content = {"command": command, "slots": [asdict(one) for one in slots]}
        try:
            return await self._line.ask("pool", content | self._limits | options)
        except TimeoutError as exc:
            raise PoolUnavailable("the parent of the workers does not answer") from exc

    def _take_back(self, content: Content) -> None:
        self.on_taken(self._read_taken(content))

    def _read_taken(self, content: Content) -> Renewal:
        ids = {name: tuple(found) for name, found in content.items()}
        renewal = _read(Renewal, ids)
        for connection_id in renewal.evicted + renewal.replaced + renewal.lost:
            self._held.remove(connection_id)
        return renewal


def _read(kind: type[Found], content: Content) -> Found:
    """Return a value from JSON; a sender of another version may know more of it."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: content[name] for name in known & content.keys()})


_joined: list[tuple[ParentLine, str]] = []


def join_pool(line: ParentLine, name: str) -> None:
    """
    Let the node of this process have its slots in its parent.

    The name is the parent's, because two parents share no limits.
    """
    _joined[:] = [(line, name)]


def find_line(kind: str) -> ParentLine | None:
    """Return the line to the parent for a kind of pool; None for other kinds."""
    return _joined[0][0] if kind == name_pool() else None


def name_pool() -> str | None:
    """Return the kind of the pool of this worker; None if it has no parent with one."""
    return _joined[0][1] if _joined else None
