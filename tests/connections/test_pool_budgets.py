"""The sum of the budgets of shards, over lost messages and shards that fail over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
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
from tests.connections.pool_nodes import (
    FEW_SHARDS,
    ShardedNodePool,
    leased_in,
    let_be_exact,
)
from tests.integration.redis_process import RedisProcess

MAX_TOTAL = 7
TOTAL = FEW_SHARDS
"""The number of the total, behind those of the shards."""

NODES = 2
SNAPSHOTS = 6
SECONDS = 60

FATES = (
    *("arrives", "arrives", "is lost", "reply is lost", "is late", "twice"),
    "fails over",  # Its place, once it has arrived.
)
OPERATIONS = (
    *("look", "credit", "give_back", "fence", "confirm", "exhaust"),
    *("give", "turn", "divide"),
)

SHARDS = st.integers(0, FEW_SHARDS - 1)

Result = TypeVar("Result")


class Shard(PoolCommands):
    """The scripts of a shard; none evicts more than exceeds a confirmed budget."""

    def __init__(self, tag: str, server: RedisProcess) -> None:
        super().__init__(
            server.url,
            tag=tag,
            keys=SHARD_KEYS,
            first_arguments=(SECONDS * 1000, MAX_TOTAL, "orchestra:bus:"),
            timeout_seconds=scale(20),
            clock=FakeClock(),
        )
        self.redis: Any = server.connect()
        self.key = f"{{{tag}}}:"
        self.this_run = ""

    async def run(self, name: str, arguments: Sequence[Any]) -> Any:
        evicted, excess = self.count_evicted(), self.count_slots() - self.read_budget()
        may_evict = max(0, excess) if self.is_confirmed else 0
        answer = await super().run(name, arguments)
        assert self.count_evicted() - evicted <= may_evict
        return answer

    @property
    def is_confirmed(self) -> bool:
        return bool(self.redis.hget(self.key + "budget", "run") == self.this_run)

    @property
    def is_exact(self) -> bool:
        return not self.redis.hexists(self.key + "state", "recovering_until")

    def end_recovery(self) -> None:
        if not self.is_exact:
            self.redis.hset(self.key + "state", "recovering_until", 1)

    def end_leases(self) -> None:
        for one in self.redis.zrange(self.key + "leases", 0, -1):
            self.redis.zadd(self.key + "leases", {one: 1})

    def read_budget(self) -> int:
        """Return the budget that it may use."""
        got, back = self.redis.hmget(self.key + "budget", "got", "back")
        return int(got) - int(back) if self.is_confirmed else 0

    def count_slots(self) -> int:
        return int(self.redis.zcard(self.key + "leases"))

    def count_evicted(self) -> int:
        return int(self.redis.zcard(self.key + "tombs"))

    async def close(self) -> None:
        await super().close()
        self.redis.close()


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
    that had not heard of them; the total does likewise. A shard that stood still
    recovers its slots, and more may be reported than its budget allows.
    """

    server: RedisProcess

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server.flush()
        let_be_exact(self.server)
        self.redis = self.server.connect()
        self.run_id = self.redis.info("server")["run_id"]
        self.replication_id = self.redis.info("replication")["master_replid"]
        tags = name_shards("orchestra", FEW_SHARDS)
        self.keys = [f"{{{tag}}}:budget" for tag in tags]
        self.keys.append("{orchestra:pool:total}:total")
        self.shards = [Shard(tag, self.server) for tag in tags]
        self.steps = [RedisSteps(shard) for shard in self.shards]
        total = PoolCommands(
            self.server.url,
            tag="orchestra:pool:total",
            keys=TOTAL_KEYS,
            first_arguments=(MAX_TOTAL,),
            timeout_seconds=scale(20),
            clock=FakeClock(),
        )
        self.places: list[PoolCommands] = [*self.shards, total]
        self.this_run = str(self.run(self.shards[0].run("budget", ["look"]))[3])
        for shard in self.shards:
            shard.this_run = self.this_run
        # Each place is a server of its own, which is another after each fail-over.
        self.servers = [0] * len(self.places)
        self.snapshots: list[list[Any]] = [[{}] for _ in self.places]
        self.sent: list[Sent] = []
        self.late: list[Sent] = []
        self.clock = FakeClock()
        self.nodes = [self.make_node(self.send) for _ in range(NODES)]
        self.tasks: set[asyncio.Task[None]] = set()
        self.slots: list[tuple[int, Slot]] = []
        self.count = 0

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
            arguments[0] = self.this_run if is_same else "gone"
        name = "keep" if place == TOTAL else "budget"
        answer = await self.places[place].run(name, [operation, *arguments])
        own = str(self.servers[place])
        found = self.redis.hgetall(self.keys[place])
        if found != self.snapshots[place][-1]:
            self.snapshots[place].append(found)
        del self.snapshots[place][:-SNAPSHOTS]
        return [own if one == self.this_run else one for one in answer]

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
        if fate == "fails over":
            self.replace_server(sent.place, back=0, returns=False)
        if not sent.answer.done():
            if answer is None or fate == "reply is lost":
                sent.answer.set_exception(PoolUnavailable("no answer in time"))
            else:
                sent.answer.set_result(answer)
        await self.let_nodes_go_on()

    # What happens

    @rule(node=st.integers(0, NODES - 1), shard=SHARDS)
    def want_room(self, node: int, shard: int) -> None:
        self.run(self.begin_exchange(self.nodes[node], shard))

    async def begin_exchange(self, node: Budgets, shard: int) -> None:
        task = asyncio.ensure_future(self.exchange(node, shard))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.tasks.add(task)
        await self.let_nodes_go_on()

    async def exchange(self, node: Budgets, shard: int) -> None:
        if not await node.raise_budget(shard):
            await node.exhaust(shard)

    @precondition(lambda self: self.sent)
    @rule(number=st.integers(0, 20), fate=st.sampled_from(FATES))
    def deliver(self, number: int, fate: str) -> None:
        sent = self.sent.pop(number % len(self.sent))
        self.run(self.arrive(sent, fate))

    @precondition(lambda self: self.sent)
    @rule(operation=st.sampled_from(OPERATIONS), fate=st.sampled_from(FATES))
    def deliver_all(self, operation: str, fate: str) -> None:
        """Let all exchanges go on to their end, and one operation fare badly."""
        self.run(self.let_all_arrive(operation, fate))

    async def let_all_arrive(self, operation: str, fate: str) -> None:
        while self.sent:
            sent = self.sent.pop(0)
            is_it = sent.request[0] == operation
            await self.arrive(sent, fate if is_it else "arrives")

    @precondition(lambda self: self.late)
    @rule(number=st.integers(0, 20))
    def deliver_late(self, number: int) -> None:
        sent = self.late.pop(number % len(self.late))
        self.run(self.execute(sent.place, sent.request))

    @rule(
        places=st.sets(st.integers(0, TOTAL), min_size=1),
        back=st.integers(0, 9),
        returns=st.booleans(),
    )
    def fail_over(self, places: set[int], back: int, returns: bool) -> None:
        """Let replicas take over, or these and then the same processes again."""
        for place in places:
            self.replace_server(place, back, returns)
        self.take_all_there_is()

    def replace_server(self, place: int, back: int, returns: bool) -> None:
        snapshots = self.snapshots[place]
        found = snapshots[-min(1 + back, len(snapshots))]
        with self.redis.pipeline() as pipeline:
            pipeline.delete(self.keys[place])
            if found:
                before = f"before {self.servers[place]}"
                run = found.get("run", "").replace(self.replication_id, before)
                if not returns:
                    run = run.replace(self.run_id, before)
                replica: Any = {**found, "run": run}
                pipeline.hset(self.keys[place], mapping=replica)
            pipeline.execute()
        self.servers[place] += 1
        self.snapshots[place] = [found]

    @rule(
        shard=SHARDS,
        taken=st.integers(0, 2),
        node=st.integers(0, NODES - 1),
        operation=st.sampled_from(OPERATIONS),
        fate=st.sampled_from(FATES),
    )
    def stand_still(
        self, shard: int, taken: int, node: int, operation: str, fate: str
    ) -> None:
        """Recover a shard, where some take slots before nodes report the others."""

        async def recover() -> None:
            self.shards[shard].end_leases()
            own = [slot for its, slot in self.slots if its == shard]
            for _ in range(taken):
                await self.take_slot(shard)
            await self.steps[shard].retake_where_room("keep", own)
            self.shards[shard].end_recovery()
            *_, state = await self.steps[shard].get_usage()
            if state == "lacking":
                await self.begin_exchange(self.nodes[node], shard)
                await self.let_all_arrive(operation, fate)

        self.run(recover())
        self.take_all_there_is()

    @rule()
    def take_all_there_is(self) -> None:
        """Fill each shard up to its budget, as its scripts know it."""
        for shard in range(FEW_SHARDS):
            while self.run(self.take_slot(shard)):
                self.keeps_to_the_total()

    @rule(shard=SHARDS)
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
        answer = await self.steps[shard].acquire(
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
        self.run(self.steps[shard].release([slot]))

    # The bounds

    def count_slots(self) -> int:
        return sum(shard.count_slots() for shard in self.shards)

    @invariant()
    def keeps_to_the_total(self) -> None:
        budgets = [shard.read_budget() for shard in self.shards]
        assert min(budgets) >= 0
        assert sum(budgets) <= MAX_TOTAL
        # A shard that recovers takes all that nodes report.
        if all(shard.is_exact for shard in self.shards):
            assert self.count_slots() <= MAX_TOTAL

    @rule(shard=SHARDS)
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
            for one in range(FEW_SHARDS):
                await self.let_settle(node, one)
            while await self.take_slot(shard) or await node.raise_budget(shard):
                self.keeps_to_the_total()

    async def let_settle(self, node: Budgets, shard: int) -> None:
        self.shards[shard].end_recovery()
        state = "settling"
        while state != "exact":
            *_, state = await self.steps[shard].get_usage()
            if state == "lacking":
                await self.exchange(node, shard)

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


@pytest.fixture
async def shard(redis_server: RedisProcess) -> AsyncIterator[Shard]:
    let_be_exact(redis_server)
    shard = Shard(name_shards("orchestra", FEW_SHARDS)[0], redis_server)
    *_, shard.this_run = await shard.run("budget", ["look"])
    yield shard
    await shard.close()


async def test_a_late_credit_of_an_older_epoch_gives_nothing(shard: Shard) -> None:
    await shard.run("budget", ["confirm", shard.this_run, 5, 1, 3, 0])
    assert await shard.run("budget", ["fence", 6]) == ["ok", 3, 1, 0]
    assert await shard.run("budget", ["credit", 5, 4]) == ["stale"]
    assert shard.read_budget() == 3


async def test_a_late_confirmation_of_another_server_confirms_nothing(
    shard: Shard,
) -> None:
    assert await shard.run("budget", ["confirm", "gone", 5, 1, 3, 0]) == ["stale"]
    assert await shard.run("budget", ["look"]) == [0, 0, 0, shard.this_run]


@pytest.mark.parametrize("was_late", [False, True])
async def test_a_shard_that_failed_over_evicts_nothing_before_it_is_confirmed(
    redis_server: RedisProcess, was_late: bool
) -> None:
    """An exhaust() before its last recovery, or late, does not count either."""
    let_be_exact(redis_server)
    pool = ShardedNodePool(redis_server.url, "a", shards=1, lease_seconds=60)
    slots = await pool.take("1", "2", "3")
    tag = "{" + name_shards("orchestra", 1)[0] + "}"
    with redis_server.connect() as client:
        client.hset(f"{tag}:budget", mapping={"run": "gone", "exhausted": 1})
        client.zadd(f"{tag}:leases", {slot.connection_id: 1 for slot in slots})
        client.hdel(f"{tag}:state", "renewed")
        assert await pool.renew(slots) == Renewal()
        client.hset(f"{tag}:state", "recovering_until", 1)
        if was_late:
            client.hset(f"{tag}:budget", "exhausted", 1)
    assert await pool.renew(slots) == Renewal()
    assert leased_in(redis_server) == {"1", "2", "3"}
    await pool.close()
