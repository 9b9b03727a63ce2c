"""
What outlives its connection: found by weak references, named with what holds it.

An object that is there 60 seconds after its connection ended, and after a
collection since, is a suspect. Objects are followed from the end of their
connection on, so that open ones cost nothing.
"""

import gc
import inspect
import logging
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from connections.node.gc import collect_all, count_freezes, thawed
from connections.units import Clock

logger = logging.getLogger(__name__)

POLL_SECONDS = 5

_OUTLIVED_SECONDS = 60
_COLLECT_SECONDS = 300
"""Between collections of our own: each stops the whole process for a moment."""

_MAX_SUSPECTS = 100
_MAX_DEPTH = 6
_MAX_WIDTH = 40

SLOT = "slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Something that is still there: its class, whose it was, what holds it."""

    kind: str
    connection_id: str
    reason: str
    holder: str


class _Gone:
    """A connection that has ended, and what should have gone with it."""

    __slots__ = ("collections", "connection_id", "left_at", "reason", "references")

    def __init__(
        self, connection_id: str, reason: str, left_at: float, objects: Iterable[Any]
    ) -> None:
        self.connection_id = connection_id
        self.reason = reason
        self.left_at = left_at
        self.collections = _count_collections()
        self.references = [weakref.ref(one) for one in objects]

    def find_left(self) -> Any:
        """Return the first object that is still there, or None."""
        for reference in self.references:
            if (found := reference()) is not None:
                return found
        return None


class LeakWatch:
    """
    Accounts for the objects and slots of connections that have ended.

    `suspects` is what a look found last. Objects are given in the order of who
    holds whom, so that the first that is left explains the others. What holds it
    is looked for once for each class: that takes a pass over all objects.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        is_open: Callable[[str], bool],
        count_open: Callable[[], int],
        get_held_ids: Callable[[], Iterable[str]],
    ) -> None:
        self.suspects: tuple[Suspect, ...] = ()
        self._clock = clock
        self._is_open = is_open
        self._count_open = count_open
        self._get_held_ids = get_held_ids
        self._gone: deque[_Gone] = deque()
        # Slots without a connection, and since when.
        self._unowned: dict[str, float] = {}
        self._collected_at = clock() - _COLLECT_SECONDS
        self._holders: dict[str, str] = {}

    def follow(self, connection_id: str, reason: str, *objects: Any) -> None:
        """Expect objects to go, for their connection has ended."""
        present = [one for one in objects if one is not None]
        self._gone.append(_Gone(connection_id, reason, self._clock(), present))

    async def poll(self) -> None:
        """Take stock: who is left, and is it long enough to be suspected."""
        now = self._clock()
        self._gone = deque(one for one in self._gone if one.find_left() is not None)
        late = [one for one in self._gone if now - one.left_at >= _OUTLIVED_SECONDS]
        if any(one.collections == _count_collections() for one in late):
            self._collect(now)
        elif not self._count_open() and count_freezes():
            # Nobody is here who would have to wait.
            collect_all()
        suspects = [self._suspect(one) for one in late[:_MAX_SUSPECTS]]
        suspects += self._find_slots(now)
        self.suspects = tuple(one for one in suspects if one is not None)

    def _collect(self, now: float) -> None:
        if now - self._collected_at >= _COLLECT_SECONDS:
            self._collected_at = now
            collect_all()

    def _suspect(self, gone: _Gone) -> Suspect | None:
        left = gone.find_left()
        if left is None or gone.collections == _count_collections():
            return None
        kind = f"{type(left).__module__}.{type(left).__qualname__}"
        holder = self._holders.get(kind)
        if holder is None:
            with thawed():
                holder = self._holders[kind] = find_holder(left)
            logger.warning(
                "A leak is suspected: %s of connection %s (%s) is still there after"
                " %.0f s, held by %s",
                kind,
                gone.connection_id,
                gone.reason,
                self._clock() - gone.left_at,
                holder,
                extra={"event": "leak_suspected", "connection_id": gone.connection_id},
            )
        return Suspect(
            kind=kind,
            connection_id=gone.connection_id,
            reason=gone.reason,
            holder=holder,
        )

    def _find_slots(self, now: float) -> list[Suspect]:
        """Hold the slots of this node against its connections."""
        unowned = [one for one in self._get_held_ids() if not self._is_open(one)]
        self._unowned = {one: self._unowned.get(one, now) for one in unowned}
        return [
            Suspect(kind=SLOT, connection_id=one, reason="", holder="the pool")
            for one, since in self._unowned.items()
            if now - since >= _OUTLIVED_SECONDS
        ][:_MAX_SUSPECTS]


def find_holder(leaked: Any) -> str:
    """
    Return what holds an object, from the nearest to where the way ends.

    As in "list of 3 < chat.consumers.seen". The way ends at a module's global, a
    class, or code that runs; what only refers back to the object is passed over.
    """
    way: dict[int, tuple[Any, str]] = {id(leaked): (leaked, "")}
    level = [leaked]
    longest = "nothing that can be seen"
    # What this search itself holds, and must not take for a holder.
    own: list[Any] = [way, level]
    for _ in range(_MAX_DEPTH):
        found = gc.get_referrers(*level)
        following: list[Any] = []
        own += [found, following, level]
        hidden = {id(one) for one in own}
        for holder in found:
            if id(holder) in hidden or id(holder) in way:
                continue
            held = next((one for one in level if _refers(holder, one)), None)
            if held is None or isinstance(held, types.ModuleType):
                continue
            before = way[id(held)][1]
            name, is_end = _name_holder(holder, held)
            if name is None:
                continue
            text = f"{before} < {name}" if before else name
            if is_end:
                return text
            longest = text
            way[id(holder)] = (holder, text)
            following.append(holder)
        level = following[:_MAX_WIDTH]
        if not level:
            break
    return longest


def _refers(holder: Any, held: Any) -> bool:
    return any(one is held for one in gc.get_referents(holder))


def _name_holder(holder: Any, held: Any) -> tuple[str | None, bool]:
    """Return how a holder is called, and whether the way ends there."""
    if isinstance(holder, dict):
        key = next((key for key, value in holder.items() if value is held), None)
        module = holder.get("__name__")
        if isinstance(module, str) and "__loader__" in holder:
            return f"{module}.{key}", True
        return f"dict of {len(holder)}", False
    if isinstance(holder, list | tuple | set | frozenset | deque):
        return f"{type(holder).__name__} of {len(holder)}", False
    if isinstance(holder, type):
        return f"class {holder.__module__}.{holder.__qualname__}", True
    if isinstance(holder, types.FrameType):
        if holder.f_code.co_filename == __file__:
            return None, False
        return f"{holder.f_code.co_qualname}()", True
    if inspect.iscoroutine(holder) or inspect.isgenerator(holder):
        return f"{holder.__qualname__}()", True
    if isinstance(holder, types.ModuleType):
        return holder.__name__, True
    kind = type(holder)
    return f"{kind.__module__}.{kind.__qualname__}", False


def _count_collections() -> int:
    """Return how often the oldest generation was collected."""
    generations: Sequence[dict[str, int]] = gc.get_stats()
    return generations[-1]["collections"]
