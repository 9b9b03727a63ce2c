"""Keep the members of one node, and report them to the store in batches."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from connections.background import BackgroundTasks
from connections.exceptions import PresenceUnavailable
from connections.passes import Passes
from connections.presence.base import ONLINE, Change, Delta, PresenceStore, Renewal
from connections.presence.registry import serving
from connections.presence.rooms import JoinedRoom, RoomEvent, make_events, make_gap
from connections.slices import Slices

logger = logging.getLogger(__name__)

_CHANGES_PER_CALL = 100
_GATHER_SECONDS = 0.05
"""How long changes and events wait for others, which share their call or message."""

_SLICE_SECONDS = 0.005

_GAP_SECONDS = 15
"""The least time between two gaps of one room."""

Key = tuple[str, str]
"""A room and a member."""


class Listener(Protocol):
    """A connection that receives the events of its rooms."""

    connection_id: str

    def receive(self, event: RoomEvent) -> None:
        """Start to hand on an event, without waiting."""


@dataclass(slots=True)
class _Member:
    """One member of a room, and its connections on this node."""

    data: str
    connections: dict[str, None] = field(default_factory=dict)


class NodePresence:
    """
    The members that the connections of one node make present.

    join() and leave() change memory alone and never fail: a task reports the
    changes to the store, and keeps them while the store is out of reach. It begins
    with the first connection.
    """

    def __init__(
        self,
        store: PresenceStore,
        *,
        node_id: str,
        beat_seconds: float,
        passes: Passes,
    ) -> None:
        self.store = store
        self.is_shared = store.is_shared
        """True if other nodes and processes read the same store."""

        self.events = {"joined": 0, "left": 0}
        """The members that joined and left rooms of this node's connections."""

        self.refused = 0
        """Members that were not added, because their room was full."""

        self.degraded_reason: str | None = None
        """Why the store does not answer; None while it does."""

        store.on_delta = self._on_delta
        store.on_gap = self.expect_gap
        self._node_id = node_id
        self._beat_seconds = beat_seconds
        self._passes = passes
        self._rooms: dict[str, dict[str, _Member]] = {}
        self._joined: dict[str, tuple[Key, ...]] = {}
        self._listeners: dict[str, dict[str, Listener]] = {}
        # What the store has to learn, and what it knows from this node.
        self._changed: dict[Key, None] = {}
        self._reported: dict[Key, None] = {}
        self._quiet: dict[Key, None] = {}
        self._full: dict[Key, None] = {}
        self._is_due = asyncio.Event()
        # When the next beat is due; None before the first.
        self._beat_at: float | None = None
        self._pending: dict[str, Delta] = {}
        self._has_gap = False
        self._gaps_sent_at = float("-inf")
        self._tasks = BackgroundTasks()
        self._delivery: asyncio.Task[None] | None = None
        self._beating = asyncio.Lock()
        self._is_working = False

    # The connections of this node

    def start(self) -> None:
        """Begin to answer and to report; a second call does nothing."""
        if not self._is_working:
            self._is_working = True
            serving.add(self)
            self._tasks.repeat(self._work, "The presence", self._beat_seconds)

    def join(
        self, member: str, rooms: Sequence[JoinedRoom], listener: Listener
    ) -> None:
        """Make a member present in rooms for one connection, and send it events."""
        self.start()
        connection_id = listener.connection_id
        self._joined[connection_id] = tuple((one.room, member) for one in rooms)
        for one in rooms:
            members = self._rooms.setdefault(one.room, {})
            held = members.setdefault(member, _Member(one.data))
            if not held.connections or held.data != one.data:
                self._report((one.room, member))
            held.data = one.data
            held.connections[connection_id] = None
            if one.room != ONLINE:
                self._listeners.setdefault(one.room, {})[connection_id] = listener

    def leave(self, connection_id: str) -> None:
        """Forget a connection; its member leaves with the last of its connections."""
        for key in self._joined.pop(connection_id, ()):
            room, member = key
            held = self._rooms[room][member]
            del held.connections[connection_id]
            if not held.connections:
                del self._rooms[room][member]
                self._full.pop(key, None)
                self._report(key)
            if not self._rooms[room]:
                del self._rooms[room]
            listeners = self._listeners.get(room, {})
            listeners.pop(connection_id, None)
            if not listeners:
                self._listeners.pop(room, None)

    def describe(self) -> dict[str, Any]:
        """Return what the node's row tells the dashboard; nothing without members."""
        described: dict[str, Any] = {}
        if self.store.online:
            described["online"] = self.store.online
        if self.degraded_reason is not None:
            described["presence_degraded"] = self.degraded_reason[:255]
        return described

    def measure(self) -> tuple[int, int]:
        """Return the rooms and the members in them of this node, without ONLINE."""
        rooms = {room: held for room, held in self._rooms.items() if room != ONLINE}
        return len(rooms), sum(map(len, rooms.values()))

    # Reading

    async def get_present(self, room: str) -> Mapping[str, str]:
        """
        Return the public data of each member of a room, as JSON.

        Raises:
            PresenceUnavailable: the store did not answer.
        """
        own = {
            member: held.data
            for member, held in self._rooms.get(room, {}).items()
            if (room, member) not in self._full
        }
        return {**await self.store.get_present(room), **own}

    async def find_present(self, room: str, members: Sequence[str]) -> set[str]:
        """
        Return those of the members that are in a room.

        Raises:
            PresenceUnavailable: the store did not answer.
        """
        held = self._rooms.get(room, {})
        own = {one for one in members if one in held and (room, one) not in self._full}
        return own | await self.store.find_present(room, members)

    async def count(self, room: str) -> int:
        """
        Return the number of members of a room.

        Raises:
            PresenceUnavailable: the store did not answer.
        """
        held = self._rooms.get(room, {})
        new = [one for one in held if (room, one) in self._changed]
        found = await self.store.find_present(room, new) if new else set()
        return await self.store.count(room) + len(new) - len(found)

    # Reporting

    async def beat(self) -> None:
        """Renew the lease of this node, and report what changed."""
        async with self._beating:
            now = asyncio.get_running_loop().time()
            self._beat_at = now + self._beat_seconds
            await self._send_gaps()
            try:
                await self._renew()
                for key in list(self._full)[:_CHANGES_PER_CALL]:
                    self._changed[key] = None
                await self._flush()
            except PresenceUnavailable as exc:
                self._degrade(str(exc))
            else:
                self._restore()

    async def stop(self) -> None:
        """Report the last changes, and stop."""
        serving.discard(self)
        await self._tasks.stop()
        if self._is_working:
            await self.beat()
        self._is_working = False
        await self.store.close()

    def expect_gap(self) -> None:
        """Tell the consumers of all rooms soon that events may be missing."""
        self._has_gap = True

    def _report(self, key: Key) -> None:
        self._changed[key] = None
        self._is_due.set()

    async def _work(self) -> None:
        """Report changes soon; beat with the first, when it is time, and on errors."""
        loop, beat_at = asyncio.get_running_loop(), self._beat_at
        if beat_at is None:
            beat_at = loop.time() + self._beat_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(beat_at):
                await self._is_due.wait()
        if self._is_due.is_set():
            await asyncio.sleep(_GATHER_SECONDS)
        self._is_due.clear()
        is_fresh = self._beat_at is not None and loop.time() < self._beat_at
        if is_fresh and self.degraded_reason is None:
            with contextlib.suppress(PresenceUnavailable):
                async with self._beating:
                    await self._flush()
                return
        await self.beat()

    async def _renew(self) -> None:
        renewal = await self.store.renew(self._node_id, len(self._reported))
        if renewal is Renewal.KNOWN:
            return
        if renewal is Renewal.LOST:
            self._quiet = dict(self._reported)
        self._reported.clear()
        for room, members in self._rooms.items():
            for member in members:
                self._changed[room, member] = None

    async def _flush(self) -> None:
        while self._changed:
            keys = list(self._changed)[:_CHANGES_PER_CALL]
            changes = [self._make_change(key) for key in keys]
            for key in keys:
                del self._changed[key]
            try:
                refused = await self.store.apply(self._node_id, changes)
            except BaseException:
                # Whether the store took them is unknown; a repetition is harmless.
                self._changed = {**dict.fromkeys(keys), **self._changed}
                raise
            self._record(changes, set(refused))

    def _make_change(self, key: Key) -> Change:
        room, member = key
        held = self._rooms.get(room, {}).get(member)
        if held is None:
            return Change(room=room, member=member, is_present=False)
        return Change(
            room=room,
            member=member,
            is_present=True,
            data=held.data,
            is_quiet=key in self._quiet,
        )

    def _record(self, changes: Sequence[Change], refused: set[Key]) -> None:
        for one in changes:
            key = (one.room, one.member)
            self._quiet.pop(key, None)
            if key in refused:
                self._record_full(key)
                self._reported.pop(key, None)
            elif one.is_present:
                self._reported[key] = None
                self._full.pop(key, None)
            else:
                # It may have left while the store refused it.
                self._full.pop(key, None)
                self._reported.pop(key, None)

    def _record_full(self, key: Key) -> None:
        """Keep a member for whose room there is no place yet."""
        if key in self._full:
            # The others are tried before it is tried again.
            self._full[key] = self._full.pop(key)
            return
        if not self._full:
            logger.warning(
                "The room %s is full; a member of it is not shown",
                key[0],
                extra={"event": "presence_full"},
            )
        self.refused += 1
        self._full[key] = None

    def _degrade(self, reason: str) -> None:
        if self.degraded_reason is None:
            logger.error(
                "Presence is out of reach (%s); changes are kept on this node",
                reason,
                extra={"event": "presence_degraded"},
            )
        self.degraded_reason = reason

    def _restore(self) -> None:
        if self.degraded_reason is not None:
            logger.warning(
                "Presence answers again", extra={"event": "presence_restored"}
            )
        self.degraded_reason = None

    # Events

    def _on_delta(self, room: str, delta: Delta) -> None:
        if room not in self._listeners:
            return
        pending = self._pending.setdefault(room, Delta())
        for member, data in delta.joined.items():
            pending.join(member, data)
        for member in delta.left:
            pending.leave(member)
        if self._delivery is None:
            self._delivery = self._tasks.start(self._deliver(), "Presence events")

    async def _deliver(self) -> None:
        """Send the events of all rooms, while others gather."""
        slices = Slices(_SLICE_SECONDS)
        try:
            while self._pending:
                await asyncio.sleep(_GATHER_SECONDS)
                pending, self._pending = self._pending, {}
                for room, delta in pending.items():
                    self.events["joined"] += len(delta.joined)
                    self.events["left"] += len(delta.left)
                    for event in make_events(room, delta):
                        await self._send(event, slices)
        finally:
            self._delivery = None

    async def _send_gaps(self) -> None:
        """Send gaps that are due; a bus that does not work may report many."""
        now = asyncio.get_running_loop().time()
        if self._has_gap and now - self._gaps_sent_at >= _GAP_SECONDS:
            self._has_gap, self._gaps_sent_at = False, now
            slices = Slices(_SLICE_SECONDS)
            for room in list(self._listeners):
                await self._send(make_gap(room), slices)

    async def _send(self, event: RoomEvent, slices: Slices) -> None:
        name, is_whole = "The delivery of presence events", True
        for listener in list(self._listeners.get(event.room, {}).values()):
            is_whole &= self._passes.attempt(name, listener.receive, event)
            await slices.check()
        self._passes.finish(name, is_whole=is_whole)
