"""Test snapshots of all nodes, and selections."""

import json
import zlib
from datetime import timedelta

import pytest
from django.utils import timezone

from connections.dashboard.cache import Snapshots
from connections.dashboard.filters import Selection
from connections.dashboard.snapshot import Snapshot, make_key, take_snapshot
from connections.models import NodePicture
from connections.node.live_state import request_samples
from connections.testing import FakeClock
from tests.connections.live_states import make_row, make_state, store_states
from tests.connections.rows import make_node_row


@pytest.mark.django_db
def test_a_snapshot_holds_the_sample_of_a_node() -> None:
    node = make_node_row()
    make_row(node)
    seen = make_state("bob", state="slow")
    store_states(node, seen)
    snapshot = take_snapshot(1)
    assert list(snapshot) == [seen]
    assert snapshot.recorded_nodes == frozenset()


@pytest.mark.django_db
def test_without_a_sample_the_recorded_rows_are_shown() -> None:
    """Nodes have no samples before the first viewer, and after a restart."""
    node = make_node_row()
    row = make_row(node, last_activity_at=timezone.now() - timedelta(seconds=250))
    make_row(node, closed_at=timezone.now())
    (seen,) = snapshot = take_snapshot(1)
    assert (seen.connection_id, seen.state) == (row.connection_id, "near_idle")
    assert snapshot.recorded_nodes == {"n1"}


@pytest.mark.django_db
def test_the_rows_of_a_node_of_another_version_are_shown() -> None:
    """During a rolling upgrade such a node would seem empty, and drained."""
    node = make_node_row()
    row = make_row(node)
    store_states(node)
    columns = [["connection_id", "news"], [[row.connection_id], ["?"]]]
    sample = zlib.compress(json.dumps(columns).encode())
    NodePicture.objects.filter(node=node).put(sample)
    (seen,) = snapshot = take_snapshot(1)
    assert seen.connection_id == row.connection_id
    assert snapshot.recorded_nodes == {"n1"}


@pytest.mark.django_db
def test_a_stale_sample_is_ignored() -> None:
    node = make_node_row(beat_at=timezone.now() + timedelta(seconds=60))
    store_states(node, make_state())
    assert take_snapshot(1).open_count == 0


@pytest.mark.django_db
def test_recently_stopped_nodes_follow_live_ones() -> None:
    now = timezone.now()
    make_node_row("lost", state="lost", stopped_at=now - timedelta(minutes=5))
    make_node_row("old", state="stopped", stopped_at=now - timedelta(hours=1))
    make_node_row("live")
    snapshot = take_snapshot(1)
    assert [node.node_id for node in snapshot.nodes] == ["live", "lost"]
    assert set(snapshot.seen) == {"live"}


@pytest.mark.django_db
def test_an_open_connection_is_found_by_its_key_and_by_its_id() -> None:
    node = make_node_row()
    seen = make_state()
    store_states(node, seen)
    snapshot = take_snapshot(1)
    assert snapshot.find(make_key(seen.connection_id)) == ("n1", seen)
    assert snapshot.find(seen.connection_id) == ("n1", seen)
    assert snapshot.find("0" * 22 + seen.connection_id[-10:]) is None
    assert snapshot.find("unknown") is None


@pytest.mark.django_db
def test_only_live_nodes_are_sampled() -> None:
    gone = make_node_row("gone", state="stopped")
    store_states(gone)
    make_node_row("live")
    request_samples()
    assert list(NodePicture.objects.values_list("node_id", flat=True)) == ["live"]


def test_calls_within_a_second_share_a_snapshot() -> None:
    clock = FakeClock()
    wanted: list[float] = []

    def take(number: int) -> Snapshot:
        return Snapshot(
            number=number,
            taken_at=timezone.now(),
            nodes=(),
            seen={},
            recorded_nodes=frozenset(),
        )

    snapshots = Snapshots(take, lambda: wanted.append(clock()), clock=clock)
    first = snapshots.get()
    clock.advance(0.9)
    assert snapshots.get() is first
    clock.advance(0.2)
    assert snapshots.get().number == 2
    assert wanted == [1000]
    clock.advance(5)
    snapshots.get()
    assert len(wanted) == 2


def test_a_selection_is_parsed_from_a_url() -> None:
    selection = Selection.parse(
        {"range": "24h", "by": "route", "node": "n1", "route": "ws/", "width": "1013"}
    )
    assert (selection.range, selection.by, selection.width) == ("24h", "route", 1000)
    assert (selection.node, selection.route) == ("n1", "ws/")
    assert selection.problems == ()
    assert selection.query(range="7d") == "range=7d&by=route&node=n1&route=ws%2F"


def test_a_selection_names_unknown_values() -> None:
    selection = Selection.parse({"range": "9y", "by": "x", "width": "wide"})
    assert selection.range == "1h"
    assert selection.problems == (
        "range=9y is not one of 15m, 1h, 6h, 24h, 7d",
        "by=x is not one of node, route",
        "width=wide is not a number of pixels",
    )
