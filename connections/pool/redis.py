"""Share a pool between nodes in Redis. Imported only where REDIS_URL is set."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from connections.background import BackgroundTasks
from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, SharedPool, Slot, Usage
from connections.pool.codec import encode_moment, encode_word, read_slots
from connections.pool.commands import PoolCommands
from connections.pool.index import HeldSlots
from connections.redis.bus import Message, RedisBus
from connections.units import Clock

logger = logging.getLogger(__name__)

_SLOTS_PER_CALL = 100
_TAKEN_PER_CALL = 40
"""These bound how long one script blocks Redis: a few milliseconds."""

_SETTLE_SECONDS = 0.02
"""The time between two calls that evict an excess, for other clients of Redis."""

_RELEASE_RETRY_SECONDS = 0.5


class RedisPool(SharedPool):
    """
    Slots are leases in Redis; every step is one script, timed by Redis alone.

    The states of the pool and of a slot, and their transitions, are at the top of
    scripts/prelude.lua. Every script may be repeated. A command that takes longer
    than timeout_seconds raises PoolUnavailable; whether Redis ran it is unknown
    then, and a repetition, release() or the end of the lease puts it right. The
    pool closes the bus.
    """

    def __init__(
        self,
        url: str,
        *,
        bus: RedisBus,
        max_total: int,
        lease_seconds: float,
        evict_oldest: bool = True,
        prefix: str = "orchestra",
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._max_total = max_total
        self._evict_oldest = evict_oldest
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._commands = PoolCommands(
            url,
            prefix=prefix,
            first_arguments=(round(lease_seconds * 1000), max_total, bus.channels),
            timeout_seconds=timeout_seconds,
            clock=clock,
        )
        # Until then acquire() reports its slots in the first call: the pool was
        # recovering lately.
        self._reports_until = float("-inf")
        # The slots of this node, which it reports to a recovering pool.
        self._held = HeldSlots()
        # Connections whose acquire() is under way; the reason, where their slot was
        # taken away again before the reply arrived.
        self._acquiring: dict[str, str] = {}
        # Slots whose release is pending, and since when.
        self._releasing = HeldSlots()
        self._released_at: dict[str, float] = {}
        self._release_due = asyncio.Event()
        # Slots released during a retake, which may just have taken them again.
        self._retaking = 0
        self._released_meanwhile: set[str] = set()
        # Keeps retakes and releases in order on their way to Redis.
        self._ordered = asyncio.Lock()
        self._tasks = BackgroundTasks()
        self._settling = BackgroundTasks()
        self._has_started = False
        self._bus = bus
        bus.on_message("taken", self._on_taken)
        bus.on_message("recovering", self._on_recovering)
        bus.on_return(self._renew_soon)

    # The contract

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        self._start()
        self._forget_release(slot.connection_id)
        self._acquiring[slot.connection_id] = ""
        try:
            status, *rest = await self._ask_for(slot, replaces)
        except BaseException:
            # Whether Redis took the slot is unknown, and its caller is gone.
            self.release(slot.connection_id)
            raise
        finally:
            taken_early = self._acquiring.pop(slot.connection_id, "")
        if status == "full":
            raise PoolFull(self._max_total)
        if status == "client_full":
            raise ClientFull(slot.client_id, slot.limit)
        self._held.add(slot)
        if status == "taken":
            taken_early, rest = rest[0], []
        if taken_early:
            report = self._report_taken(slot.connection_id, taken_early)
            self._tasks.start(report, "The report of a slot taken away")
        given_up = tuple(read_slots(slot.client_id, rest))
        for one in given_up:
            self._held.remove(one.connection_id)
        return given_up

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        by_id = {slot.connection_id: slot for slot in slots}
        with self._while_retaking():
            reasons: dict[str, str] = {}
            # Without slots, the call still checks that Redis answers.
            for ids in list(_in_chunks(list(by_id))) or [[]]:
                reasons |= _in_pairs(await self._commands.run("renew", ids))
            missing = [by_id[one] for one in reasons if reasons[one] == "missing"]
            for slot in missing:
                del reasons[slot.connection_id]
            # Newest first: where there is no room for all, the oldest are lost.
            missing.sort(key=lambda slot: slot.order, reverse=True)
            reasons |= await self._retake("keep", missing)
            return self._apply_renewal(slots, reasons)

    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        with self._while_retaking():
            for slot in slots:
                self._forget_release(slot.connection_id)
            in_order = sorted(slots, key=lambda slot: slot.order)
            return self._apply_renewal(slots, await self._retake("late", in_order))

    def release(self, connection_id: str) -> None:
        slot = self._held.remove(connection_id) or _unknown_slot(connection_id)
        self._releasing.add(slot)
        self._released_at[connection_id] = self._clock()
        self._release_due.set()
        if self._retaking:
            self._released_meanwhile.add(connection_id)

    def get_held_ids(self) -> list[str]:
        return self._held.get_ids()

    async def get_usage(self) -> Usage:
        slots, clients, state = await self._commands.run("usage", [])
        if state == "settling" and not self._settling:
            self._settling.start(self._settle(), "The eviction of an excess")
        return Usage(
            slots=slots,
            clients=clients,
            limit=self._max_total,
            is_recovering=state == "recovering",
        )

    async def close(self) -> None:
        await self._tasks.stop()
        await self._settling.stop()
        try:
            await self._release_pending()
        except PoolUnavailable:
            logger.warning(
                "%s slots could not be released; their leases end by themselves",
                len(self._releasing),
                extra={"event": "release_failed"},
            )
        await self._bus.close()
        await self._commands.close()

    # Commands

    async def _ask_for(self, slot: Slot, replaces: str | None) -> Any:
        """
        Run acquire until it has decided; return its answer, with all slots given up.

        A recovering pool is told this node's slots of the client first.
        """
        given_up: list[Any] = []
        while True:
            own = self._held.of_client(slot.client_id)
            has_reported = self._clock() < self._reports_until
            # A client below its limit here has no slot evicted here.
            if has_reported and len(own) >= slot.limit:
                await self._report(own)
            if len(self._releasing.of_client(slot.client_id)) > _SLOTS_PER_CALL:
                await self._release_pending()
            arguments = self._arguments_of_acquire(slot, replaces, has_reported)
            status, *rest = await self._commands.run("acquire", arguments)
            if status == "tell":
                self._reports_until = self._clock() + self._lease_seconds / 3
            elif status == "again":
                given_up += rest
            else:
                return [status, *given_up, *rest] if status == "ok" else [status, *rest]

    def _arguments_of_acquire(
        self, slot: Slot, replaces: str | None, has_reported: bool
    ) -> list[Any]:
        # Slots that this client released a moment ago may still be in Redis.
        releasing = self._releasing.of_client(slot.client_id)
        return [
            int(self._evict_oldest),
            slot.connection_id,
            encode_word(slot.client_id),
            encode_word(slot.node_id),
            encode_moment(slot.opened_at),
            slot.limit,
            replaces or "-",
            len(self._held),
            int(has_reported),
            *(one.connection_id for one in releasing[:_SLOTS_PER_CALL]),
        ]

    async def _retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        """Run retake; return the ids that were not taken, and why."""
        reasons: dict[str, str] = {}
        for chunk in _in_chunks(slots, _TAKEN_PER_CALL):
            waiting = chunk
            while waiting:
                found = await self._retake_some(mode, waiting)
                waiting = [
                    one for one in waiting if found.get(one.connection_id) == "again"
                ]
                for slot in waiting:
                    del found[slot.connection_id]
                reasons |= found
        return reasons

    async def _retake_some(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        arguments: list[Any] = [mode]
        for slot in slots:
            if slot.connection_id not in self._released_meanwhile:
                arguments += (
                    slot.connection_id,
                    encode_word(slot.client_id),
                    encode_word(slot.node_id),
                    encode_moment(slot.opened_at),
                    slot.limit,
                )
        async with self._ordered:
            return _in_pairs(await self._commands.run("retake", arguments))

    def _apply_renewal(self, slots: Iterable[Slot], reasons: dict[str, str]) -> Renewal:
        """Update the held slots by the result of a renewal, and return it."""
        for slot in slots:
            if slot.connection_id in self._released_meanwhile:
                self.release(slot.connection_id)
            elif slot.connection_id not in reasons:
                self._held.add(slot)
        for connection_id in reasons:
            self._held.remove(connection_id)
        return _make_renewal(reasons)

    @contextmanager
    def _while_retaking(self) -> Iterator[None]:
        self._retaking += 1
        try:
            yield
        finally:
            self._retaking -= 1
            if not self._retaking:
                self._released_meanwhile.clear()

    # In the background

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._tasks.start(self._bus.start(), "The bus between nodes")
            self._tasks.start(self._commands.warn_of_eviction(), "The policy of Redis")
            self._tasks.repeat(
                self._release_when_due, "The release of slots", _RELEASE_RETRY_SECONDS
            )

    async def _release_when_due(self) -> None:
        await self._release_due.wait()
        try:
            await self._release_pending()
        except PoolUnavailable:
            # The outage is reported elsewhere.
            await asyncio.sleep(_RELEASE_RETRY_SECONDS)

    async def _release_pending(self) -> None:
        """
        Release the pending slots whose lease has not ended.

        Raises:
            PoolUnavailable: some are still pending.
        """
        while self._released_at:
            expired_before = self._clock() - self._lease_seconds
            released: dict[str, float] = {}
            for connection_id, since in list(self._released_at.items()):
                if since <= expired_before:
                    self._forget_release(connection_id)
                elif len(released) < _SLOTS_PER_CALL:
                    released[connection_id] = since
            if released:
                async with self._ordered:
                    await self._commands.run("release", list(released))
            for connection_id, since in released.items():
                if self._released_at.get(connection_id) == since:
                    self._forget_release(connection_id)
        self._release_due.clear()

    def _forget_release(self, connection_id: str) -> None:
        self._releasing.remove(connection_id)
        self._released_at.pop(connection_id, None)

    def _on_recovering(self, message: Message) -> None:
        if len(self._held):
            logger.warning(
                "Redis has lost %s of the pool: every node reports its slots again",
                message.get("lost", "slots"),
                extra={"event": "pool_recovering"},
            )
        self._renew_soon()

    def _renew_soon(self) -> None:
        if len(self._held):
            self._tasks.start(self._renew_held(), "A renewal out of turn")

    async def _renew_held(self) -> None:
        """Renew now, for a recovering pool or after a gap in the messages."""
        with suppress(PoolUnavailable):
            await self._report(list(self._held))

    async def _report(self, slots: Sequence[Slot]) -> None:
        """
        Renew slots, and report those that are lost.

        Raises:
            PoolUnavailable: as renew().
        """
        renewal = await self.renew(slots)
        if renewal != Renewal():
            self.on_taken(renewal)

    async def _settle(self) -> None:
        """Call Redis until no excess is left: each script evicts a part of it."""
        with suppress(PoolUnavailable):
            state = "settling"
            while state == "settling":
                await asyncio.sleep(_SETTLE_SECONDS)
                *_, state = await self._commands.run("usage", [])

    def _on_taken(self, message: Message) -> None:
        """Report slots that a script, of this or another node, took away."""
        ids = [str(one) for one in message["ids"]]
        reason = str(message["reason"])
        for connection_id in ids:
            if connection_id in self._acquiring:
                self._acquiring[connection_id] = reason
        here = [one for one in ids if one in self._held]
        for connection_id in here:
            self._held.remove(connection_id)
        if here:
            self.on_taken(_make_renewal(dict.fromkeys(here, reason)))

    async def _report_taken(self, connection_id: str, reason: str) -> None:
        """Report a slot that was taken away before the reply of its acquire()."""
        # The caller of acquire() continues first.
        await asyncio.sleep(0)
        if self._held.remove(connection_id) is not None:
            self.on_taken(_make_renewal({connection_id: reason}))


def _unknown_slot(connection_id: str) -> Slot:
    """Return a slot of which only the connection is known."""
    return Slot(
        connection_id=connection_id, client_id="", node_id="", opened_at=0, limit=0
    )


def _make_renewal(reasons: dict[str, str]) -> Renewal:
    def ids_of(reason: str) -> tuple[str, ...]:
        return tuple(one for one, why in reasons.items() if why == reason)

    return Renewal(
        evicted=ids_of("evicted"), replaced=ids_of("replaced"), lost=ids_of("lost")
    )


def _in_chunks(
    items: Sequence[Any], most: int = _SLOTS_PER_CALL
) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _in_pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
