"""
Spread a pool over a Redis Cluster. Imported only where REDIS_URL names one.

A client's slots are in one shard, so that its limit is exact. The total is divided
into budgets of the shards, which lend each other what they do not need.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from zlib import crc32

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from connections.exceptions import PoolUnavailable
from connections.pool.base import Slot
from connections.pool.budgets import Budgets, ask_all
from connections.pool.codec import encode_word
from connections.pool.commands import SHARD_KEYS, TOTAL_KEYS, PoolCommands
from connections.pool.leased import LeasedPool
from connections.pool.redis import RedisSteps
from connections.pool.steps import Answer, PoolSteps, Request
from connections.redis.bus import RedisBus
from connections.units import Clock

SHARDS = 8
"""How many shards there are; the format of the pool, for all nodes must agree."""


class ShardedPool(LeasedPool):
    """A pool in a Redis Cluster; every step is one script of the client's shard."""

    def __init__(
        self,
        url: str,
        *,
        bus: RedisBus,
        max_total: int,
        lease_seconds: float,
        evict_oldest: bool = True,
        prefix: str = "orchestra",
        shards: int = SHARDS,
        timeout_seconds: float = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        def connect(tag: str, keys: Sequence[str], *first: object) -> PoolCommands:
            return PoolCommands(
                url,
                tag=tag,
                keys=keys,
                first_arguments=first,
                timeout_seconds=timeout_seconds,
                clock=clock,
            )

        lease_ms = round(lease_seconds * 1000)
        steps = ShardedSteps(
            [
                connect(tag, SHARD_KEYS, lease_ms, max_total, bus.channels)
                for tag in name_shards(prefix, shards)
            ],
            connect(f"{prefix}:pool:total", TOTAL_KEYS, max_total),
            max_total=max_total,
            clock=clock,
        )
        super().__init__(
            steps,
            bus=bus,
            max_total=max_total,
            lease_seconds=lease_seconds,
            evict_oldest=evict_oldest,
            clock=clock,
        )


class ShardedSteps(PoolSteps):
    """The steps of a pool, each in the shard of its client."""

    def __init__(
        self,
        shards: Sequence[PoolCommands],
        total: PoolCommands,
        *,
        max_total: int,
        clock: Clock,
    ) -> None:
        self._commands = [*shards, total]
        self._shards = [RedisSteps(one) for one in shards]
        self._budgets = Budgets(
            lambda shard, request: shards[shard].run("budget", request),
            lambda request: total.run("keep", request),
            max_total=max_total,
            shards=len(shards),
            count_own=lambda shard: self.count_own(shard),
            clock=clock,
        )

    def shard_of(self, client_id: str) -> int:
        return crc32(encode_word(client_id).encode()) % len(self._shards)

    async def acquire(self, request: Request) -> Answer:
        shard = self.shard_of(request.slot.client_id)
        answer = await self._shards[shard].acquire(request)
        while answer.status == "full" and await self._budgets.raise_budget(shard):
            answer = await self._shards[shard].acquire(request)
        return answer

    async def renew(
        self, slots: Sequence[Slot], known: Collection[str]
    ) -> dict[str, str]:
        # Each shard is asked, with or without slots: so one that is away is noticed,
        # and one that nobody renews has stood still.
        parts = self._divide(slots)
        answers = await ask_all(
            steps.renew(part, known)
            for steps, part in zip(self._shards, parts, strict=True)
        )
        # Without the total each shard goes on with its own budget.
        with suppress(PoolUnavailable):
            await self._budgets.fit()
        return _merge(answers)

    async def retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        parts = enumerate(self._divide(slots))
        return _merge(
            await ask_all(self._retake(mode, *one) for one in parts if one[1])
        )

    async def release(self, slots: Sequence[Slot]) -> None:
        # A slot without a client may be anywhere.
        unknown = [slot for slot in slots if not slot.client_id]
        parts = self._divide(slot for slot in slots if slot.client_id)
        await ask_all(
            steps.release([*part, *unknown])
            for steps, part in zip(self._shards, parts, strict=True)
            if part or unknown
        )

    async def get_usage(self) -> tuple[int, int, str]:
        """Return the sums, and the least exact of the states."""
        found = await ask_all(steps.get_usage() for steps in self._shards)
        states = [state for *_, state in found]
        lacking = [n for n, state in enumerate(states) if state == "lacking"]
        await ask_all(self._settle(shard) for shard in lacking)
        order = ("recovering", "lacking", "settling", "exact")
        state = next(one for one in order if one in states)
        return (
            sum(slots for slots, *_ in found),
            sum(clients for _, clients, _ in found),
            "settling" if state == "lacking" else state,
        )

    async def check_store(self) -> None:
        await self._commands[-1].warn_of_eviction()

    async def close(self) -> None:
        await self._budgets.close()
        for one in self._commands:
            await one.close()

    def _divide(self, slots: Iterable[Slot]) -> list[list[Slot]]:
        parts: list[list[Slot]] = [[] for _ in self._shards]
        for slot in slots:
            parts[self.shard_of(slot.client_id)].append(slot)
        return parts

    async def _retake(
        self, mode: str, shard: int, slots: Sequence[Slot]
    ) -> dict[str, str]:
        waiting = list(slots)
        reasons: dict[str, str] = {}
        while waiting:
            reasons |= await self._shards[shard].retake_where_room(mode, waiting)
            full = [one for one in waiting if reasons.get(one.connection_id) == "full"]
            if full and not await self._budgets.raise_budget(shard):
                return reasons | {one.connection_id: "lost" for one in full}
            waiting = full
            for slot in full:
                del reasons[slot.connection_id]
        return reasons

    async def _settle(self, shard: int) -> None:
        """Get room for what a recovered shard has too many, or let them be evicted."""
        if not await self._budgets.raise_budget(shard):
            await self._budgets.exhaust(shard)


def name_shards(prefix: str, shards: int = SHARDS) -> list[str]:
    """
    Return the hash tags of the shards, equally far from each other.

    The primaries of a cluster have ranges of hash slots, so each gets its part.
    """
    tags: list[str] = []
    number = 0
    while len(tags) < shards:
        tag = f"{prefix}:pool:{number}"
        place = key_slot(tag.encode()) * shards // REDIS_CLUSTER_HASH_SLOTS
        if place == len(tags):
            tags.append(tag)
        number += 1
    return tags


def _merge(answers: Iterable[dict[str, str]]) -> dict[str, str]:
    return {key: value for answer in answers for key, value in answer.items()}
