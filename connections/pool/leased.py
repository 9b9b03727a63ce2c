"""Share a pool between nodes: slots are leases in a store that runs each step."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from connections.background import BackgroundTasks
from connections.bus import Bus, Message
from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, SharedPool, Slot, Usage
from connections.pool.index import HeldSlots
from connections.pool.steps import SLOTS_PER_CALL, Answer, PoolSteps, Request
from connections.units import Clock, count_of

logger = logging.getLogger(__name__)

_TAKEN_PER_CALL = 40
"""How many slots one step retakes, so that it occupies the store for milliseconds."""

_SETTLE_SECONDS = 0.02
"""The time between two calls that evict an excess, for other users of the store."""

_RELEASE_RETRY_SECONDS = 0.5


class LeasedPool(SharedPool):
    """
    A pool whose slots are leases, taken and renewed by the steps of a store.

    A step that takes longer than the timeout of the steps raises
    PoolUnavailable; a repetition, release() or the end of the lease puts it right.
    The pool closes the bus.
    """

    def __init__(
        self,
        steps: PoolSteps,
        *,
        bus: Bus,
        max_total: int,
        lease_seconds: float,
        evict_oldest: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        self._max_total = max_total
        self._evict_oldest = evict_oldest
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._steps = steps
        # Until then acquire() reports its slots in the first call: the pool was
        # recovering lately.
        self._reports_until = float("-inf")
        # The slots of this node, which it reports to a recovering pool.
        self._held = HeldSlots(steps.shard_of)
        steps.count_own = self._held.count_in
        # Connections whose acquire() is under way; the reason, where their slot was
        # taken away again before the reply arrived.
        self._acquiring: dict[str, str] = {}
        # Slots whose release is pending, and since when.
        self._releasing = HeldSlots()
        self._released_at: dict[str, float] = {}
        self._release_due = asyncio.Event()
        # Slots released ("") or taken away, and why, during a renewal: its answer may
        # be older, and it may just have taken them again.
        self._renewing = 0
        self._gone_meanwhile: dict[str, str] = {}
        # Keeps retakes and releases in order on their way to the store.
        self._ordered = asyncio.Lock()
        self._tasks = BackgroundTasks()
        self._settling = BackgroundTasks()
        # What the store has lost, or "" for a renewal that has another reason. All
        # that arrives during one renewal out of turn causes one more.
        self._renewal_reasons: set[str] = set()
        self._is_renewing_held = False
        self._has_started = self._is_closing = False
        self._bus = bus
        bus.on_message("taken", self._on_taken)
        bus.on_message("recovering", self._on_recovering)
        bus.on_message("renew", lambda message: self._renew_soon())
        bus.on_return(self._renew_soon)

    # The contract

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        self._start()
        self._revive(slot.connection_id)
        self._acquiring[slot.connection_id] = ""
        try:
            answer = await self._ask_for(slot, replaces)
        except BaseException:
            # Whether the slot was taken is unknown, and its caller is gone.
            self._drop(slot.connection_id)
            self._release_soon(slot)
            raise
        finally:
            taken_early = self._acquiring.pop(slot.connection_id, "")
        if answer.status == "full":
            raise PoolFull(self._max_total)
        if answer.status == "client_full":
            raise ClientFull(slot.client_id, slot.limit)
        self._held.add(slot)
        taken_early = answer.reason or taken_early
        if taken_early:
            report = self._report_taken(slot.connection_id, taken_early)
            self._tasks.start(report, "The report of a slot taken away")
        for one in answer.given_up:
            self._drop(one.connection_id)
        return answer.given_up

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        by_id = {slot.connection_id: slot for slot in slots}
        with self._while_renewing():
            known = {*by_id, *self._held.get_ids(), *self._acquiring}
            reasons = await self._steps.renew(list(by_id.values()), known)
            missing = [by_id[one] for one in reasons if reasons[one] == "missing"]
            for slot in missing:
                del reasons[slot.connection_id]
            # Newest first: where there is no room for all, the oldest are lost.
            missing.sort(key=lambda slot: slot.order, reverse=True)
            reasons |= await self._retake("keep", missing)
            return self._apply_renewal(slots, reasons)

    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        self._start()
        with self._while_renewing():
            for slot in slots:
                self._revive(slot.connection_id)
            in_order = sorted(slots, key=lambda slot: slot.order)
            return self._apply_renewal(slots, await self._retake("late", in_order))

    def release(self, connection_id: str) -> None:
        self._release_soon(self._drop(connection_id) or _unknown_slot(connection_id))

    def get_held_ids(self) -> list[str]:
        return self._held.get_ids()

    async def get_usage(self) -> Usage:
        slots, clients, state = await self._steps.get_usage()
        if state == "settling" and not self._settling:
            self._settling.start(self._settle(), "The eviction of an excess")
        return Usage(
            slots=slots,
            clients=clients,
            limit=self._max_total,
            is_recovering=state == "recovering",
        )

    async def close(self) -> None:
        self._is_closing = True
        await self._tasks.stop()
        await self._settling.stop()
        try:
            await self._release_pending()
        except PoolUnavailable:
            logger.warning(
                "%s could not be released; their leases end by themselves",
                count_of(len(self._releasing), "slot"),
                extra={"event": "release_failed"},
            )
        await self._bus.close()
        await self._steps.close()

    # Commands

    async def _ask_for(self, slot: Slot, replaces: str | None) -> Answer:
        """
        Run acquire until it has decided; return its answer, with all slots given up.

        A recovering pool is told this node's slots of the client first.
        """
        given_up: tuple[Slot, ...] = ()
        while True:
            own = self._held.of_client(slot.client_id)
            has_reported = self._clock() < self._reports_until
            # A client below its limit here has no slot evicted here.
            if has_reported and len(own) >= slot.limit:
                await self._report(own)
            if len(self._releasing.of_client(slot.client_id)) > SLOTS_PER_CALL:
                await self._release_pending()
            # Slots that this client released a moment ago may still be in the store.
            releasing = self._releasing.of_client(slot.client_id)[:SLOTS_PER_CALL]
            request = Request(
                slot=slot,
                evicts=self._evict_oldest,
                replaces=replaces,
                own_count=self._held.count_in(self._steps.shard_of(slot.client_id)),
                has_reported=has_reported,
                releasing=[one.connection_id for one in releasing],
            )
            answer = await self._steps.acquire(request)
            if answer.status == "tell":
                self._reports_until = self._clock() + self._lease_seconds / 3
            elif answer.status == "again":
                given_up += answer.given_up
            elif answer.status == "ok":
                return replace(answer, given_up=given_up + answer.given_up)
            else:
                return answer

    async def _retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        """Run retake; return the ids that were not taken, and why."""
        reasons: dict[str, str] = {}
        for first in range(0, len(slots), _TAKEN_PER_CALL):
            waiting = slots[first : first + _TAKEN_PER_CALL]
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
        gone = self._gone_meanwhile
        async with self._ordered:
            kept = [slot for slot in slots if slot.connection_id not in gone]
            skipped = [slot.connection_id for slot in slots if slot not in kept]
            reasons = {one: gone[one] for one in skipped if gone[one]}
            reasons |= await self._steps.retake(mode, kept)
        for slot in kept:
            if slot.connection_id in gone and slot.connection_id not in reasons:
                self._drop(slot.connection_id)
                self._release_soon(slot)
        return reasons

    def _apply_renewal(self, slots: Iterable[Slot], reasons: dict[str, str]) -> Renewal:
        """Update the held slots by the result of a renewal, and return it."""
        for slot in slots:
            gone = slot.connection_id in self._gone_meanwhile
            if not gone and slot.connection_id not in reasons:
                self._held.add(slot)
        for connection_id in reasons:
            self._held.remove(connection_id)
        return _make_renewal(reasons)

    @contextmanager
    def _while_renewing(self) -> Iterator[None]:
        self._renewing += 1
        try:
            yield
        finally:
            self._renewing -= 1
            if not self._renewing:
                self._gone_meanwhile.clear()

    def _drop(self, connection_id: str, reason: str = "") -> Slot | None:
        """Remove a slot from those held, and keep a renewal from adding it again."""
        if self._renewing:
            self._gone_meanwhile[connection_id] = reason
        return self._held.remove(connection_id)

    # In the background

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._tasks.start(self._bus.start(), "The bus between nodes")
            self._tasks.start(self._steps.check_store(), "The check of the store")
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
                elif len(released) < SLOTS_PER_CALL:
                    released[connection_id] = since
            slots = [self._releasing.get(one) or _unknown_slot(one) for one in released]
            if slots:
                async with self._ordered:
                    await self._steps.release(slots)
            for connection_id, since in released.items():
                if self._released_at.get(connection_id) == since:
                    self._forget_release(connection_id)
        self._release_due.clear()

    def _release_soon(self, slot: Slot) -> None:
        self._releasing.add(slot)
        self._released_at[slot.connection_id] = self._clock()
        self._release_due.set()

    def _revive(self, connection_id: str) -> None:
        """Take back a release, because the connection is to have a slot."""
        self._forget_release(connection_id)
        self._gone_meanwhile.pop(connection_id, None)

    def _forget_release(self, connection_id: str) -> None:
        self._releasing.remove(connection_id)
        self._released_at.pop(connection_id, None)

    def _on_recovering(self, message: Message) -> None:
        self._renew_soon(str(message.get("lost", "slots")))

    def _renew_soon(self, lost: str = "") -> None:
        if len(self._held) and not self._is_closing:
            self._renewal_reasons.add(lost)
            if not self._is_renewing_held:
                self._is_renewing_held = True
                self._tasks.start(self._renew_held(), "A renewal out of turn")

    async def _renew_held(self) -> None:
        """Renew now, for a recovering pool or after a gap in the messages."""
        while self._renewal_reasons:
            reasons, self._renewal_reasons = self._renewal_reasons, set()
            for lost in filter(None, reasons):
                logger.warning(
                    "The store has lost %s of the pool: every node reports its slots"
                    " again",
                    lost,
                    extra={"event": "pool_recovering"},
                )
            with suppress(PoolUnavailable):
                await self._report(list(self._held))
        self._is_renewing_held = False

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
        """Ask for the usage until no excess is left: each call evicts a part."""
        with suppress(PoolUnavailable):
            state = "settling"
            while state == "settling":
                await asyncio.sleep(_SETTLE_SECONDS)
                *_, state = await self._steps.get_usage()

    def _on_taken(self, message: Message) -> None:
        """Report slots that a step, of this or another node, took away."""
        ids = [str(one) for one in message["ids"]]
        reason = str(message["reason"])
        for connection_id in ids:
            if connection_id in self._acquiring:
                self._acquiring[connection_id] = reason
        here = [one for one in ids if one in self._held]
        for connection_id in ids:
            self._drop(connection_id, reason)
        if here:
            self.on_taken(_make_renewal(dict.fromkeys(here, reason)))

    async def _report_taken(self, connection_id: str, reason: str) -> None:
        """Report a slot that was taken away before the reply of its acquire()."""
        # The caller of acquire() continues first.
        await asyncio.sleep(0)
        if self._drop(connection_id, reason) is not None:
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
