"""A leak is found and named with its holder; without a leak there is no suspect."""

import asyncio
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject

from connections.consumers import LimitedConsumer
from connections.metrics.memory import read_rss_bytes
from connections.node.leaks import LeakWatch, Suspect, find_holder
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_node

KEPT: list[Any] = []


class Thing:
    """An object of a connection."""


class Collector(LimitedConsumer):
    """A consumer that a global list keeps for ever."""

    async def connect(self) -> None:
        KEPT.append(self)
        await self.accept()


class Tidy(LimitedConsumer):
    """A consumer that leaves no reference behind."""


class Watched:
    """A leak watch whose clock, connections and slots the test sets."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.open: set[str] = set()
        self.held: list[str] = []
        self.watch = LeakWatch(
            clock=self.clock,
            is_open=self.open.__contains__,
            count_open=lambda: len(self.open),
            get_held_ids=lambda: self.held,
        )

    def suspects(self) -> tuple[Suspect, ...]:
        return self.watch.suspects

    async def pass_a_minute(self) -> None:
        self.clock.advance(61)
        await self.watch.poll()


@pytest.fixture(autouse=True)
def forget_kept() -> Any:
    yield
    KEPT.clear()


@pytest.fixture
def no_own_collection() -> Iterator[None]:
    """Python collects nothing by itself."""
    gc.disable()
    yield
    gc.enable()


async def test_an_object_that_ends_with_its_connection_is_no_suspect() -> None:
    watched = Watched()
    thing = Thing()
    watched.watch.follow("c1", "closed", thing)
    del thing
    await watched.pass_a_minute()
    assert watched.suspects() == ()


async def test_an_object_that_stays_for_a_minute_is_a_suspect_until_it_ends() -> None:
    watched = Watched()
    KEPT.append(Thing())
    watched.watch.follow("c1", "evicted", KEPT[0])
    await watched.watch.poll()
    assert watched.suspects() == ()
    await watched.pass_a_minute()
    (suspect,) = watched.suspects()
    assert suspect.kind == f"{__name__}.Thing"
    assert (suspect.connection_id, suspect.reason) == ("c1", "evicted")
    assert suspect.holder == f"list of 1 < {__name__}.KEPT"
    KEPT.clear()
    await watched.pass_a_minute()
    assert watched.suspects() == ()


@pytest.mark.usefixtures("no_own_collection")
async def test_a_search_collects_nothing_that_is_old_while_clients_wait() -> None:
    """Each full collection stops the event loop, and other tasks run meanwhile."""
    watched = Watched()
    watched.open.add("c0")
    KEPT.extend(Thing() for _ in range(300))
    for number, thing in enumerate(KEPT):
        watched.watch.follow(f"c{number + 1}", "closed", thing)
    del thing
    full, turns = gc.get_stats()[2]["collections"], 0
    watched.clock.advance(61)
    polling = asyncio.create_task(watched.watch.poll())
    while not polling.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(watched.suspects()) == 100
    assert watched.suspects()[0].holder == f"list of 300 < {__name__}.KEPT"
    assert gc.get_stats()[2]["collections"] == full
    assert turns > 10


async def test_a_cycle_waits_for_its_collection_and_is_no_leak() -> None:
    """Automatic collection is off; the watch collects before it suspects."""
    watched = Watched()
    thing: Any = Thing()
    thing.itself = thing
    gc.disable()
    try:
        watched.watch.follow("c1", "closed", thing)
        del thing
        await watched.pass_a_minute()
    finally:
        gc.enable()
    assert watched.suspects() == ()


async def test_a_slot_without_its_connection_is_a_suspect() -> None:
    watched = Watched()
    watched.open |= {"c1", "c2"}
    watched.held += ["c1", "c2"]
    await watched.pass_a_minute()
    watched.open.discard("c2")
    await watched.watch.poll()
    assert watched.suspects() == ()
    await watched.pass_a_minute()
    (suspect,) = watched.suspects()
    assert (suspect.kind, suspect.connection_id) == ("slot", "c2")


async def serve(node: Node, consumer: Any) -> None:
    """Open and close a connection."""
    communicator = connect_to(consumer, node)
    await communicator.connect()
    await communicator.disconnect()


async def test_a_consumer_that_is_kept_in_a_list_is_found_and_named() -> None:
    clock = FakeClock()
    node = make_node(clock)
    await serve(node, Collector)
    await serve(node, Tidy)
    clock.advance(61)
    await node.leaks.poll()
    (suspect,) = node.leaks.suspects
    assert suspect.kind == f"{__name__}.Collector"
    assert suspect.reason == "closed"
    assert suspect.holder == f"list of 1 < {__name__}.KEPT"


async def test_a_holder_is_found_behind_others() -> None:
    # No variable of this coroutine refers to them, which would hold them as well.
    KEPT.append(Thing())
    vars(KEPT[0])["cache"] = {"a": [Thing()]}
    name = await find_holder(vars(KEPT[0])["cache"]["a"][0])
    assert name.startswith("list of 1 < dict of 1")
    assert name.endswith(f"list of 1 < {__name__}.KEPT")


async def test_a_search_evaluates_no_lazy_object() -> None:
    evaluated: list[None] = []
    lazy = SimpleLazyObject(lambda: evaluated.append(None))
    KEPT.append(Thing())
    await find_holder(KEPT[0])
    assert evaluated == []
    del lazy


@pytest.mark.slow
async def test_forty_thousand_connections_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No suspect, and memory as after the first ten thousand."""
    caplog.set_level(logging.WARNING, "connections.ends")  # pytest keeps every line
    clock = FakeClock()
    node = make_node(clock)
    application = Tidy.as_asgi()
    scope = {"type": "websocket", "path": "/", "headers": [], "node": node}

    async def open_and_close() -> None:
        events = [{"type": "websocket.disconnect", "code": 1000}]
        events.append({"type": "websocket.receive", "text": "x"})
        events.append({"type": "websocket.connect"})

        async def receive() -> dict[str, Any]:
            return events.pop()

        async def send(message: dict[str, Any]) -> None:
            return None

        await application(dict(scope), receive, send)

    async def churn(count: int) -> None:
        for number in range(count):
            await open_and_close()
            if number % 1000 == 0:
                clock.advance(10)
                await node.leaks.poll()

    await churn(10_000)
    gc.collect()
    before = read_rss_bytes()
    await churn(30_000)
    gc.collect()
    clock.advance(61)
    await node.leaks.poll()
    assert node.leaks.suspects == ()
    assert node.counters.consumers == 0
    assert read_rss_bytes() - before < 3_000_000
