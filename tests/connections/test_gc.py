"""Collections stay short, and connections are freed without one."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.node.gc import Freezer
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_node


@pytest.fixture
def frozen_before() -> Iterator[int]:
    """The number of frozen objects; all are unfrozen after the test."""
    yield gc.get_freeze_count()
    gc.unfreeze()


class Member(LimitedConsumer):
    """A consumer that also uses its channel."""

    groups = ["all"]


@pytest.mark.parametrize("kind", [Member, LimitedJsonConsumer])
async def test_a_connection_that_ends_needs_no_collection(kind: Any) -> None:
    """Reference counts free its consumer, its record and its scope."""
    node = make_node()
    gc.collect()
    gc.disable()
    try:
        communicator = connect_to(kind, node)
        await communicator.connect()
        (connection,) = node.hub
        left = [weakref.ref(connection)]
        left += [weakref.ref(one) for one in gc.get_objects() if type(one) is kind]
        assert len(left) == 2
        await communicator.disconnect()
        await node.leaks.poll()
        del communicator, connection
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


def collect(
    freezer: Freezer, clock: FakeClock, seconds: float, generation: int
) -> None:
    info = {"generation": generation, "collected": 0, "uncollectable": 0}
    freezer.on_collection("start", info)
    clock.advance(seconds)
    freezer.on_collection("stop", info)


def test_survivors_of_a_long_full_collection_are_frozen(frozen_before: int) -> None:
    clock = FakeClock()
    freezer = Freezer(clock)
    collect(freezer, clock, 0.3, generation=2)
    assert freezer.freezes == 1
    assert gc.get_freeze_count() > frozen_before


@pytest.mark.parametrize(("seconds", "generation"), [(0.005, 2), (0.3, 1)])
def test_a_short_or_young_collection_freezes_nothing(
    frozen_before: int, seconds: float, generation: int
) -> None:
    clock = FakeClock()
    freezer = Freezer(clock)
    collect(freezer, clock, seconds, generation)
    assert freezer.freezes == 0
    assert gc.get_freeze_count() == frozen_before


def test_frozen_objects_are_collected_once_unfrozen(frozen_before: int) -> None:
    freezer = Freezer(FakeClock())
    freezer.is_on = True
    cycle: Any = Member()
    cycle.itself = cycle
    reference = weakref.ref(cycle)
    gc.freeze()
    del cycle
    gc.collect()
    assert reference() is not None
    frozen = gc.get_freeze_count()
    with freezer.thawed():
        assert reference() is None
        # CPython 3.12 freezes immortal objects at every full collection.
        assert gc.get_freeze_count() < frozen
    assert gc.get_freeze_count() > 0
