"""Test what one node reports to its presence store, and when."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from connections.exceptions import PresenceUnavailable
from connections.passes import Passes
from connections.presence.base import Change, Renewal
from connections.presence.memory import MemoryStore
from connections.presence.node_presence import NodePresence
from connections.presence.rooms import JoinedRoom, RoomEvent
from connections.testing import FakeClock, wait_until

LEASE_SECONDS = 60
LINGER_SECONDS = 15


class RecordingStore(MemoryStore):
    """A store with one place in each room, that records what a node calls."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(
            lease_seconds=LEASE_SECONDS,
            linger_seconds=LINGER_SECONDS,
            max_members=1,
            clock=clock,
        )
        self.renewals: list[Renewal] = []
        self.applied: list[Change] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails_once = False

    async def renew(self, node_id: str, held: int) -> Renewal:
        self.renewals.append(await super().renew(node_id, held))
        return self.renewals[-1]

    async def apply(
        self, node_id: str, changes: Sequence[Change]
    ) -> Collection[tuple[str, str]]:
        if self.fails_once:
            self.fails_once = False
            raise PresenceUnavailable("it did not answer")
        refused = await super().apply(node_id, changes)
        self.applied += changes
        await self.may_answer.wait()
        return refused


class Connection:
    """A connection that ignores the events of its rooms."""

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id

    def receive(self, event: RoomEvent) -> None:
        """Do nothing."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> RecordingStore:
    return RecordingStore(clock)


@pytest.fixture
async def presence(store: RecordingStore) -> AsyncIterator[NodePresence]:
    """A node that does not beat again by itself."""
    made = NodePresence(store, node_id="n", beat_seconds=3600, passes=Passes())
    yield made
    await made.stop()


def join(presence: NodePresence, room: str, member: str) -> None:
    """Make a member present by a connection of its name."""
    presence.join(member, [JoinedRoom(room=room, data="{}")], Connection(member))


async def is_in_store(store: RecordingStore, room: str, member: str) -> bool:
    return member in await store.get_present(room)


async def test_who_leaves_while_it_is_refused_is_not_tried_again(
    presence: NodePresence, store: RecordingStore
) -> None:
    join(presence, "a", "first")
    await presence.beat()
    store.may_answer.clear()
    join(presence, "a", "second")
    await wait_until(lambda: len(store.applied) == 2)
    presence.leave("second")
    store.may_answer.set()
    await presence.beat()
    store.applied.clear()
    await presence.beat()
    assert store.applied == []


async def test_who_waits_for_a_full_room_keeps_no_place_of_another_room(
    presence: NodePresence, store: RecordingStore, clock: FakeClock
) -> None:
    """More wait for the first room than are tried in one beat."""
    join(presence, "b", "leaving")
    for number in range(101):
        join(presence, "a", f"user:{number}")
    join(presence, "b", "waiting")
    await presence.beat()
    presence.leave("leaving")
    await presence.beat()
    clock.advance(LINGER_SECONDS + 1)
    for _ in range(2):
        await presence.beat()
    assert await is_in_store(store, "b", "waiting")


async def test_changes_within_a_beat_renew_no_lease(
    presence: NodePresence, store: RecordingStore
) -> None:
    for number in range(5):
        name = f"name:{number}"
        join(presence, name, name)
        await wait_until(lambda name=name: is_in_store(store, name, name))
    assert store.renewals == [Renewal.EXPIRED]


async def test_an_error_or_an_ended_lease_is_followed_by_a_beat(
    presence: NodePresence, store: RecordingStore, clock: FakeClock
) -> None:
    join(presence, "a", "user:1")
    await wait_until(lambda: is_in_store(store, "a", "user:1"))
    store.fails_once = True
    join(presence, "b", "user:2")
    await wait_until(lambda: is_in_store(store, "b", "user:2"))
    assert store.renewals == [Renewal.EXPIRED, Renewal.KNOWN]
    clock.advance(LEASE_SECONDS + 1)
    join(presence, "c", "user:3")
    await wait_until(lambda: is_in_store(store, "c", "user:3"))
    assert store.renewals == [Renewal.EXPIRED, Renewal.KNOWN, Renewal.EXPIRED]
    assert presence.degraded_reason is None


async def test_a_node_beats_while_its_members_change(store: RecordingStore) -> None:
    presence = NodePresence(store, node_id="n", beat_seconds=0.2, passes=Passes())

    async def has_beaten() -> bool:
        join(presence, "a", "user:1")
        presence.leave("user:1")
        return len(store.renewals) > 2

    await wait_until(has_beaten)
    await presence.stop()
