"""Each minute becomes one row, however often and late it is rolled up."""

import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from connections.dashboard.statistics import read_statistics
from connections.metrics.counters import DURATION_EDGES
from connections.models import HourRollup, MinuteRollup, Node
from connections.sweeper.rollups import roll_up, roll_up_hours
from connections.testing.waiting import scale
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = 30_000_000


def make_minute(minute: int, **values: Any) -> dict[str, Any]:
    return {"minute": FIRST + minute, "open_connections": 5, "max_open": 7, **values}


def count_opened() -> dict[int, int]:
    rows = MinuteRollup.objects.values_list("minute", "opened")
    return {minute - FIRST: opened for minute, opened in rows}


def test_a_minute_becomes_a_row() -> None:
    make_node_row(
        unrolled=[
            make_minute(
                0,
                opened=3,
                ends={"evicted": 2, "idle": 1},
                errors={"internal": 4},
                refused={"pool_full": 6},
                handling=[1, 2, 0],
                handling_seconds=0.5,
                max_loop_lag_seconds=0.25,
            )
        ]
    )
    assert roll_up(500) == 1
    row = MinuteRollup.objects.get()
    assert row.at == datetime.fromtimestamp(FIRST * 60, UTC)
    assert (row.opened, row.ended, row.evicted) == (3, 3, 2)
    assert (row.errors, row.errors_by_kind) == (4, {"internal": 4})
    assert (row.refused, row.handled, row.handling_seconds) == (6, 3, 0.5)
    assert (row.open_connections, row.max_open) == (5, 7)
    assert (row.max_loop_lag_seconds, row.durations) == (0.25, [])
    assert Node.objects.get().rolled_minute == FIRST


def test_rolling_up_again_changes_nothing() -> None:
    make_node_row(unrolled=[make_minute(0, opened=3), make_minute(1, opened=4)])
    for _ in range(3):
        roll_up(1)
    assert count_opened() == {0: 3, 1: 4}


def test_a_live_nodes_minute_under_way_waits() -> None:
    make_node_row(minute=make_minute(0, opened=3))
    assert roll_up(500) == 0


@pytest.mark.parametrize("state", ["lost", "stopped"])
def test_the_last_counts_of_a_dead_node_are_kept(state: str) -> None:
    make_node_row(
        state=state,
        unrolled=[make_minute(0, opened=3)],
        minute=make_minute(1, opened=1),
    )
    assert roll_up(500) == 2
    assert count_opened() == {0: 3, 1: 1}
    assert roll_up(500) == 0


def test_a_node_that_comes_back_finishes_its_minute() -> None:
    make_node_row(state="lost", minute=make_minute(1, opened=1))
    roll_up(500)
    Node.objects.update(state="serving", unrolled=[make_minute(1, opened=9)])
    roll_up(500)
    assert count_opened() == {1: 9}


def test_a_node_that_comes_back_and_dies_in_the_same_minute_is_counted_whole() -> None:
    make_node_row(state="lost", minute=make_minute(1, opened=1))
    roll_up(500)
    Node.objects.update(state="lost", minute=make_minute(1, opened=3))
    roll_up(500)
    assert count_opened() == {1: 3}


def write_week() -> int:
    """Write minutes of two nodes over a week; return the last hour that ended."""
    hour = int(time.time() // 3600) - 1
    chosen = random.Random(7)
    MinuteRollup.objects.bulk_create(
        MinuteRollup(
            node_id=node_id,
            minute=(hour - back) * 60 + minute,
            open_connections=chosen.randrange(50),
            opened=chosen.randrange(9),
            ended=4,
            refused=3,
            errors=1,
            handled=4,
            handling=[3, 1],
            handling_seconds=chosen.random(),
            max_loop_lag_seconds=chosen.random(),
            ends_by_reason=chosen.choice(({"idle": 4}, {"idle": 1, "evicted": 3})),
            refused_by_outcome={"pool_full": 3},
            errors_by_kind={"internal": 1},
            durations=[chosen.randrange(3) for _ in range(len(DURATION_EDGES) + 1)],
        )
        for node_id in ("n1", "n2")
        for back in range(0, 166, 11)
        for minute in (0, 7, 59)
    )
    return hour


def roll_up_all_hours() -> None:
    while roll_up_hours():
        pass


def wait_out_the_end_of_an_hour() -> None:
    """
    Wait for the next hour if this one ends in a moment.

    The range of the statistics would be another at their second reading.
    """
    left_seconds = 3600 - time.time() % 3600
    if left_seconds < scale(3):
        time.sleep(left_seconds)


def test_seven_days_look_the_same_from_hours() -> None:
    wait_out_the_end_of_an_hour()
    hour = write_week()
    from_minutes = read_statistics("7d")
    roll_up_all_hours()
    MinuteRollup.objects.filter(minute__lt=(hour - 24) * 60).delete()
    from_hours = read_statistics("7d")
    assert from_hours == replace(from_minutes, handling_ms=from_hours.handling_ms)
    assert from_hours.handling_ms == pytest.approx(from_minutes.handling_ms)
    assert sum(from_hours.opened) > 0


def test_a_late_minute_is_added_to_its_hour() -> None:
    wait_out_the_end_of_an_hour()
    hour = write_week()
    roll_up_all_hours()
    before = sum(read_statistics("7d").opened)
    make_node_row(unrolled=[{**make_minute(0, opened=90), "minute": (hour - 1) * 60}])
    roll_up(500)
    assert not HourRollup.objects.filter(hour=hour - 1).exists()
    assert sum(read_statistics("7d").opened) == before + 90
    roll_up_all_hours()
    assert HourRollup.objects.get(hour=hour - 1).opened == 90
    assert sum(read_statistics("7d").opened) == before + 90


def test_the_oldest_hour_waits_for_its_late_minute() -> None:
    """Its minutes count while its row is missing."""
    wait_out_the_end_of_an_hour()
    write_week()
    roll_up_all_hours()
    before = read_statistics("7d")
    HourRollup.objects.order_by("hour")[0].delete()
    after = read_statistics("7d")
    assert (after.opened, after.reasons) == (before.opened, before.reasons)


def test_an_hour_under_way_waits() -> None:
    minute = int(time.time() // 60)
    MinuteRollup.objects.create(node_id="n1", minute=minute, opened=1)
    assert roll_up_hours() == 0


class Cluster(RuleBasedStateMachine):
    """Nodes count, die and come back, while sweepers run at any time."""

    @initialize()
    def begin(self) -> None:
        MinuteRollup.objects.all().delete()
        Node.objects.all().delete()
        self.minute = 0
        self.started = 0
        self.true: dict[tuple[str, int], int] = {}
        self.memory: dict[str, dict[str, Any]] = {}

    @rule()
    def start_node(self) -> None:
        self.started += 1
        node_id = f"n{self.started}"
        make_node_row(node_id)
        self.memory[node_id] = {"closed": {}, "now": 0}

    @precondition(lambda self: self.memory)
    @rule(data=st.data(), amount=st.integers(1, 9))
    def count(self, data: st.DataObject, amount: int) -> None:
        self._count(data.draw(st.sampled_from(sorted(self.memory))), amount)

    def _count(self, node_id: str, amount: int) -> None:
        self.memory[node_id]["now"] += amount
        key = (node_id, self.minute)
        self.true[key] = self.true.get(key, 0) + amount
        self._beat(node_id)

    @rule()
    def pass_minute(self) -> None:
        for memory in self.memory.values():
            memory["closed"][self.minute] = memory["now"]
            memory["now"] = 0
        self.minute += 1
        for node_id in self.memory:
            self._beat(node_id)

    @rule()
    def sweep(self) -> None:
        roll_up(2)

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def forget_rolled_minutes(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.memory)))
        rolled = Node.objects.get(node_id=node_id).rolled_minute - FIRST
        closed = self.memory[node_id]["closed"]
        self.memory[node_id]["closed"] = {k: v for k, v in closed.items() if k > rolled}

    @precondition(lambda self: self.memory)
    @rule(data=st.data(), amount=st.integers(0, 9))
    def mark_a_live_node_as_lost(self, data: st.DataObject, amount: int) -> None:
        """The node may continue a minute that was rolled up already."""
        node_id = data.draw(st.sampled_from(sorted(self.memory)))
        Node.objects.filter(node_id=node_id).update(state="lost")
        if amount:
            roll_up(2)
            self._count(node_id, amount)

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.memory)))
        del self.memory[node_id]
        Node.objects.filter(node_id=node_id).update(state="lost")

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        for row in MinuteRollup.objects.all():
            true = self.true.get((row.node_id, row.minute - FIRST), 0)
            assert row.opened <= true

    def teardown(self) -> None:
        for node_id in self.memory:
            self._beat(node_id)
        self.pass_minute()
        roll_up(500)
        rows = MinuteRollup.objects.exclude(opened=0)
        found = {(row.node_id, row.minute - FIRST): row.opened for row in rows}
        assert found == self.true

    def _beat(self, node_id: str) -> None:
        memory = self.memory[node_id]
        Node.objects.filter(node_id=node_id).update(
            state="serving",
            unrolled=[make_minute(k, opened=v) for k, v in memory["closed"].items()],
            minute=make_minute(self.minute, opened=memory["now"]),
        )


def test_every_event_is_counted_exactly_once() -> None:
    examples = settings(max_examples=30, stateful_step_count=25)
    run_state_machine_as_test(Cluster, settings=examples)


# Series


def make_rollup(minute: int, node_id: str = "n1", **values: Any) -> None:
    MinuteRollup.objects.create(node_id=node_id, minute=FIRST + minute, **values)


def test_a_series_sums_nodes_and_takes_the_maximum_of_a_step() -> None:
    for minute, open_now in enumerate([5, 9, 4, 2]):
        for node_id in ("n1", "n2"):
            make_rollup(
                minute, node_id, open_connections=open_now, opened=1, messages_in=10
            )
    first, second = MinuteRollup.objects.all().series(2)
    assert first["minute"] == FIRST
    assert (first["opened"], first["messages_in"]) == (4, 40)
    assert (first["open_connections"], second["open_connections"]) == (18, 8)


def test_a_series_covers_the_requested_period() -> None:
    for minute in range(5):
        make_rollup(minute, opened=1)
    start = datetime.fromtimestamp((FIRST + 1) * 60, UTC)
    end = datetime.fromtimestamp((FIRST + 3) * 60, UTC)
    points = MinuteRollup.objects.between(start, end).series(1)
    assert [point["minute"] - FIRST for point in points] == [1, 2]


def test_labels_and_buckets_are_summed() -> None:
    make_rollup(0, ends_by_reason={"idle": 2}, durations=[1, 0, 3])
    make_rollup(1, ends_by_reason={"idle": 1, "kicked": 1}, durations=[0, 2, 1])
    make_rollup(2)
    rows = MinuteRollup.objects.all()
    assert rows.series_by_label("ends_by_reason", 2) == {
        FIRST: {"idle": 3, "kicked": 1}
    }
    assert rows.sum_buckets("durations") == [1, 2, 4]
    assert rows.sum_buckets("acks") == []
