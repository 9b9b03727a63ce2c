"""The pools of single nodes in a test, with the slots that were reported taken."""

from collections.abc import Callable, Sequence
from typing import Any

from connections.bus import Bus
from connections.pool.base import Renewal, Slot
from connections.pool.leased import LeasedPool
from connections.pool.postgres import PostgresPool
from connections.pool.redis import RedisPool
from connections.pool.sharded import ShardedPool, name_shards
from connections.postgres.bus import PostgresBus
from connections.redis.bus import RedisBus
from connections.storage.database import Database
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess

LEASE_SECONDS = 60
"""Longer than any machine stands still: it ends where a test moves the clock."""

_JUMPS = 20
"""More than a recovery takes, each of a tenth of a lease."""

_JUMP = """
local seconds = tonumber(ARGV[1])
local function back(milliseconds)
  return string.format('%.0f', milliseconds - seconds * 1000)
end
for _, key in ipairs(redis.call('KEYS', '{orchestra:pool*}:*')) do
  local kind = key:match('[^:]*$')
  if kind == 'leases' or kind == 'tombs' then
    local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for index = 1, #found, 2 do
      redis.call('ZADD', key, back(found[index + 1]), found[index])
    end
  elseif kind == 'state' then
    for _, field in ipairs({'recovering_until', 'renewed'}) do
      local moment = redis.call('HGET', key, field)
      if moment then
        redis.call('HSET', key, field, back(moment))
      end
    end
  end
end
"""

Jump = Callable[[float], None]
"""Makes the clock of a store jump by some seconds."""

FEW_SHARDS = 3
"""Enough for budgets to move, and quick on one Redis."""


def _make_defaults() -> dict[str, Any]:
    """Return the options of a pool, whose steps may take longer on a busy machine."""
    return {
        "max_total": 1000,
        "lease_seconds": LEASE_SECONDS,
        "timeout_seconds": scale(5),
    }


def _make_bus(url: str, node_id: str, settings: dict[str, Any]) -> RedisBus:
    """Return the bus of a node; the settings lose what is its own."""
    return RedisBus(
        url,
        node_id=node_id,
        probe_seconds=settings.pop("probe_seconds", scale(5)),
        timeout_seconds=scale(5),
    )


class NodePool(LeasedPool):
    """The pool of one node, on any store."""

    node_id: str
    bus: Bus
    taken: list[Renewal]

    def slot(self, name: str, age: float, *, client: str = "c", limit: int = 5) -> Slot:
        return Slot(
            connection_id=name,
            client_id=client,
            node_id=self.node_id,
            opened_at=1_700_000_000 + age,
            limit=limit,
        )

    async def take(self, *names: str, start: float = 0, **options: Any) -> list[Slot]:
        slots = [
            self.slot(name, start + index, **options)
            for index, name in enumerate(names)
        ]
        for slot in slots:
            await self.acquire(slot)
        return slots

    @property
    def evicted(self) -> set[str]:
        return {one for renewal in self.taken for one in renewal.evicted}


class RedisNodePool(NodePool, RedisPool):
    def __init__(self, url: str, node_id: str, **options: Any) -> None:
        settings = {**_make_defaults(), **options}
        self.bus = _make_bus(url, node_id, settings)
        RedisPool.__init__(self, url, bus=self.bus, **settings)
        self.node_id, self.taken = node_id, []
        self.on_taken = self.taken.append


class ShardedNodePool(NodePool, ShardedPool):
    def __init__(self, url: str, node_id: str, **options: Any) -> None:
        settings = {**_make_defaults(), "shards": FEW_SHARDS, **options}
        self.bus = _make_bus(url, node_id, settings)
        ShardedPool.__init__(self, url, bus=self.bus, **settings)
        self.node_id, self.taken = node_id, []
        self.on_taken = self.taken.append


class PostgresNodePool(NodePool, PostgresPool):
    def __init__(
        self, database: Database, url: str, node_id: str, **options: Any
    ) -> None:
        settings = {**_make_defaults(), **options}
        self.bus = PostgresBus(database, node_id=node_id, listen_url=url)
        PostgresPool.__init__(self, database, node_id=node_id, bus=self.bus, **settings)
        self.node_id, self.taken = node_id, []
        self.on_taken = self.taken.append


def leased_in(*servers: RedisProcess) -> set[str]:
    """Return the connections with a lease, by the clock of each Redis."""
    found: set[str] = set()
    for server in servers:
        with server.connect() as client:
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000
            for key in client.scan_iter("{orchestra:pool*}:leases"):
                found |= set(client.zrangebyscore(key, f"({now_ms}", "+inf"))
    return found


def let_be_exact(server: RedisProcess) -> None:
    """Let an empty Redis have pools that are not recovering."""
    with server.connect() as client:
        for tag in ("orchestra:pool", *name_shards("orchestra", FEW_SHARDS)):
            client.hset(f"{{{tag}}}:state", "generation", "1")


def jump_in_redis(server: RedisProcess, seconds: float) -> None:
    """Make its clock jump by moving all stored times the other way."""
    with server.connect() as client:
        client.eval(_JUMP, 0, str(seconds))


async def settle_recovery(
    jump: Jump, *pools: NodePool, slots: Sequence[Sequence[Slot]]
) -> None:
    """Renew on every node, as beats do, until the pool is done recovering."""
    for _ in range(_JUMPS):
        for pool, own in zip(pools, slots, strict=True):
            pool.taken.append(await pool.renew(own))
        if not await is_recovering(pools[0]):
            return
        jump(LEASE_SECONDS / 10)
    raise TimeoutError("the pool goes on recovering")


async def outlast_lease(jump: Jump, pool: NodePool, slots: Sequence[Slot]) -> None:
    """Let more than a lease pass, in which this node alone renews."""
    for _ in range(4):
        jump(LEASE_SECONDS / 3)
        assert await pool.renew(slots) == Renewal()


async def is_recovering(pool: NodePool) -> bool:
    return (await pool.get_usage()).is_recovering
