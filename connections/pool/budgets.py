"""Move budgets between the shards of a pool, so that their sum is never too great."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from connections.exceptions import PoolUnavailable
from connections.units import Clock

AskShard = Callable[[int, Sequence[Any]], Awaitable[list[Any]]]
"""Run an operation of scripts/budget.lua on a shard; raises PoolUnavailable."""

AskTotal = Callable[[Sequence[Any]], Awaitable[list[Any]]]
"""Run an operation of scripts/total/keep.lua; raises PoolUnavailable."""

LOANS_PER_SHARD = 8
"""A shard gets its budget in pieces, so many for an equal part of the total."""

_ATTEMPTS = 20
"""How often an exchange begins anew, because others change the same budgets."""

_FULL_SECONDS = 0.05
"""How long after a refusal the other shards are not asked again by this node."""

_AWAY_SECONDS = 1.0
"""How long a shard that did not answer is asked for nothing."""

Result = TypeVar("Result")


class Budgets:
    """
    The budgets of all shards, as one node moves them.

    A shard without room gets a piece of the total that no shard has, or that others
    give back; so it is full only when all shards that answer are. Each message may be
    lost, late or repeated: that makes a budget too small for a time, never too great.
    """

    def __init__(
        self,
        ask_shard: AskShard,
        ask_total: AskTotal,
        *,
        max_total: int,
        shards: int,
        count_own: Callable[[int], int],
        clock: Clock = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask_shard = ask_shard
        self._ask_total = ask_total
        self._max_total = max_total
        self._shards = range(shards)
        self._piece = max(1, max_total // (LOANS_PER_SHARD * shards))
        self._count_own = count_own
        self._clock = clock
        self._wait = wait
        self._away_until = [float("-inf")] * shards
        # All that wait for room in a shard wait for the same exchange.
        self._raising: dict[int, asyncio.Future[bool]] = {}
        self._full_at = [float("-inf")] * shards

    async def raise_budget(self, shard: int) -> bool:
        """
        Get room for a shard that has none; return False if no other has any.

        Raises:
            PoolUnavailable: the shard or the total did not answer in time.
        """
        raising = self._raising.get(shard)
        if raising is None:
            raising = asyncio.ensure_future(self._raise_once(shard))
            self._raising[shard] = raising
            raising.add_done_callback(lambda done: self._end(shard, done))
        # One that waits may be cancelled; the others go on waiting.
        return await asyncio.shield(raising)

    async def fit(self) -> None:
        """
        Take back what shards do not use while they have more than a lowered total.

        A total that has failed over is divided anew.

        Raises:
            PoolUnavailable: the total or, to divide it, a shard did not answer in time.
        """
        status, _, epoch, *free = await self._ask_total(["look"])
        if status == "unknown":
            await self._divide()
        elif free[0] < 0:
            others = await self._collect(None, self._max_total - free[0])
            await self._ask_total(["give", 0, epoch, 0, 0, *others])

    async def exhaust(self, shard: int) -> None:
        """
        Let a shard evict what exceeds its budget, for no other lends it more.

        Raises:
            PoolUnavailable: the shard did not answer in time.
        """
        await self._ask_shard(shard, ["exhaust"])

    async def close(self) -> None:
        """Cancel what is under way."""
        raising = list(self._raising.values())
        for one in raising:
            one.cancel()
        await asyncio.gather(*raising, return_exceptions=True)

    def _end(self, shard: int, raising: asyncio.Future[bool]) -> None:
        del self._raising[shard]
        if not raising.cancelled():
            raising.exception()  # Those that wait raise it.

    async def _raise_once(self, shard: int) -> bool:
        left_seconds = self._full_at[shard] + _FULL_SECONDS - self._clock()
        if left_seconds > 0:
            await self._wait(left_seconds)
        is_raised = await self._raise(shard)
        if not is_raised:
            self._full_at[shard] = self._clock()
        return is_raised

    async def _raise(self, shard: int) -> bool:
        for _ in range(_ATTEMPTS):
            epoch, is_confirmed, got, run = await self._ask_shard(shard, ["look"])
            if not is_confirmed:
                if await self._confirm(shard, run):
                    return True
                continue
            given, _ = await self._get(shard, epoch, got, ())
            if given == got:
                # Each round is for what the round before made available.
                for _ in range(2):
                    others = await self._collect(shard, self._piece)
                    given, is_found = await self._get(shard, epoch, got, others)
                    if given != got or not is_found:
                        break
                if given == got:
                    return False
            if given is None:
                continue
            (status,) = await self._ask_shard(shard, ["credit", epoch, given])
            if status == "ok":
                return True
        raise PoolUnavailable(f"the budget of shard {shard} changes all the time")

    async def _get(
        self, shard: int, epoch: int, got: int, others: Sequence[int]
    ) -> tuple[int | None, bool]:
        """
        Return how much a shard was ever given, and if other shards got room meanwhile.

        It is None if the shard or the total has to be asked anew.
        """
        request = ["give", shard, epoch, got, self._piece, *others]
        status, *rest = await self._ask_total(request)
        if status == "unknown" or (status == "stale" and int(rest[-1]) < epoch):
            await self._divide()
            return None, False
        if status == "stale":
            run = (await self._ask_shard(shard, ["look"]))[3]
            await self._confirm(shard, run)
            return None, False
        given, *pairs = rest
        for other, arrives in zip(pairs[::2], pairs[1::2], strict=True):
            await self._try(int(other), self._settle(int(other), epoch, arrives))
        return int(given), bool(pairs)

    async def _settle(self, shard: int, epoch: int, given: int) -> None:
        """Let a shard have what it was given before, or confirm it anew (-1)."""
        if given >= 0:
            await self._ask_shard(shard, ["credit", epoch, given])
        else:
            run = (await self._ask_shard(shard, ["look"]))[3]
            await self._confirm(shard, run)

    async def _collect(self, shard: int | None, most: int) -> list[int]:
        """Ask the other shards for room; return what each has ever given back."""
        asked = [
            one
            for one in self._shards
            if one != shard and self._away_until[one] <= self._clock()
        ]
        answers = await ask_all(
            self._try(one, self._ask_shard(one, ["give_back", most])) for one in asked
        )
        found: list[int] = []
        for one, answer in zip(asked, answers, strict=True):
            if answer is not None:
                found += (one, *answer)
        return found

    async def _try(self, shard: int, asking: Awaitable[Result]) -> Result | None:
        """Await what a shard answers; None if it is away: its budget counts as used."""
        try:
            return await asking
        except PoolUnavailable:
            self._away_until[shard] = self._clock() + _AWAY_SECONDS
            return None

    async def _confirm(self, shard: int, run: str) -> bool:
        """Let a shard know again how much it has, which the total knows."""
        status, *rest = await self._ask_total(["turn", shard])
        if status == "unknown":
            await self._divide()
            status, *rest = await self._ask_total(["turn", shard])
            if status == "unknown":
                return False
        (status,) = await self._ask_shard(shard, ["confirm", run, *rest])
        return bool(status == "ok")

    async def _divide(self) -> None:
        """
        Divide the total anew, by what each shard has.

        Raises:
            PoolUnavailable: a shard or the total did not answer in time.
        """
        newest = time.time_ns() // 1_000_000
        for _ in range(_ATTEMPTS):
            _, run, known, *_ = await self._ask_total(["look"])
            epoch = max(newest, int(known)) + 1
            answers = await ask_all(
                self._ask_shard(one, ["fence", epoch]) for one in self._shards
            )
            newest = max([epoch, *(int(one[1]) for one in answers if one[0] != "ok")])
            if newest == epoch:
                break
        else:
            raise PoolUnavailable("the total is divided by others all the time")
        # One that knows its budget keeps it; the others share what is left.
        budgets = [int(got) if knows else 0 for _, got, knows, _ in answers]
        left = self._max_total - sum(budgets)
        for shard, (_, _, knows, slots) in enumerate(answers):
            if not knows:
                # One that is recovering may not know those of this node yet.
                wanted = max(int(slots), self._count_own(shard))
                budgets[shard] = max(0, min(wanted, left))
                left -= budgets[shard]
        await self._ask_total(["divide", run, epoch, *budgets])


async def ask_all(questions: Iterable[Awaitable[Result]]) -> list[Result]:
    """
    Await answers together, and all of them even if one fails.

    Raises:
        PoolUnavailable: an answer did not come in time.
    """
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("list[Result]", answers)
