"""Admit or refuse connections while the shared pool is out of reach."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from connections.background import BackgroundTasks
from connections.exceptions import PoolUnavailable
from connections.pool.base import OnTaken, Pool, Renewal, SharedPool, Slot, Usage
from connections.pool.index import HeldSlots
from connections.pool.local import LocalPool
from connections.units import Clock

logger = logging.getLogger(__name__)


class OutagePool(Pool):
    """
    A shared pool, with a policy for the time without it.

    With "local" the node enforces the limits on its own connections, "refuse"
    raises PoolUnavailable for every acquire(), "allow" admits all. Open
    connections stay, whatever the policy. The first command that fails makes the
    pool degraded: from then on no acquire() waits for it. It is tried again every
    probe_seconds; when it answers, this node's slots are renewed, and the late
    ones, which were acquired meanwhile, are taken as new.
    """

    is_shared = True

    def __init__(
        self,
        shared: SharedPool,
        *,
        policy: str,
        max_total: int,
        evict_oldest: bool = True,
        on_taken: OnTaken = lambda renewal: None,
        probe_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._shared = shared
        shared.on_taken = self._report
        self._policy = policy
        self._max_total = max_total
        self._evict_oldest = evict_oldest
        self._on_taken = on_taken
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._held = HeldSlots()
        # Those of the held slots that the shared pool does not know.
        self._late = HeldSlots()
        self._local: LocalPool | None = None
        self._degraded_at = 0.0
        self._probing = BackgroundTasks()

    # The contract

    @property
    def is_refusing(self) -> bool:
        return self.is_degraded and self._policy == "refuse"

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        given_up: tuple[Slot, ...]
        if not self.is_degraded:
            try:
                given_up = await self._shared.acquire(slot, replaces=replaces)
            except PoolUnavailable as exc:
                self._degrade(exc)
            else:
                self._hold(slot, given_up)
                return given_up
        if self._local is None:
            raise PoolUnavailable(self.degraded_reason)
        if self._policy == "allow":
            self._local.adopt(slot)
            given_up = ()
        else:
            given_up = await self._local.acquire(slot, replaces=replaces)
        self._late.add(slot)
        self._hold(slot, given_up)
        for one in given_up:
            self._shared.release(one.connection_id)
        return given_up

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        if self.is_degraded:
            # The probe renews as well, and reports the result.
            return Renewal()
        try:
            renewal = await self._shared.renew(slots)
        except PoolUnavailable as exc:
            self._degrade(exc)
            return Renewal()
        self._forget(renewal.evicted + renewal.replaced + renewal.lost)
        return renewal

    def release(self, connection_id: str) -> None:
        self._forget([connection_id])
        self._shared.release(connection_id)

    def get_held_ids(self) -> list[str]:
        return self._held.get_ids()

    async def get_usage(self) -> Usage:
        """Return the usage of the shared pool, or of this node while degraded."""
        if not self.is_degraded:
            try:
                return await self._shared.get_usage()
            except PoolUnavailable as exc:
                self._degrade(exc)
        clients = len({slot.client_id for slot in self._held})
        return Usage(slots=len(self._held), clients=clients, limit=self._max_total)

    async def close(self) -> None:
        await self._probing.stop()
        await self._shared.close()

    # The outage

    def _degrade(self, exc: PoolUnavailable) -> None:
        if self.is_degraded:
            return
        self.degraded_reason = str(exc) or "the shared pool did not answer"
        self._degraded_at = self._clock()
        logger.error(
            "The shared pool is out of reach (%s); policy for new connections: %s",
            self.degraded_reason,
            self._policy,
            extra={"event": "pool_degraded"},
        )
        if self._policy != "refuse":
            self._local = LocalPool(
                max_total=self._max_total, evict_oldest=self._evict_oldest
            )
            for slot in self._held:
                self._local.adopt(slot)
        self._probing.repeat(
            self._probe, "The probe of the shared pool", self._probe_seconds
        )

    async def _probe(self) -> bool:
        """Wait and try the shared pool again; return True if it answers."""
        await asyncio.sleep(self._probe_seconds)
        try:
            await self._restore()
        except PoolUnavailable as exc:
            self.degraded_reason = str(exc) or self.degraded_reason
        return not self.is_degraded

    async def _restore(self) -> None:
        """
        Renew this node's slots and take the late ones; end the degraded state.

        Raises:
            PoolUnavailable: the shared pool is still out of reach.
        """
        known = [one for one in self._held if one.connection_id not in self._late]
        self._report(await self._shared.renew(known))
        # More may be acquired while these are taken.
        while late := list(self._late):
            renewal = await self._shared.take_late(late)
            for slot in late:
                self._late.remove(slot.connection_id)
                if slot.connection_id not in self._held:
                    self._shared.release(slot.connection_id)
            self._report(renewal)
        self.degraded_reason = None
        self._local = None
        logger.warning(
            "The shared pool answers again after %.1f s",
            self._clock() - self._degraded_at,
            extra={"event": "pool_restored"},
        )

    def _report(self, renewal: Renewal) -> None:
        if renewal != Renewal():
            self._forget(renewal.evicted + renewal.replaced + renewal.lost)
            self._on_taken(renewal)

    def _hold(self, slot: Slot, given_up: Sequence[Slot]) -> None:
        self._held.add(slot)
        if self._local is not None:
            self._local.adopt(slot)
        self._forget(one.connection_id for one in given_up)

    def _forget(self, connection_ids: Iterable[str]) -> None:
        for connection_id in connection_ids:
            self._held.remove(connection_id)
            self._late.remove(connection_id)
            if self._local is not None:
                self._local.release(connection_id)
