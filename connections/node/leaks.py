"""
Find objects and slots that outlive their connection.

An object that still exists 60 seconds after its connection ended, and after a
collection since, is a suspect. Weak references follow objects from the end of their
connection on, so that open connections cost nothing.
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
"""The least time between forced collections, because each stops the process."""

_MAX_SUSPECTS = 100
_MAX_DEPTH = 6
_MAX_WIDTH = 40

SLOT = "slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An object that outlived its connection: its class and what refers to it."""

    kind: str
    connection_id: str
    reason: str
    holder: str


class _EndedConnection:
    """A connection that has ended, with weak references to its objects."""

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
        """Return the first object that still exists, or None."""
        for reference in self.references:
            if (found := reference()) is not None:
                return found
        return None


class LeakWatch:
    """
    Follows the objects and slots of connections that have ended.

    `suspects` is the result of the last poll. Objects are passed in order of
    reference, so that the first one left explains the others. The holder is
    searched once for each class, because that takes a pass over all objects.
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
        self._ended: deque[_EndedConnection] = deque()
        # Slots without a connection, and when a poll first found them so.
        self._unowned: dict[str, float] = {}
        self._collected_at = clock() - _COLLECT_SECONDS
        self._holders: dict[str, str] = {}

    def follow(self, connection_id: str, reason: str, *objects: Any) -> None:
        """Follow the objects of a connection that has ended."""
        present = [one for one in objects if one is not None]
        self._ended.append(
            _EndedConnection(connection_id, reason, self._clock(), present)
        )

    async def poll(self) -> None:
        """Update the suspects."""
        now = self._clock()
        self._ended = deque(one for one in self._ended if one.find_left() is not None)
        late = [one for one in self._ended if now - one.left_at >= _OUTLIVED_SECONDS]
        if any(one.collections == _count_collections() for one in late):
            self._collect(now)
        elif not self._count_open() and count_freezes():
            # No client has to wait for the collection.
            collect_all()
        suspects = [self._suspect(one) for one in late[:_MAX_SUSPECTS]]
        suspects += self._find_slots(now)
        self.suspects = tuple(one for one in suspects if one is not None)

    def _collect(self, now: float) -> None:
        if now - self._collected_at >= _COLLECT_SECONDS:
            self._collected_at = now
            collect_all()

    def _suspect(self, ended: _EndedConnection) -> Suspect | None:
        left = ended.find_left()
        if left is None or ended.collections == _count_collections():
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
                ended.connection_id,
                ended.reason,
                self._clock() - ended.left_at,
                holder,
                extra={"event": "leak_suspected", "connection_id": ended.connection_id},
            )
        return Suspect(
            kind=kind,
            connection_id=ended.connection_id,
            reason=ended.reason,
            holder=holder,
        )

    def _find_slots(self, now: float) -> list[Suspect]:
        """Return the slots that have had no connection for too long."""
        unowned = [one for one in self._get_held_ids() if not self._is_open(one)]
        self._unowned = {one: self._unowned.get(one, now) for one in unowned}
        return [
            Suspect(kind=SLOT, connection_id=one, reason="", holder="the pool")
            for one, since in self._unowned.items()
            if now - since >= _OUTLIVED_SECONDS
        ][:_MAX_SUSPECTS]


def find_holder(leaked: Any) -> str:
    """
    Return the chain of references to an object, the nearest holder first.

    For example "list of 3 < chat.consumers.seen". The chain ends at a module's
    global, a class or running code; holders that only refer back are passed over.
    """
    chains: dict[int, tuple[Any, str]] = {id(leaked): (leaked, "")}
    level = [leaked]
    longest = "no visible object"
    # The search's own references, which are no holders.
    own: list[Any] = [chains, level]
    for _ in range(_MAX_DEPTH):
        found = gc.get_referrers(*level)
        following: list[Any] = []
        own += [found, following, level]
        hidden = {id(one) for one in own}
        for holder in found:
            if id(holder) in hidden or id(holder) in chains:
                continue
            held = next((one for one in level if _refers(holder, one)), None)
            if held is None or isinstance(held, types.ModuleType):
                continue
            before = chains[id(held)][1]
            name, is_end = _name_holder(holder, held)
            if name is None:
                continue
            text = f"{before} < {name}" if before else name
            if is_end:
                return text
            longest = text
            chains[id(holder)] = (holder, text)
            following.append(holder)
        level = following[:_MAX_WIDTH]
        if not level:
            break
    return longest


def _refers(holder: Any, held: Any) -> bool:
    return any(one is held for one in gc.get_referents(holder))


def _name_holder(holder: Any, held: Any) -> tuple[str | None, bool]:
    """Return the name of a holder, and whether the chain ends there."""
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
    """Return the number of collections of the oldest generation."""
    generations: Sequence[dict[str, int]] = gc.get_stats()
    return generations[-1]["collections"]
