"""Test the contract of a presence store on each backend."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from connections.exceptions import PresenceUnavailable
from connections.models.alias import atomic, get_connection
from connections.presence.base import ONLINE, Change, Delta, PresenceStore, Renewal
from connections.presence.memory import MemoryStore
from connections.presence.postgres import PostgresStore
from connections.presence.redis import RedisStore
from connections.presence.stores import make_store
from connections.redis.bus import RedisBus
from connections.testing import FakeClock, wait_until
from connections.testing.communicators import make_config
from connections.testing.waiting import scale
from tests.connections.presence_database import ListeningBus, PresenceDatabase
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

LEASE_SECONDS = 60
LINGER_SECONDS = 20
"""Longer than any machine stands still: both end where a test moves the clock."""

BEAT_SECONDS = LEASE_SECONDS / 10

_JUMP = """
local milliseconds = tonumber(ARGV[1]) * 1000
local function back(moment)
  return string.format('%.0f', moment - milliseconds)
end
for _, key in ipairs(redis.call('KEYS', '{orchestra:presence}:*')) do
  if key:match('}:nodes$') or key:match('}:due$') then
    local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for index = 1, #found, 2 do
      redis.call('ZADD', key, back(found[index + 1]), found[index])
    end
  elseif key:match('}:state$') then
    local moment = redis.call('HGET', key, 'recovering_until')
    redis.call('HSET', key, 'recovering_until', back(moment))
  elseif key:match('}:room:') then
    local found = redis.call('HGETALL', key)
    for index = 1, #found, 2 do
      local due, rest = found[index + 1]:match('^(%d+)(|.*)$')
      if due ~= '0' then
        redis.call('HSET', key, found[index], back(due) .. rest)
      end
    end
  end
end
"""


class Stores:
    """One backend, with the stores of its nodes and the events that they report."""

    def __init__(self, connect: Callable[..., PresenceStore]) -> None:
        self._connect = connect
        self.made: dict[str, PresenceStore] = {}
        self.events: list[str] = []

    def open(self, node_id: str = "a", **options: Any) -> PresenceStore:
        """Return the store of a node; the first one reports the events."""
        store = self.made.get(node_id)
        if store is None:
            store = self.made[node_id] = self._connect(node_id, **options)
            if len(self.made) == 1:
                store.on_delta = self._on_delta
        return store

    def pass_time(self, seconds: float) -> None:
        """Let the clock of the backend advance."""
        raise NotImplementedError

    async def start(self) -> None:
        """Wait until the events of other nodes arrive."""

    async def close(self) -> None:
        """Close all stores."""
        for store in self.made.values():
            await store.close()

    def _on_delta(self, room: str, delta: Delta) -> None:
        self.events += [f"{room} +{one}" for one in delta.joined]
        self.events += [f"{room} -{one}" for one in delta.left]


class MemoryStores(Stores):
    """One store for all nodes, on a clock that the test advances."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(self._make)
        self._one: MemoryStore | None = None

    def _make(self, node_id: str, **options: Any) -> MemoryStore:
        if self._one is None:
            self._one = MemoryStore(
                lease_seconds=LEASE_SECONDS,
                linger_seconds=LINGER_SECONDS,
                max_members=options.get("max_members", 1000),
                clock=self.clock,
            )
        return self._one

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class RedisStores(Stores):
    """One store for each node, on the clock of a real Redis."""

    def __init__(self, server: RedisProcess) -> None:
        super().__init__(self._make)
        self._server = server
        self._url = server.url
        self._buses: list[RedisBus] = []

    def _make(self, node_id: str, **options: Any) -> RedisStore:
        bus = RedisBus(self._url, node_id=node_id, timeout_seconds=scale(20))
        self._buses.append(bus)
        return RedisStore(
            self._url,
            bus=bus,
            lease_seconds=LEASE_SECONDS,
            linger_seconds=LINGER_SECONDS,
            max_members=options.get("max_members", 1000),
            beat_seconds=0,
            timeout_seconds=scale(20),
        )

    def pass_time(self, seconds: float) -> None:
        """Move all stored times the other way."""
        with self._server.connect() as client:
            client.eval(_JUMP, 0, str(seconds))

    async def start(self) -> None:
        for bus in self._buses:
            await bus.start()

    async def close(self) -> None:
        await super().close()
        for bus in self._buses:
            await bus.close()


class PostgresStores(Stores):
    """One store for each node, on the clock of a real PostgreSQL."""

    def __init__(self, database: PresenceDatabase) -> None:
        super().__init__(self._make)
        self._database = database
        self._buses: list[ListeningBus] = []

    def _make(self, node_id: str, **options: Any) -> PostgresStore:
        self._buses.append(ListeningBus(self._database.url))
        return PostgresStore(
            write=self._database.run,
            read=self._database.run,
            bus=self._buses[-1],
            lease_seconds=LEASE_SECONDS,
            linger_seconds=LINGER_SECONDS,
            max_members=options.get("max_members", 1000),
        )

    def pass_time(self, seconds: float) -> None:
        self._database.jump(seconds)

    async def start(self) -> None:
        for bus in self._buses:
            await bus.start()

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        self._database.empty()


@pytest.fixture(scope="module")
def presence_database(postgres_server: PostgresProcess) -> Iterator[PresenceDatabase]:
    database = PresenceDatabase(postgres_server)
    yield database
    database.close()


@pytest.fixture(params=["memory", "redis", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    made: Stores = MemoryStores()
    if request.param == "redis":
        server: RedisProcess = request.getfixturevalue("redis_server")
        made = RedisStores(server)
    elif request.param == "postgres":
        made = PostgresStores(request.getfixturevalue("presence_database"))
    yield made
    await made.close()


def joins(*members: str, room: str = "r", **options: Any) -> list[Change]:
    return [Change(room=room, member=m, is_present=True, **options) for m in members]


def leaves(*members: str, room: str = "r") -> list[Change]:
    return [Change(room=room, member=one, is_present=False) for one in members]


async def open_node(stores: Stores, node_id: str, **options: Any) -> PresenceStore:
    """Return the store of a node that has a lease."""
    store = stores.open(node_id, **options)
    await stores.start()
    await store.renew(node_id, 0)
    return store


async def has_events(stores: Stores, *expected: str) -> None:
    await wait_until(lambda: stores.events == list(expected))


async def test_who_joined_is_present_with_its_data(stores: Stores) -> None:
    store = await open_node(stores, "a")
    await store.apply("a", joins("1", data='{"name": "Ä|b"}'))
    await store.apply("a", joins("2"))
    assert await store.get_present("r") == {"1": '{"name": "Ä|b"}', "2": "{}"}
    assert await store.get_present("other") == {}
    assert await store.count("r") == 2
    assert await store.find_present("r", ["1", "3"]) == {"1"}
    await has_events(stores, "r +1", "r +2")


async def test_new_data_is_no_new_member(stores: Stores) -> None:
    store = await open_node(stores, "a")
    await store.apply("a", joins("1"))
    await store.apply("a", joins("1", data='{"x": 1}'))
    assert await store.get_present("r") == {"1": '{"x": 1}'}
    await store.apply("a", joins("2"))
    await has_events(stores, "r +1", "r +2")


async def test_who_left_lingers_and_then_leaves(stores: Stores) -> None:
    store = await open_node(stores, "a")
    await store.apply("a", joins("1"))
    await store.apply("a", leaves("1"))
    assert await store.count("r") == 1
    stores.pass_time(LINGER_SECONDS + 0.05)
    assert await store.count("r") == 0
    assert await store.get_present("r") == {}
    assert await store.find_present("r", ["1"]) == set()
    await store.renew("a", 0)
    await has_events(stores, "r +1", "r -1")


async def test_who_is_forgotten_lingers_nowhere(stores: Stores) -> None:
    """Members that a node has stay, and other lingers end in their time."""
    store = await open_node(stores, "a")
    await store.apply("a", joins("1", "2", "3"))
    await store.apply("a", joins("1", room="other"))
    await store.apply("a", leaves("2", "1"))
    await store.apply("a", leaves("1", room="other"))
    await store.forget(["1", "3"])
    assert await store.find_present("r", ["1", "3"]) == {"3"}
    assert await store.count("other") == 0
    await wait_until(lambda: {"r -1", "other -1"} <= {*stores.events})


async def test_who_comes_back_has_neither_left_nor_joined(stores: Stores) -> None:
    store, other = await open_node(stores, "a"), await open_node(stores, "b")
    await store.apply("a", joins("1"))
    await store.apply("a", leaves("1"))
    await other.apply("b", joins("1"))
    stores.pass_time(LINGER_SECONDS + 0.05)
    await other.renew("b", 1)
    assert await store.count("r") == 1
    await other.apply("b", joins("2"))
    await has_events(stores, "r +1", "r +2")


async def test_a_member_of_two_nodes_stays_with_the_second(stores: Stores) -> None:
    store, other = await open_node(stores, "a"), await open_node(stores, "b")
    await store.apply("a", joins("1"))
    await other.apply("b", joins("1"))
    await store.apply("a", leaves("1"))
    stores.pass_time(LINGER_SECONDS + 0.05)
    await other.renew("b", 1)
    await store.renew("a", 0)
    assert await store.count("r") == 1
    await other.apply("b", leaves("1"))
    stores.pass_time(LINGER_SECONDS + 0.05)
    await store.renew("a", 0)
    await has_events(stores, "r +1", "r -1")


async def keep(stores: Stores, node_id: str, held: int, seconds: float) -> None:
    """Let a node beat for some time."""
    for _ in range(int(seconds / BEAT_SECONDS) + 1):
        stores.pass_time(BEAT_SECONDS)
        await stores.open(node_id).renew(node_id, held)


async def test_a_killed_nodes_members_leave_after_lease_and_linger(
    stores: Stores,
) -> None:
    store, killed = await open_node(stores, "a"), await open_node(stores, "b")
    await killed.apply("b", joins(*(f"m{n}" for n in range(300))))
    await store.apply("a", joins("m0"))
    await has_events(stores, *(f"r +m{n}" for n in range(300)))
    await keep(stores, "a", 1, LEASE_SECONDS + LINGER_SECONDS + 2 * BEAT_SECONDS)
    assert await store.get_present("r") == {"m0": "{}"}
    assert await store.count("r") == 1
    await wait_until(lambda: len(stores.events) == 599)
    assert sorted(stores.events[300:]) == sorted(f"r -m{n}" for n in range(1, 300))


async def test_nobody_leaves_while_no_node_reached_the_store(stores: Stores) -> None:
    """The first node that is back does not know that the others are dead."""
    store, other = await open_node(stores, "a"), await open_node(stores, "b")
    await other.apply("b", joins("1"))
    stores.pass_time(LEASE_SECONDS + LINGER_SECONDS + 0.1)
    await store.renew("a", 0)
    await store.apply("a", joins("2"))
    assert await store.get_present("r") == {"1": "{}", "2": "{}"}
    await has_events(stores, "r +1", "r +2")


async def test_readers_see_a_killed_nodes_members_leave_without_any_node(
    stores: Stores,
) -> None:
    killed = await open_node(stores, "a")
    await killed.apply("a", joins("1"))
    stores.pass_time(LEASE_SECONDS + LINGER_SECONDS + 0.1)
    assert await killed.count("r") == 0
    assert await killed.get_present("r") == {}
    assert await killed.find_present("r", ["1"]) == set()


async def test_a_node_without_a_lease_may_not_report(stores: Stores) -> None:
    store = await open_node(stores, "a")
    with pytest.raises(PresenceUnavailable):
        await store.apply("b", joins("1"))


async def test_a_node_that_was_frozen_learns_it(stores: Stores) -> None:
    store, frozen = await open_node(stores, "a"), await open_node(stores, "b")
    assert await frozen.renew("b", 0) is Renewal.KNOWN
    await frozen.apply("b", joins("1"))
    assert await frozen.renew("b", 1) is Renewal.KNOWN
    await keep(stores, "a", 0, LEASE_SECONDS + LINGER_SECONDS + 2 * BEAT_SECONDS)
    assert await frozen.renew("b", 1) is Renewal.EXPIRED
    await frozen.apply("b", joins("1"))
    assert await store.count("r") == 1
    await has_events(stores, "r +1", "r -1", "r +1")


async def test_a_store_that_knows_another_number_asks_for_all(stores: Stores) -> None:
    store = await open_node(stores, "a")
    assert await store.renew("a", 1) is Renewal.EXPIRED


async def test_a_full_room_refuses_newcomers_alone(stores: Stores) -> None:
    store = await open_node(stores, "a", max_members=2)
    assert list(await store.apply("a", joins("1", "2", "3"))) == [("r", "3")]
    assert list(await store.apply("a", joins("1"))) == []
    assert await store.count("r") == 2
    await store.apply("a", leaves("1"))
    stores.pass_time(LINGER_SECONDS + 0.05)
    await store.renew("a", 1)
    assert list(await store.apply("a", joins("3"))) == []


async def test_the_room_of_all_clients_is_never_full(stores: Stores) -> None:
    """A limit would tell that a client is offline."""
    store = await open_node(stores, "a", max_members=2)
    assert list(await store.apply("a", joins("1", "2", "3", room=ONLINE))) == []
    assert await store.find_present(ONLINE, ["3"]) == {"3"}


async def test_a_quiet_join_is_no_event(stores: Stores) -> None:
    store = await open_node(stores, "a")
    await store.apply("a", joins("1", is_quiet=True))
    await store.apply("a", joins("2"))
    assert await store.count("r") == 2
    await has_events(stores, "r +2")


async def test_repetitions_change_nothing(stores: Stores) -> None:
    store = await open_node(stores, "a")
    for _ in range(2):
        await store.apply("a", joins("1"))
    for _ in range(2):
        await store.apply("a", leaves("1"))
    await store.apply("a", leaves("unknown"))
    stores.pass_time(LINGER_SECONDS + 0.05)
    assert await store.renew("a", 0) is Renewal.KNOWN
    await has_events(stores, "r +1", "r -1")


async def test_ten_thousand_members_of_one_room(stores: Stores) -> None:
    """The events name each member once, and reads name all."""
    store = await open_node(stores, "a", max_members=10_000)
    members = [f"user:{number}" for number in range(10_000)]
    for start in range(0, 10_000, 100):
        await store.apply("a", joins(*members[start : start + 100]))
        await store.renew("a", start + 100)
    assert await store.count("r") == 10_000
    assert len(await store.get_present("r")) == 10_000
    assert await store.find_present("r", members) == set(members)
    await wait_until(lambda: len(stores.events) == 10_000)


async def test_data_too_long_for_a_notification_is_a_gap(
    presence_database: PresenceDatabase,
) -> None:
    stores = PostgresStores(presence_database)
    store = await open_node(stores, "a")
    gaps: list[None] = []
    store.on_gap = lambda: gaps.append(None)
    await store.apply("a", joins("1", "2", data='{"x": "' + "x" * 5000 + '"}'))
    await wait_until(lambda: sorted(stores.events) == ["r +1", "r +2"])
    assert gaps == []
    await store.apply("a", joins("3", data='{"x": "' + "x" * 9000 + '"}'))
    await wait_until(lambda: gaps == [None])
    assert await store.count("r") == 3
    await stores.close()


async def test_concurrent_changes_of_nodes_in_postgres_do_not_deadlock(
    presence_database: PresenceDatabase,
) -> None:
    stores = PostgresStores(presence_database)
    nodes = ("a", "b", "c")
    for node_id in nodes:
        await open_node(stores, node_id)
    members = [f"m{number}" for number in range(50)]

    async def work(node_id: str, order: list[str]) -> None:
        store = stores.open(node_id)
        for _ in range(10):
            await store.apply(node_id, joins(*order))
            await store.renew(node_id, len(order))
            await store.apply(node_id, leaves(*order))

    orders = (members, members[::-1], members[25:] + members[:25])
    await asyncio.gather(*map(work, nodes, orders))
    stores.pass_time(LINGER_SECONDS + 0.05)
    await stores.open("a").renew("a", 0)
    assert await stores.open("a").count("r") == 0
    await stores.close()


async def test_when_postgresql_jumps_back_nobody_stays_for_an_hour(
    presence_database: PresenceDatabase,
) -> None:
    """Neither who lingers nor the members of a node that just died."""
    stores = PostgresStores(presence_database)
    store, dead = await open_node(stores, "a"), await open_node(stores, "b")
    await store.apply("a", joins("1", "2"))
    await store.apply("a", leaves("2"))
    await dead.apply("b", joins("3"))
    stores.pass_time(-3600)
    await keep(stores, "a", 1, LEASE_SECONDS + LINGER_SECONDS + 3 * BEAT_SECONDS)
    assert await store.renew("a", 1) is Renewal.KNOWN
    await wait_until(lambda: sorted(stores.events[3:]) == ["r -2", "r -3"])
    assert await store.get_present("r") == {"1": "{}"}
    await stores.close()


def make_reader() -> PresenceStore:
    """Return the store with which a process without a node asks PostgreSQL."""
    clock = FakeClock()
    return make_store(make_config(), "postgres", redis_url=None, bus=None, clock=clock)


async def test_a_question_leaves_the_connection_of_its_caller_alone(
    presence_database: PresenceDatabase,
) -> None:
    count = async_to_sync(make_reader().count)

    def ask_on_the_way() -> list[int]:
        connection: Any = get_connection()
        connection.close()
        # The default of Django.
        connection.settings_dict["CONN_MAX_AGE"] = 0
        connection.connect()
        rows: list[int] = []
        with connection.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 4)")
            while some := cursor.fetchmany(2):
                rows += [number for (number,) in some]
                assert count("r") == 0
        with atomic(), connection.cursor() as cursor:
            assert count("r") == 0
            cursor.execute("SELECT 5")
            rows += cursor.fetchone()
        return rows

    assert await presence_database.run(ask_on_the_way) == [1, 2, 3, 4, 5]


async def test_a_question_closes_the_connection_that_it_opened(
    presence_database: PresenceDatabase,
) -> None:
    count = async_to_sync(make_reader().count)

    def ask_alone() -> bool:
        connection: Any = get_connection()
        connection.close()
        assert count("r") == 0
        return connection.connection is None

    assert await presence_database.run(ask_alone)


async def test_the_question_after_a_lost_connection_is_answered(
    presence_database: PresenceDatabase,
) -> None:
    """The connection was the caller's, who asks nothing else of the database."""
    count = async_to_sync(make_reader().count)

    def ask_again() -> int:
        connection: Any = get_connection()
        connection.ensure_connection()
        connection.connection.close()
        with pytest.raises(PresenceUnavailable):
            count("r")
        return count("r")

    assert await presence_database.run(ask_again) == 0


@pytest.mark.parametrize(("kind", "is_unshared"), [("w:7", False), ("memory", True)])
async def test_a_process_beside_others_does_not_guess(
    kind: str, is_unshared: bool
) -> None:
    """Workers whose pool is in their parent have a presence each."""
    config = make_config(allow_unshared_limits=is_unshared)
    store = make_store(config, kind, redis_url=None, bus=None, clock=FakeClock())
    await store.renew("a", 0)
    await store.apply("a", joins("1"))
    with pytest.raises(PresenceUnavailable, match="use PostgreSQL"):
        await store.find_present("r", ["2"])
    with pytest.raises(PresenceUnavailable):
        await store.count("r")
