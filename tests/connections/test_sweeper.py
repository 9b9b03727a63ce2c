"""The sweeper finds dead nodes by its own observation, and spares live ones."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from connections.metrics.counters import Counters
from connections.models import (
    Alert,
    Ban,
    CloseRequest,
    Connection,
    ErrorEvent,
    MinuteRollup,
    Node,
    NodeCommand,
    RefusedHandshake,
    Sweep,
)
from connections.sweeper.background import run_sweeper
from connections.sweeper.results import AllNodesSilent, Swept
from connections.sweeper.sweeper import PART_SECONDS, Sweeper
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from tests.connections.rows import make_connection_row, make_node_row
from tests.logged import find_records

pytestmark = pytest.mark.django_db(transaction=True)


def make_row(node: Node, connection_id: str, **values: Any) -> Connection:
    return make_connection_row(connection_id, node_id=node.node_id, **values)


def make_sweeper(clock: FakeClock | None = None, **options: Any) -> Sweeper:
    return Sweeper(make_config(), clock=clock or FakeClock(), **options)


def test_a_node_that_stands_still_is_lost_with_its_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node_row("dead")
    make_row(node, "c1")
    clock = FakeClock()
    sweeper = make_sweeper(clock)
    assert sweeper.sweep().nodes_lost == 0
    clock.advance(15)
    swept = sweeper.sweep()
    assert (swept.nodes_lost, swept.connections_lost) == (1, 1)
    row = Connection.objects.get()
    assert (row.reason, row.close_code) == ("lost", 1006)
    node = Node.objects.get()
    assert row.closed_at == node.beat_at
    said = find_records(caplog, "connections.sweeper.sweeper")
    assert [one.getMessage() for one in said[:2]] == [
        f"Node {node.host}:{node.pid} ({node.node_id[:8]}) is dead: recorded as lost",
        "1 connection of dead nodes recorded as lost",
    ]


def test_a_node_that_beats_is_never_lost() -> None:
    make_node_row("live")
    clock = FakeClock()
    sweeper = make_sweeper(clock)
    for _ in range(10):
        sweeper.sweep()
        clock.advance(14)
        Node.objects.live().beat(open_connections=0, state="serving")
    assert Node.objects.get().state == "serving"


def test_an_outage_of_the_database_is_no_silence_of_the_nodes() -> None:
    make_node_row("live")
    clock = FakeClock()
    sweeper = make_sweeper(clock)
    sweeper.sweep()
    clock.advance(60)
    sweeper.forget()
    assert sweeper.sweep().nodes_lost == 0


class StandingStill:
    """Holds one of the queries to come up for a minute, on the clock of the test."""

    def __init__(self, clock: FakeClock, number: int) -> None:
        self._clock = clock
        self.number = number

    def __call__(self, execute: Any, *args: Any) -> Any:
        if self.number == 0:
            self._clock.advance(60)
        self.number -= 1
        return execute(*args)


@pytest.mark.parametrize("number", range(10))
def test_an_outage_of_the_database_is_not_counted_as_silence(number: int) -> None:
    """Calls succeed in the end, but nodes could not beat in the meantime."""
    make_node_row("live")
    clock = FakeClock()
    sweeper = make_sweeper(clock)
    sweeper.sweep()
    outage = StandingStill(clock, number)
    with connection.execute_wrapper(outage):
        assert sweeper.sweep().nodes_lost == 0
    assert outage.number < 0
    clock.advance(14)
    assert sweeper.sweep().nodes_lost == 0
    clock.advance(1)
    assert sweeper.sweep().nodes_lost == 1


def test_a_sweeper_that_stood_still_begins_to_observe_anew() -> None:
    make_node_row("live")
    clock = FakeClock()
    sweeper = make_sweeper(clock)
    swept: list[Swept] = []

    class Stalls(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.advance(60)
            if len(swept) == 2:
                self.set()
            return True

    run_sweeper(sweeper, 10, Stalls(), swept.append)
    assert [one.nodes_lost for one in swept] == [0, 0]


def test_a_sweep_that_fails_is_logged_counted_and_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("connection refused")

    class EndsAfterTwo(threading.Event):
        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            if self.waits == 2:
                self.set()
            return True

    failed_before = Counters().get_failures().get("The sweep", 0)
    with connection.execute_wrapper(fail):
        run_sweeper(make_sweeper(), 10, EndsAfterTwo())
    failed = [
        one for one in caplog.records if getattr(one, "event", "") == "sweep_failed"
    ]
    # The second one is in the count of its place.
    assert [one.exc_info is not None for one in failed] == [True]
    assert Counters().get_failures()["The sweep"] == failed_before + 2


def test_a_sweeper_that_takes_the_lead_begins_to_observe_anew() -> None:
    make_node_row("live")
    clock = FakeClock()
    first, second = make_sweeper(clock), make_sweeper(clock)
    second.sweep()
    second.give_up()
    first.sweep()
    assert not second.sweep().is_leader
    first.give_up()
    clock.advance(60)
    assert second.sweep().nodes_lost == 0


def test_a_node_that_beats_at_the_last_moment_is_spared() -> None:
    node = make_node_row("live")
    Node.objects.live().beat(open_connections=0, state="serving")
    assert Node.objects.mark_lost(node) is False
    assert Node.objects.get().state == "serving"


def test_once_refuses_when_every_node_looks_dead() -> None:
    for name in ("a", "b"):
        make_node_row(name, beat_at=timezone.now() - timedelta(minutes=5))
    with pytest.raises(AllNodesSilent, match="--force"):
        make_sweeper().sweep_once()
    assert make_sweeper().sweep_once(is_forced=True).nodes_lost == 2


def test_once_finds_the_dead_among_the_living() -> None:
    make_node_row("live")
    dead = make_node_row("dead", beat_at=timezone.now() - timedelta(minutes=5))
    make_row(dead, "c1")
    swept = make_sweeper().sweep_once()
    assert (swept.nodes_lost, swept.connections_lost) == (1, 1)
    assert Node.objects.get(node_id="live").state == "serving"


def test_idle_connections_are_asked_to_end_once() -> None:
    node = make_node_row("live")
    long_ago = timezone.now() - timedelta(seconds=400)
    make_row(node, "idle", last_activity_at=long_ago)
    make_row(node, "active")
    sweeper = make_sweeper()
    assert sweeper.sweep().idle_requested == 1
    request = CloseRequest.objects.get()
    assert (request.value, request.reason) == ("idle", "idle")
    assert request.idle_seconds == 300
    assert sweeper.sweep().idle_requested == 0


@pytest.mark.parametrize(
    ("enforce", "expected"),
    [
        ({"idle": "observe"}, set()),
        ({"routes": {"a/": {"idle": "observe"}}}, {"b"}),
        ({"idle": "observe", "routes": {"a/": {"idle": "enforce"}}}, {"a"}),
    ],
)
def test_observed_idle_connections_are_not_asked_to_end(
    enforce: Any, expected: set[str]
) -> None:
    node = make_node_row()
    long_ago = timezone.now() - timedelta(hours=1)
    for name in ("a", "b"):
        make_row(node, name, last_activity_at=long_ago, route=f"{name}/")
    Sweeper(make_config(enforce=enforce), clock=FakeClock()).sweep()
    values = CloseRequest.objects.values_list("value", flat=True)
    assert set(values) == expected


def test_idle_sooner_than_configured() -> None:
    node = make_node_row("live")
    make_row(node, "c1", last_activity_at=timezone.now() - timedelta(seconds=20))
    assert make_sweeper(idle_seconds=10).sweep().idle_requested == 1


@pytest.mark.parametrize(("sooner", "expected"), [({}, 0), ({"idle_seconds": 10}, 2)])
def test_a_timeout_of_its_own_is_left_to_the_node_unless_staff_ask_sooner(
    sooner: dict[str, Any], expected: int
) -> None:
    node = make_node_row("live")
    long_ago = timezone.now() - timedelta(seconds=400)
    make_row(node, "patient", last_activity_at=long_ago, idle_timeout_seconds=600)
    make_row(node, "endless", last_activity_at=long_ago, idle_timeout_seconds=0)
    assert make_sweeper(**sooner).sweep().idle_requested == expected


def test_old_rows_are_pruned_in_batches_and_open_ones_kept() -> None:
    node = make_node_row("live")
    old = timezone.now() - timedelta(days=31)
    for number in range(7):
        make_row(node, f"old{number}", closed_at=old)
    make_row(node, "open", opened_at=old)
    ErrorEvent.objects.create(
        error_id="e", node=node, at=old, exception_class="E", where="w"
    )
    CloseRequest.objects.create(target="all", reason="kicked", created_at=old)
    make_node_row("gone", state="stopped", stopped_at=old)
    done: list[tuple[str, int, int]] = []
    swept = make_sweeper(
        batch_size=3,
        on_batch=lambda part, count, left: done.append((part, count, left())),
    ).sweep()
    assert (swept.connections_pruned, swept.errors_pruned) == (7, 1)
    assert (swept.close_requests_pruned, swept.nodes_pruned) == (1, 1)
    assert [row.pk for row in Connection.objects.all()] == ["open"]
    part = "The deletion of old connections"
    assert [one for one in done if one[0] == part] == [
        (part, 3, 4),
        (part, 6, 1),
        (part, 7, 0),
    ]


def test_an_alert_does_not_wait_for_a_long_deletion() -> None:
    clock = FakeClock()

    def delete_slowly(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("DELETE"):
            clock.advance(PART_SECONDS)
        return execute(sql, *args)

    node = make_node_row("lost", state="lost", stopped_at=timezone.now())
    for number in range(5):
        at = timezone.now() - timedelta(days=31)
        make_row(node, f"old{number}", closed_at=at)
    sweeper = make_sweeper(clock, batch_size=2)
    with connection.execute_wrapper(delete_slowly):
        assert sweeper.sweep().connections_pruned == 2
    assert Alert.objects.get(rule="dead_node").state == "firing"
    assert sweeper.sweep_once().connections_pruned == 3


def test_bans_are_pruned_after_their_end_and_commands_by_age() -> None:
    old, recent = (timezone.now() - timedelta(days=days) for days in (31, 29))
    for value, until in (("a", old), ("b", recent), ("c", None)):
        Ban.objects.create(target="client", value=value, until=until)
    Ban.objects.update(created_at=old - timedelta(days=31))
    NodeCommand.objects.create(kind="notice", target="all", created_at=old)
    NodeCommand.objects.create(kind="drain", target="node", created_at=recent)
    for moment in (old, recent):
        RefusedHandshake.objects.create(at=moment, client_id="a", reason="pool_full")
    dry = make_sweeper(is_dry=True).sweep()
    swept = make_sweeper().sweep()
    assert (dry.refusals_pruned, swept.refusals_pruned) == (1, 1)
    assert RefusedHandshake.objects.get().at == recent
    assert (dry.bans_pruned, dry.orders_pruned) == (1, 1)
    assert (swept.bans_pruned, swept.orders_pruned) == (1, 1)
    assert set(Ban.objects.values_list("value", flat=True)) == {"b", "c"}
    assert NodeCommand.objects.get().kind == "drain"


def test_what_nodes_and_alerts_have_to_read_outlives_a_retention_of_nothing() -> None:
    moment = timezone.now() - timedelta(seconds=5)
    lost = make_node_row("lost", state="lost", stopped_at=moment)
    make_row(lost, "closed", closed_at=moment)
    NodeCommand.objects.create(kind="notice", target="all", created_at=moment)
    minute = int(moment.timestamp() // 60) - 5
    MinuteRollup.objects.create(node=lost, minute=minute, open_connections=7)
    config = make_config(retention={"closed_connections_days": 0, "rollups_days": 0})
    for _ in range(2):
        Sweeper(config).sweep_once()
        assert not Connection.objects.exists()
        assert NodeCommand.objects.exists()
        assert MinuteRollup.objects.exists()
        assert Alert.objects.get(rule="dead_node").state == "firing"
    Node.objects.update(stopped_at=moment - timedelta(hours=2))
    MinuteRollup.objects.update(minute=minute - 120)
    NodeCommand.objects.update(created_at=moment - timedelta(days=1))
    swept = Sweeper(config).sweep_once()
    pruned = (swept.nodes_pruned, swept.rollups_pruned, swept.orders_pruned)
    assert pruned == (1, 1, 1)


def test_a_dry_run_changes_nothing() -> None:
    dead = make_node_row("dead", beat_at=timezone.now() - timedelta(minutes=5))
    make_row(dead, "c1")
    make_row(dead, "old", closed_at=timezone.now() - timedelta(days=31))
    swept = make_sweeper(is_dry=True).sweep_once()
    assert (swept.nodes_lost, swept.connections_lost) == (1, 1)
    assert swept.connections_pruned == 1
    assert Connection.objects.open().count() == 1
    assert Node.objects.get().state == "serving"


def test_one_sweeper_works_at_a_time() -> None:
    first, second = make_sweeper(), make_sweeper()
    assert first.sweep().is_leader
    assert not second.sweep().is_leader
    first.give_up()
    assert second.sweep().is_leader


def test_the_work_of_a_vanished_sweeper_is_taken_over() -> None:
    first, second = make_sweeper(), make_sweeper()
    first.sweep()
    Sweep.objects.update(held_at=Now() - timedelta(seconds=16))
    assert second.sweep().is_leader


def test_a_database_that_is_away_does_not_hinder_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("connection refused")

    stopping = threading.Event()
    stopping.set()
    with connection.execute_wrapper(fail):
        run_sweeper(make_sweeper(), 10, stopping)
    (record,) = find_records(caplog, "connections.sweeper.background")
    assert record.getMessage().endswith("waits for its end: connection refused")
