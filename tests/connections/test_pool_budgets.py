"""The sum of the budgets of shards, over lost messages and shards that fail over."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from connections.exceptions import PoolFull, PoolUnavailable
from connections.pool.base import Renewal, Slot
from connections.pool.budgets import Budgets
from connections.pool.commands import SHARD_KEYS, TOTAL_KEYS, PoolCommands
from connections.pool.redis import RedisSteps
from connections.pool.sharded import name_shards
from connections.pool.steps import Request
from connections.testing import FakeClock, wait_until
from connections.testing.waiting import scale
from tests.connections.pool_nodes import FEW_SHARDS, ShardedNodePool, let_be_exact
from tests.integration.redis_process import RedisProcess

MAX_TOTAL = 7
TOTAL = FEW_SHARDS
"""The number of the total, behind those of the shards."""

NODES = 2
SNAPSHOTS = 6
SECONDS = 60

FATES = ("arrives", "arrives", "is lost", "reply is lost", "is late", "twice")

Result = TypeVar("Result")


@dataclass(slots=True)
class Sent:
    """A message of a node that is on its way, and who waits for its answer."""

    place: int
    request: Sequence[Any]
    answer: asyncio.Future[list[Any]] = field(repr=False)


class BudgetMachine(RuleBasedStateMachine):
    """
    Nodes move budgets between shards that fail over, over messages in any order.

    A shard that fails over forgets the last changes of its budget, as a replica does
    that had not heard of them; the total does likewise.
    """

    server: RedisProcess

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server.flush()
        let_be_exact(self.server)
        self.redis = self.server.connect()
        self.run_id = self.redis.info("server")["run_id"]
        tags = name_shards("orchestra", FEW_SHARDS)
        self.keys = [f"{{{tag}}}:budget" for tag in tags]
        self.keys.append("{orchestra:pool:total}:total")
        first = (SECONDS * 1000, MAX_TOTAL, "orchestra:bus:")
        self.places = [self.connect(tag, SHARD_KEYS, *first) for tag in tags]
        self.places.append(self.connect("orchestra:pool:total", TOTAL_KEYS, MAX_TOTAL))
        self.shards = [RedisSteps(place) for place in self.places[:TOTAL]]
        # Each place is a server of its own, which is another after each fail-over.
        self.servers = [0] * len(self.places)
        self.snapshots: list[list[Any]] = [[{}] for _ in self.places]
        self.sent: list[Sent] = []
        self.late: list[Sent] = []
        self.clock = FakeClock()
        self.nodes = [self.make_node(self.send) for _ in range(NODES)]
        self.tasks: set[asyncio.Task[bool]] = set()
        self.slots: list[tuple[int, Slot]] = []
        self.count = 0

    def connect(self, tag: str, keys: Sequence[str], *first: Any) -> PoolCommands:
        return PoolCommands(
            self.server.url,
            tag=tag,
            keys=keys,
            first_arguments=first,
            timeout_seconds=scale(20),
            clock=FakeClock(),
        )

    def make_node(self, ask: Any) -> Budgets:
        async def wait(seconds: float) -> None:
            self.clock.advance(seconds)

        return Budgets(
            ask,
            lambda request: ask(TOTAL, request),
            max_total=MAX_TOTAL,
            shards=FEW_SHARDS,
            count_own=lambda shard: 0,
            clock=self.clock,
            wait=wait,
        )

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    # The network

    async def send(self, place: int, request: Sequence[Any]) -> list[Any]:
        sent = Sent(place, request, asyncio.get_running_loop().create_future())
        self.sent.append(sent)
        return await sent.answer

    async def execute(self, place: int, request: Sequence[Any]) -> list[Any]:
        """Run an operation where it arrives; each server has a run_id of its own."""
        operation, *arguments = request
        if operation in ("confirm", "divide"):
            is_same = arguments[0] == str(self.servers[place])
            arguments[0] = self.run_id if is_same else "gone"
        name = "keep" if place == TOTAL else "budget"
        answer = await self.places[place].run(name, [operation, *arguments])
        own = str(self.servers[place])
        found = self.redis.hgetall(self.keys[place])
        if found != self.snapshots[place][-1]:
            self.snapshots[place].append(found)
        del self.snapshots[place][:-SNAPSHOTS]
        return [own if one == self.run_id else one for one in answer]

    async def let_nodes_go_on(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
        self.tasks = {task for task in self.tasks if not task.done()}

    async def arrive(self, sent: Sent, fate: str) -> None:
        if fate in ("is late", "twice"):
            self.late.append(sent)
        answer = None
        if fate not in ("is lost", "is late"):
            answer = await self.execute(sent.place, sent.request)
        if not sent.answer.done():
            if answer is None or fate == "reply is lost":
                sent.answer.set_exception(PoolUnavailable("no answer in time"))
            else:
                sent.answer.set_result(answer)
        await self.let_nodes_go_on()

    # What happens

    @rule(node=st.integers(0, NODES - 1), shard=st.integers(0, FEW_SHARDS - 1))
    def want_room(self, node: int, shard: int) -> None:
        async def want() -> None:
            task = asyncio.ensure_future(self.nodes[node].raise_budget(shard))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.tasks.add(task)
            await self.let_nodes_go_on()

        self.run(want())

    @precondition(lambda self: self.sent)
    @rule(number=st.integers(0, 20), fate=st.sampled_from(FATES))
    def deliver(self, number: int, fate: str) -> None:
        sent = self.sent.pop(number % len(self.sent))
        self.run(self.arrive(sent, fate))

    @precondition(lambda self: self.late)
    @rule(number=st.integers(0, 20))
    def deliver_late(self, number: int) -> None:
        sent = self.late.pop(number % len(self.late))
        self.run(self.execute(sent.place, sent.request))

    @rule(places=st.sets(st.integers(0, TOTAL), min_size=1), back=st.integers(0, 9))
    def fail_over(self, places: set[int], back: int) -> None:
        for place in places:
            snapshots = self.snapshots[place]
            found = snapshots[-min(1 + back, len(snapshots))]
            with self.redis.pipeline() as pipeline:
                pipeline.delete(self.keys[place])
                if found:
                    replica: Any = {**found, "run": f"before {self.servers[place]}"}
                    pipeline.hset(self.keys[place], mapping=replica)
                pipeline.execute()
            self.servers[place] += 1
            self.snapshots[place] = [found]
        self.take_all_there_is()

    @rule()
    def take_all_there_is(self) -> None:
        """Fill each shard up to its budget, as its scripts know it."""
        for shard in range(FEW_SHARDS):
            while self.run(self.take_slot(shard)):
                self.keeps_to_the_total()

    @rule(shard=st.integers(0, FEW_SHARDS - 1))
    def take(self, shard: int) -> None:
        self.run(self.take_slot(shard))

    async def take_slot(self, shard: int) -> bool:
        self.count += 1
        slot = Slot(
            connection_id=f"c{self.count}",
            client_id=f"s{shard}",
            node_id="n",
            opened_at=self.count,
            limit=1000,
        )
        answer = await self.shards[shard].acquire(
            Request(
                slot=slot,
                evicts=True,
                replaces=None,
                own_count=0,
                has_reported=True,
                releasing=(),
            )
        )
        if answer.status == "ok":
            self.slots.append((shard, slot))
        return answer.status == "ok"

    @precondition(lambda self: self.slots)
    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        shard, slot = self.slots.pop(number % len(self.slots))
        self.run(self.shards[shard].release([slot]))

    # The bounds

    def read_budgets(self) -> list[int]:
        found = [self.redis.hgetall(key) for key in self.keys[:TOTAL]]
        return [
            int(one["got"]) - int(one["back"])
            for one in found
            if one.get("run") == self.run_id
        ]

    def count_slots(self) -> int:
        tags = name_shards("orchestra", FEW_SHARDS)
        return sum(self.redis.zcard(f"{{{tag}}}:leases") for tag in tags)

    @invariant()
    def keeps_to_the_total(self) -> None:
        budgets = self.read_budgets()
        assert min(budgets, default=0) >= 0
        assert sum(budgets) <= MAX_TOTAL
        assert self.count_slots() <= MAX_TOTAL

    @rule(shard=st.integers(0, FEW_SHARDS - 1))
    def fill_up_in_calm(self, shard: int) -> None:
        """Once all answer, a shard is full only when every place is taken."""
        self.run(self.fill(shard))
        assert self.count_slots() == MAX_TOTAL

    async def fill(self, shard: int) -> None:
        while self.sent:
            await self.arrive(self.sent.pop(), "arrives")
        node = self.make_node(self.execute)
        # A shard that is confirmed with less than it had recovers; one that is
        # recovering gives nothing back.
        for _ in range(FEW_SHARDS):
            for tag in name_shards("orchestra", FEW_SHARDS):
                self.redis.hdel(f"{{{tag}}}:state", "recovering_until", "ordered")
            while await self.take_slot(shard) or await node.raise_budget(shard):
                self.keeps_to_the_total()

    def teardown(self) -> None:
        async def stop() -> None:
            for node in self.nodes:
                await node.close()
            for place in self.places:
                await place.close()

        self.run(stop())
        self.runner.close()
        self.redis.close()


def test_the_budgets_together_are_never_more_than_the_total(
    redis_server: RedisProcess,
) -> None:
    machine = type("Machine", (BudgetMachine,), {"server": redis_server})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=25, stateful_step_count=40, deadline=None),
    )


async def test_a_lowered_total_takes_back_what_shards_do_not_use(
    redis_server: RedisProcess,
) -> None:
    before = ShardedNodePool(redis_server.url, "a", max_total=300)
    await before.take("1", client="alice")
    await before.close()
    after = ShardedNodePool(redis_server.url, "b", max_total=5)

    async def is_full_at_five() -> bool:
        await after.renew([])
        for number in range(10):
            after.release(str(number))
        taken = 0
        with contextlib.suppress(PoolFull):
            for number in range(10):
                await after.take(str(number), client=str(number))
                taken += 1
        return taken == 5

    await wait_until(is_full_at_five)
    await after.close()


async def test_a_renewal_needs_no_answer_of_the_total(
    redis_server: RedisProcess,
) -> None:
    """Each shard says what it has taken away, and goes on with its own budget."""
    pool = ShardedNodePool(redis_server.url, "a")
    slots = await pool.take("1", "2", limit=1)
    with redis_server.connect() as client:
        client.hset("{orchestra:pool:total}:total", "format", 2)
    assert await pool.renew(slots) == Renewal(evicted=("1",))
    await pool.close()


async def test_a_total_that_others_divide_all_the_time_is_out_of_reach() -> None:
    async def ask_shard(shard: int, request: Sequence[Any]) -> list[Any]:
        operation, *arguments = request
        return ["stale", arguments[0] + 1] if operation == "fence" else [0, 0, 0, "r"]

    async def ask_total(request: Sequence[Any]) -> list[Any]:
        return ["unknown", "r", 0]

    budgets = Budgets(
        ask_shard, ask_total, max_total=7, shards=2, count_own=lambda shard: 0
    )
    with pytest.raises(PoolUnavailable, match="divided"):
        await budgets.raise_budget(0)
