"""Share a pool between nodes in Redis. Imported only where REDIS_URL is set."""

import time
from collections.abc import Collection, Sequence
from typing import Any

from connections.pool.base import Slot
from connections.pool.codec import encode_moment, encode_word, read_slots
from connections.pool.commands import PoolCommands
from connections.pool.leased import LeasedPool
from connections.pool.steps import SLOTS_PER_CALL, Answer, PoolSteps, Request
from connections.redis.bus import RedisBus
from connections.units import Clock


class RedisPool(LeasedPool):
    """
    A pool in Redis; every step is one script.

    The states of the pool and of a slot, and their transitions, are at the top of
    scripts/prelude.lua.
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
        commands = PoolCommands(
            url,
            tag=f"{prefix}:pool",
            first_arguments=(round(lease_seconds * 1000), max_total, bus.channels),
            timeout_seconds=timeout_seconds,
            clock=clock,
        )
        super().__init__(
            RedisSteps(commands),
            bus=bus,
            max_total=max_total,
            lease_seconds=lease_seconds,
            evict_oldest=evict_oldest,
            clock=clock,
        )


class RedisSteps(PoolSteps):
    """The steps of a pool as scripts in Redis."""

    def __init__(self, commands: PoolCommands) -> None:
        self._commands = commands

    async def acquire(self, request: Request) -> Answer:
        slot = request.slot
        arguments = [
            int(request.evicts),
            slot.connection_id,
            encode_word(slot.client_id),
            encode_word(slot.node_id),
            encode_moment(slot.opened_at),
            slot.limit,
            request.replaces or "-",
            request.own_count,
            int(request.has_reported),
            *request.releasing,
        ]
        status, *rest = await self._commands.run("acquire", arguments)
        if status == "taken":
            return Answer(status=status, reason=rest[0])
        given_up = tuple(read_slots(slot.client_id, rest))
        return Answer(status=status, given_up=given_up)

    async def renew(
        self, slots: Sequence[Slot], known: Collection[str]
    ) -> dict[str, str]:
        # Each slot has its own lease in Redis, which ends unless it is renewed.
        reasons: dict[str, str] = {}
        for first in range(0, len(slots) or 1, SLOTS_PER_CALL):
            some = slots[first : first + SLOTS_PER_CALL]
            ids = [slot.connection_id for slot in some]
            reasons |= _in_pairs(await self._commands.run("renew", ids))
        return reasons

    async def retake_where_room(
        self, mode: str, slots: Sequence[Slot]
    ) -> dict[str, str]:
        """Do as retake(), and return "full" for what the total has no room for."""
        arguments: list[Any] = [mode]
        for slot in slots:
            arguments += (
                slot.connection_id,
                encode_word(slot.client_id),
                encode_word(slot.node_id),
                encode_moment(slot.opened_at),
                slot.limit,
            )
        return _in_pairs(await self._commands.run("retake", arguments))

    async def retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        reasons = await self.retake_where_room(mode, slots)
        return {
            one: "lost" if reason == "full" else reason
            for one, reason in reasons.items()
        }

    async def release(self, slots: Sequence[Slot]) -> None:
        await self._commands.run("release", [slot.connection_id for slot in slots])

    async def get_usage(self) -> tuple[int, int, str]:
        slots, clients, state = await self._commands.run("usage", [])
        return slots, clients, state

    async def check_store(self) -> None:
        await self._commands.warn_of_eviction()

    async def close(self) -> None:
        await self._commands.close()


def _in_pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
