"""Work over all connections of a node lets other tasks run."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from connections.access.reauthorisation import Reauthoriser
from connections.close_codes import CloseReason
from connections.hub.hub import Hub
from connections.models import NodeCommand
from connections.node.commands import AppliedCommands
from connections.node.slots import NodeSlots
from connections.pool.base import Renewal, Slot
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.live_connections import SilentSender, make_connection
from tests.connections.switchable_database import SwitchableDatabase

COUNT = 2_000


class SlowSender(SilentSender):
    """A sender that takes some CPU time, as a real one does."""

    used = 0

    def _work(self) -> None:
        SlowSender.used += 1
        sum(range(3_000))

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        self._work()

    def send(self, content: dict[str, Any]) -> bool:
        self._work()
        return True


@pytest.fixture
def hub() -> Hub:
    SlowSender.used = 0
    made = Hub()
    for number in range(COUNT):
        made.join(
            make_connection(f"c{number}", sender=SlowSender(), user_id=f"{number}")
        )
    return made


async def find_most_in_a_turn(work: Coroutine[Any, Any, object]) -> int:
    """Return how many connections were handled in one turn of the loop at most."""
    working = asyncio.create_task(work)
    most, before = 0, 0
    while not working.done():
        most, before = max(most, SlowSender.used - before), SlowSender.used
        await asyncio.sleep(0)
    most = max(most, SlowSender.used - before)
    await asyncio.gather(working, return_exceptions=True)
    assert SlowSender.used == COUNT
    return most


@pytest.mark.django_db(transaction=True)
async def test_a_notice_to_all(hub: Hub) -> None:
    database = Database()

    async def drain() -> None: ...

    commands = AppliedCommands(
        hub=hub, database=database, node_id="n1", drain=drain, serve=lambda: None
    )
    command = NodeCommand(kind="notice", target="all", text="hello", author="admin")
    await database.write(command.save)
    assert await find_most_in_a_turn(commands.poll()) < COUNT
    await database.read(command.refresh_from_db)
    assert command.reached == COUNT
    await database.close()


class EmptyPool:
    """A pool that has lost every slot."""

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        return LOST


LOST = Renewal(lost=tuple(f"c{number}" for number in range(COUNT)))


async def renew(slots: NodeSlots, hub: Hub) -> None:
    await slots.renew()


async def report(slots: NodeSlots, hub: Hub) -> None:
    slots.end_lost(LOST)
    await hub.sending.wait()


@pytest.mark.parametrize("lose", [renew, report])
async def test_the_loss_of_all_slots(
    hub: Hub, lose: Callable[[NodeSlots, Hub], Coroutine[Any, Any, None]]
) -> None:
    pool: Any = EmptyPool()
    observer: Any = None
    slots = NodeSlots(node_id="n1", hub=hub, pool=pool, observer=observer)
    assert await find_most_in_a_turn(lose(slots, hub)) < COUNT


@pytest.mark.django_db(transaction=True)
async def test_the_end_of_all_stale_authorisations(hub: Hub) -> None:
    """The database is away for longer than an authorisation may be old."""
    clock, database = FakeClock(), SwitchableDatabase()
    config = make_config(stale_authorisation_seconds=60)
    authenticator: Any = None
    reauthoriser = Reauthoriser(
        config, hub=hub, database=database, authenticator=authenticator, clock=clock
    )
    for one in hub:
        one.authorised_at = clock()
        reauthoriser.expect(one)
    database.is_away = True
    clock.advance(3600)
    assert await find_most_in_a_turn(reauthoriser.poll()) < COUNT
    await database.close()
