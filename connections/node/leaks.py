"""
Find objects and slots that outlive their connection.

An object that still exists 60 seconds after its connection ended, and after a
collection of what it refers to, is a suspect. Weak references follow objects from the
end of their connection on, so that open connections cost nothing. All work is divided
into slices of 2 ms.
"""

import gc
import logging
import types
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from connections.node.gc import (
    YoungObjects,
    collect_all,
    count_freezes,
    list_all,
    make_young,
)
from connections.slices import Slices
from connections.units import Clock

logger = logging.getLogger(__name__)

POLL_SECONDS = 5

_OUTLIVED_SECONDS = 60
_SLICE_SECONDS = 0.002
_COLLECTED_PER_POLL = 250
"""Connections whose objects a poll collects again."""

_COLLECTED_TOGETHER = 10
"""Connections whose objects one collection of the youngest generation visits."""

_SEARCHED_TOGETHER = 500
_MAX_SUSPECTS = 100
_MAX_DEPTH = 6
_MAX_WIDTH = 40

SLOT = "slot"

_CODE: dict[type, str] = {
    types.FrameType: "f_code",
    types.CoroutineType: "cr_code",
    types.GeneratorType: "gi_code",
    types.AsyncGeneratorType: "ag_code",
}
"""Types of running code, and the attribute with the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An object that outlived its connection: its class and what refers to it."""

    kind: str
    connection_id: str
    reason: str
    holder: str


class _EndedConnection:
    """A connection that has ended, with weak references to its objects."""

    __slots__ = ("collected_at", "connection_id", "left_at", "reason", "references")

    def __init__(
        self, connection_id: str, reason: str, left_at: float, objects: Iterable[Any]
    ) -> None:
        self.connection_id = connection_id
        self.reason = reason
        self.left_at = left_at
        self.collected_at = left_at
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
        self.young = YoungObjects()
        self._clock = clock
        self._is_open = is_open
        self._count_open = count_open
        self._get_held_ids = get_held_ids
        # Ended since the last poll; and those whose objects survived a poll.
        self._ended: deque[_EndedConnection] = deque()
        self._left: deque[_EndedConnection] = deque()
        # Slots without a connection, and when a poll first found them so.
        self._unowned: dict[str, float] = {}
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
        if not self._count_open() and count_freezes():
            # No client has to wait for the collection.
            collect_all()
        ended, self._ended = self._ended, deque()
        again = min(len(self._left), _COLLECTED_PER_POLL)
        # The next ones are first at the next poll.
        self._left.rotate(-again)
        ended.extend(self._left.pop() for _ in range(again))
        await self._collect(ended, now)
        await self._keep_left(ended)
        late = [
            one
            for one in self._left
            if one.collected_at - one.left_at >= _OUTLIVED_SECONDS
        ]
        suspects = [await self._suspect(one) for one in late[:_MAX_SUSPECTS]]
        suspects += self._find_slots(now)
        self.suspects = tuple(one for one in suspects if one is not None)

    async def _collect(self, ended: Iterable[_EndedConnection], now: float) -> None:
        """Collect what ended connections left, if only cycles refer to it."""
        slices = Slices(_SLICE_SECONDS)
        together = 0
        for one in ended:
            if one.find_left() is not None:
                together += 1
                for reference in one.references:
                    make_young(reference())
            one.collected_at = now
            if together == _COLLECTED_TOGETHER:
                gc.collect(0)
                together = 0
            await slices.check()
        gc.collect(0)

    async def _keep_left(self, ended: Iterable[_EndedConnection]) -> None:
        """Keep the connections whose objects still exist."""
        slices = Slices(_SLICE_SECONDS)
        self._left.extend(ended)
        for _ in range(len(self._left)):
            one = self._left.popleft()
            if one.find_left() is not None:
                self._left.append(one)
            await slices.check()

    async def _suspect(self, ended: _EndedConnection) -> Suspect | None:
        left = ended.find_left()
        if left is None:
            return None
        kind = f"{type(left).__module__}.{type(left).__qualname__}"
        holder = self._holders.get(kind)
        if holder is None:
            holder = await find_holder(left)
            # The search itself may have been the last to refer to it.
            del left
            if ended.find_left() is None:
                return None
            self._holders[kind] = holder
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


async def find_holder(leaked: Any) -> str:
    """
    Return the chain of references to an object, the nearest holder first.

    For example "list of 3 < chat.consumers.seen". The chain ends at a module's
    global, a class or running code; holders that only refer back are passed over.
    """
    chains = {id(leaked): ""}
    level = [leaked]
    longest = "no visible object"
    for _ in range(_MAX_DEPTH):
        following: list[Any] = []
        async with aclosing(_find_referrers(level)) as referrers:
            async for holder, held in referrers:
                if id(holder) in chains or holder is level or holder is following:
                    continue
                name, is_end = _name_holder(holder, held)
                if name is None:
                    continue
                before = chains[id(held)]
                text = f"{before} < {name}" if before else name
                if is_end:
                    return text
                longest = chains[id(holder)] = text
                following.append(holder)
                if len(following) == _MAX_WIDTH:
                    break
        level = following
        if not level:
            break
    return longest


async def _find_referrers(
    level: Sequence[Any],
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Yield objects that refer to one of a level, each with the one it refers to."""
    slices = Slices(_SLICE_SECONDS)
    by_id = {id(one): one for one in level}
    found = list_all()
    while found:
        together, found[-_SEARCHED_TOGETHER:] = found[-_SEARCHED_TOGETHER:], []
        for holder in together:
            # Not isinstance(): it would evaluate Django's lazy objects.
            if holder is by_id or issubclass(type(holder), types.ModuleType):
                continue
            for referent in gc.get_referents(holder):
                if id(referent) in by_id:
                    yield holder, referent
                    break
        await slices.check()


def _name_holder(holder: Any, held: Any) -> tuple[str | None, bool]:
    """Return the name of a holder, and whether the chain ends there."""
    kind = type(holder)
    if issubclass(kind, dict):
        key = next((key for key, value in holder.items() if value is held), None)
        module = holder.get("__name__")
        if isinstance(module, str) and "__loader__" in holder:
            return f"{module}.{key}", True
        return f"dict of {len(holder)}", False
    if issubclass(kind, list | tuple | set | frozenset | deque):
        return f"{kind.__name__} of {len(holder)}", False
    if issubclass(kind, type):
        return f"class {holder.__module__}.{holder.__qualname__}", True
    code = _find_code(holder)
    if code is not None:
        is_search = code.co_filename == __file__
        return None if is_search else f"{code.co_qualname}()", not is_search
    return f"{kind.__module__}.{kind.__qualname__}", False


def _find_code(holder: Any) -> types.CodeType | None:
    """Return the code that a frame, a coroutine or a generator runs."""
    name = _CODE.get(type(holder))
    return None if name is None else getattr(holder, name)
