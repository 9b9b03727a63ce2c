"""A node counts its events, and cuts them into minutes."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.close_codes import KICKED
from connections.hub.hub import Hub
from connections.metrics.counters import (
    DURATION_EDGES,
    OTHER,
    Counters,
    Histogram,
    Tally,
    add,
    subtract,
)
from connections.metrics.meter import TICK_SECONDS, Meter
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_node
from tests.connections.conversations import Echo, JsonEcho

NOON = 1_800_000_000.0 - 1_800_000_000 % 60


class Metered:
    """A meter over counters without connections, with clocks of its own."""

    def __init__(self, wall: float = NOON) -> None:
        self.clock = FakeClock()
        self.wall = FakeClock(wall)
        self.counters = Counters()
        self.meter = Meter(self.counters, Hub(), self.clock, self.wall)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in ticks."""
        for _ in range(round(seconds / TICK_SECONDS)):
            self.clock.advance(TICK_SECONDS)
            self.wall.advance(TICK_SECONDS)
            await self.meter.tick()

    def get_minutes(self) -> dict[int, dict[str, int]]:
        """Return the errors of each whole minute, by minutes since noon."""
        return {
            minute["minute"] - int(NOON // 60): minute.get("errors", {})
            for minute in self.meter.unrolled
        }


async def open_and_close(node: Node, *, consumer: Any = Echo, texts: Any = ()) -> None:
    communicator = connect_to(consumer, node, route="ws/test/")
    assert (await communicator.connect())[0]
    for text in texts:
        await communicator.send_to(text_data=text)
        if text != "fail":
            await communicator.receive_output()
    await communicator.disconnect()


# Counters


async def test_a_connection_is_counted_from_its_opening_to_its_end() -> None:
    node = make_node()
    await open_and_close(node, texts=["hello", "fail"])
    totals = node.counters.get_totals(node.hub)
    assert (totals["opened"], totals["ends"]) == (1, {"closed": 1})
    assert (totals["messages_in"], totals["bytes_in"]) == (2, 9)
    assert (totals["messages_out"], totals["bytes_out"]) == (1, 5)
    assert totals["errors"] == {"internal": 1}
    assert sum(totals["durations"]) == 1
    assert sum(totals["handling"]) == 2


async def test_the_traffic_of_an_open_connection_is_counted() -> None:
    node = make_node()
    communicator = connect_to(Echo, node, route="ws/test/")
    await communicator.connect()
    await communicator.send_to(text_data="hello")
    await communicator.receive_output()
    open_totals = node.counters.get_totals(node.hub)
    route = node.counters.measure_routes(node.hub)["ws/test/"]
    assert (route.messages_in, route.bytes_out, route.open_connections) == (1, 5, 1)
    await communicator.disconnect()
    closed_totals = node.counters.get_totals(node.hub)
    for name in ("opened", "messages_in", "messages_out", "bytes_in", "bytes_out"):
        assert open_totals[name] == closed_totals[name]


async def test_invalid_messages_are_counted_by_kind() -> None:
    node = make_node()
    await open_and_close(node, consumer=JsonEcho, texts=["{", '{"type":"x"}', "[]"])
    totals = node.counters.get_totals(node.hub)
    kinds = {"invalid_json": 1, "unknown_type": 1, "invalid_message": 1}
    assert totals["errors"] == kinds


async def test_a_dropped_message_is_counted_as_rate_limited() -> None:
    node = make_node(rate_limit={"burst_messages": 1, "messages_per_second": 0.01})
    communicator = connect_to(JsonEcho, node)
    await communicator.connect()
    for _ in range(3):
        await communicator.send_json_to({"type": "echo"})
        await communicator.receive_output()
    await communicator.disconnect()
    assert node.counters.rate_limited == 2


async def test_a_refused_handshake_is_no_connection() -> None:
    node = make_node(max_total_connections=1, max_connections_per_client=1)
    first = connect_to(Echo, node)
    await first.connect()
    second = connect_to(Echo, node, client_id="bob", route="ws/test/")
    await second.connect()
    await second.wait()
    await first.disconnect()
    totals = node.counters.get_totals(node.hub)
    assert (totals["opened"], totals["refused"]) == (1, {"pool_full": 1})
    assert totals["ends"] == {"closed": 1}


async def test_a_consumer_that_denies_is_counted_as_denied() -> None:
    class Denying(Echo):
        async def connect(self) -> None:
            await self.close()

    node = make_node()
    assert not (await connect_to(Denying, node).connect())[0]
    assert node.counters.get_totals(node.hub)["refused"] == {"denied": 1}


async def test_a_consumer_that_does_not_return_is_stuck_after_a_minute() -> None:
    """The connection has ended, but its consumer runs on."""

    class Lingering(Echo):
        async def disconnect(self, code: int) -> None:
            await leave.wait()

    leave = asyncio.Event()
    clock = FakeClock()
    node = make_node(clock)
    communicator = connect_to(Lingering, node)
    await communicator.connect()
    await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
    await node.hub.emptied.wait()
    assert node.counters.count_stuck(clock()) == 0
    clock.advance(60)
    assert node.counters.count_stuck(clock()) == 1
    leave.set()
    await communicator.wait()
    assert (node.counters.count_stuck(clock()), node.counters.consumers) == (0, 0)


def test_routes_beyond_the_bound_share_a_label() -> None:
    counters = Counters()
    for number in range(500):
        counters.record_outcome(f"route {number}", "accepted")
    assert len(counters.routes) <= 101
    assert counters.routes[OTHER].outcomes["accepted"] >= 400


def test_labels_beyond_the_bound_share_one() -> None:
    tally = Tally()
    for number in range(500):
        tally.add(f"label {number}")
    assert len(tally) <= 61
    assert sum(tally.values()) == 500
    assert tally[OTHER] == 440


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0, 0), (0.5, 0), (0.51, 1), (86_400, 11), (1e6, 12)]
)
def test_an_edge_belongs_to_the_bucket_below_it(seconds: float, bucket: int) -> None:
    """As Prometheus reads it: `le` is less or equal."""
    histogram = Histogram(DURATION_EDGES)
    histogram.observe(seconds)
    assert histogram.counts[bucket] == 1


_NUMBERS = st.integers(0, 1000)
_DIFFERENCES = st.fixed_dictionaries(
    {
        "opened": _NUMBERS,
        "ends": st.dictionaries(st.sampled_from("abc"), _NUMBERS),
        "durations": st.lists(_NUMBERS, min_size=3, max_size=3),
    }
)


@given(_DIFFERENCES, _DIFFERENCES)
def test_earlier_totals_and_a_difference_give_the_later(
    before: Any, moved: Any
) -> None:
    after = add(before, moved)
    again = add(before, subtract(after, before))
    assert subtract(again, after) == subtract(after, again) == {}


# The meter


async def test_recent_counts_are_those_of_the_last_minute() -> None:
    metered = Metered()
    metered.counters.errors.add("internal", 30)
    await metered.pass_time(10)
    assert metered.meter.get_recent()["errors"] == 30
    assert metered.meter.get_recent()["seconds"] == 10
    await metered.pass_time(45)
    assert metered.meter.get_recent()["errors"] == 30
    await metered.pass_time(10)
    recent = metered.meter.get_recent()
    assert recent["errors"] == 0
    assert 59 <= recent["seconds"] <= 61


async def test_the_lag_is_the_worst_of_the_last_ten_seconds() -> None:
    metered = Metered()
    await metered.pass_time(5)
    assert metered.meter.lag_seconds == 0
    metered.clock.advance(1.5)
    await metered.pass_time(1)
    assert metered.meter.lag_seconds == 1.5
    await metered.pass_time(8)
    assert metered.meter.lag_seconds == 1.5
    await metered.pass_time(3)
    assert metered.meter.lag_seconds == 0


async def test_each_minute_holds_its_own_counts() -> None:
    metered = Metered()
    for minute in range(3):
        metered.counters.errors.add("internal", minute + 1)
        await metered.pass_time(60)
    assert metered.get_minutes() == {
        0: {"internal": 1},
        1: {"internal": 2},
        2: {"internal": 3},
    }
    assert json.loads(json.dumps(metered.meter.latest["unrolled"]))


async def test_a_minute_that_was_rolled_up_is_deleted() -> None:
    metered = Metered()
    await metered.pass_time(180)
    metered.meter.forget(int(NOON // 60) + 1)
    assert list(metered.get_minutes()) == [2]


async def test_a_clock_that_is_set_back_closes_no_minute_twice() -> None:
    metered = Metered()
    await metered.pass_time(60)
    metered.wall.advance(-150)
    metered.counters.errors.add("internal")
    await metered.pass_time(240)
    assert metered.get_minutes() == {0: {}, 1: {"internal": 1}}


async def test_minutes_without_a_sweeper_are_bounded_and_lose_nothing() -> None:
    metered = Metered()
    for _ in range(300):
        metered.counters.errors.add("internal")
        metered.wall.advance(60)
        metered.clock.advance(60)
        await metered.meter.tick()
    minutes = metered.meter.unrolled
    assert len(minutes) == 240
    assert sum(minute["errors"]["internal"] for minute in minutes) == 300
    assert minutes[-1]["minute"] - minutes[0]["minute"] == 239
    assert max(minute["max_open"] for minute in minutes) == 0


async def test_a_node_that_stops_closes_its_last_minute() -> None:
    metered = Metered()
    metered.counters.ends.add(KICKED.reason)
    metered.meter.finish()
    (minute,) = metered.meter.unrolled
    assert minute["ends"] == {"kicked": 1}
