"""Named queries, on the database that the tests use."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models.functions import Now
from django.forms import model_to_dict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import AccessToken, CloseRequest, Connection, Node, Sweep
from connections.models.at_once import read_at_once
from connections.models.credentials import digest_token
from connections.models.sweep import delete_some
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, 12, tzinfo=timezone.get_default_timezone())


def make_node(node_id: str, state: str = "serving", **values: Any) -> Node:
    values = {"beat_at": START, "started_at": START, **values}
    return make_node_row(node_id, state=state, **values)


def make_row(connection_id: str, node_id: str = "n1", **values: Any) -> Connection:
    values = {"opened_at": START, "last_activity_at": START, **values}
    return make_connection_row(connection_id, node_id=node_id, **values)


def ids(rows: Any) -> list[str]:
    return sorted(row.pk for row in rows)


@pytest.fixture
def nodes() -> None:
    """Create one node in each state."""
    for state in Node.State.values:
        make_node(state, state, stopped_at=None if state == "serving" else START)


@pytest.mark.usefixtures("nodes")
def test_a_node_lives_until_it_stops_or_is_lost() -> None:
    assert ids(Node.objects.live()) == ["draining", "serving"]


@pytest.mark.usefixtures("nodes")
def test_only_a_live_node_can_be_silent() -> None:
    assert ids(Node.objects.silent_since(START)) == []
    later = START + timedelta(microseconds=1)
    assert ids(Node.objects.silent_since(later)) == ["draining", "serving"]
    long_ago = Now() - timedelta(days=36_500)
    assert ids(Node.objects.silent_since(long_ago)) == []


@pytest.mark.usefixtures("nodes")
def test_a_node_ended_before_a_moment_is_found() -> None:
    assert ids(Node.objects.gone().filter(stopped_at__lt=START)) == []
    later = START + timedelta(seconds=1)
    assert ids(Node.objects.gone().filter(stopped_at__lt=later)) == ["lost", "stopped"]


@pytest.mark.usefixtures("nodes")
def test_a_beat_advances_the_counter_of_the_selected_nodes() -> None:
    one = Node.objects.filter(node_id="serving")
    assert [one.beat(open_connections=7, state="draining") for _ in range(3)] == [
        1,
        1,
        1,
    ]
    node = one.get()
    assert (node.beat, node.open_connections, node.state) == (3, 7, "draining")
    assert abs(timezone.now() - node.beat_at) < timedelta(minutes=1)
    assert Node.objects.filter(beat=0).count() == 3
    assert (
        Node.objects.filter(node_id="none").beat(open_connections=0, state="serving")
        == 0
    )


def test_a_node_is_marked_lost_once() -> None:
    node = make_node("n1")
    assert Node.objects.mark_lost(node)
    assert not Node.objects.mark_lost(node)
    node.refresh_from_db()
    assert node.state == "lost"
    assert node.stopped_at is not None


@pytest.mark.parametrize(
    "change",
    [{"beat": 1}, {"generation": 2}, {"state": "stopped"}],
    ids=lambda change: next(iter(change)),
)
def test_a_node_that_has_beaten_since_it_was_read_is_not_lost(
    change: dict[str, object],
) -> None:
    node = make_node("n1")
    Node.objects.update(**change)
    assert not Node.objects.mark_lost(node)
    assert not Node.objects.filter(state="lost").exists()


@pytest.mark.usefixtures("nodes")
def test_an_idle_connection_is_open_and_was_silent_to_the_moment() -> None:
    make_row("idle", "serving")
    make_row("active", "serving", last_activity_at=START + timedelta(seconds=1))
    make_row("closed", "serving", closed_at=START)
    assert ids(Connection.objects.open()) == ["active", "idle"]
    assert ids(Connection.objects.idle_since(START)) == ["idle"]
    assert ids(Connection.objects.idle_since(START - timedelta(seconds=1))) == []


@pytest.mark.usefixtures("nodes")
def test_open_connections_of_dead_nodes_are_lost_at_the_last_beat() -> None:
    for state in Node.State.values:
        make_row(f"of-{state}", state)
    make_row("closed", "lost", closed_at=START, close_code=4300, reason="idle")
    beat_at = START + timedelta(seconds=9)
    Node.objects.filter(node_id="lost").update(beat_at=beat_at)
    assert len(Connection.objects.mark_lost(batch_size=10)) == 2
    lost = Connection.objects.filter(reason="lost", close_code=1006)
    assert {row.pk: row.closed_at for row in lost} == {
        "of-lost": beat_at,
        "of-stopped": START,
    }
    assert ids(Connection.objects.open()) == ["of-draining", "of-serving"]
    assert Connection.objects.get(pk="closed").reason == "idle"


def test_a_connection_of_a_pruned_node_is_lost() -> None:
    """It ends at its last activity, the last known moment."""
    seen_at = START + timedelta(seconds=5)
    make_row("c1", "forgotten", last_activity_at=seen_at)
    assert Connection.objects.mark_lost(batch_size=10) == ["c1"]
    row = Connection.objects.get()
    assert (row.reason, row.closed_at) == ("lost", seen_at)


@pytest.mark.usefixtures("nodes")
def test_lost_connections_are_marked_in_batches() -> None:
    for number in range(5):
        make_row(f"c{number}", "lost")
    counts = [len(Connection.objects.mark_lost(batch_size=2)) for _ in range(4)]
    assert counts == [2, 2, 1, 0]


@pytest.mark.parametrize("token", ["other", "", "TOKEN", "token\x00", "\ud800"])
def test_a_token_is_found_by_its_hash_alone(token: str) -> None:
    """A token that cannot be encoded is unknown, and no error."""
    made = AccessToken.objects.create(digest=digest_token("token"), client_id="alice")
    found = AccessToken.objects.find_all(["token", made.digest, token])
    assert found == {made.digest: made}


def test_rows_that_are_read_at_once_are_those_of_the_query() -> None:
    owner = get_user_model().objects.create_user("owner")
    ends_at = timezone.now() + timedelta(hours=1)
    for number, user in enumerate((None, owner)):
        AccessToken.objects.create(
            digest=str(number),
            client_id="alicé \"'\x01",
            user=user,
            scopes=["/ws/a/", "api:read"][:number],
            expires_at=ends_at if number else None,
        )
    rows = AccessToken.objects.filter(digest__in=["0", "1", "2"]).order_by("digest")
    with CaptureQueriesContext(connection) as queries:
        found = read_at_once(rows)
    (query,) = queries
    is_one_value = "json_group_array" in query["sql"]
    assert is_one_value is (connection.vendor == "sqlite")
    assert [model_to_dict(one) for one in found] == [model_to_dict(one) for one in rows]
    assert [one.created_at for one in found] == [one.created_at for one in rows]
    found[1].save()  # As a row that is there.
    assert read_at_once(rows.filter(client_id="nobody")) == []
    assert read_at_once(rows.filter(client_id__in=[])) == []


def test_tokens_and_their_users_are_two_queries() -> None:
    owner = get_user_model().objects.create_user("owner")
    for number in range(9):
        digest = digest_token(str(number))
        AccessToken.objects.create(digest=digest, client_id="c", user=owner)
    with CaptureQueriesContext(connection) as queries:
        found = AccessToken.objects.find_all(map(str, range(9)))
        assert {row.user for row in found.values()} == {owner}
    assert len(queries) == 2
    is_one_value = "json_group_array" in queries[0]["sql"]
    assert is_one_value is (connection.vendor == "sqlite")


def test_close_requests_are_recent_by_the_databases_clock() -> None:
    requests = [
        CloseRequest(target="client", value=str(number), reason="kicked")
        for number in range(450)
    ]
    CloseRequest.objects.post(requests)
    recent = CloseRequest.objects.recent()
    assert recent.count() == 450
    old = recent.filter(value__in=["1", "2"])
    old.update(created_at=Now() - timedelta(seconds=61))
    assert CloseRequest.objects.recent().count() == 448
    assert CloseRequest.objects.recent(seconds=120).count() == 450


def test_one_sweeper_has_the_lead() -> None:
    take = Sweep.objects.take
    assert take("all", "one", 15)
    assert take("all", "one", 15)
    assert not take("all", "other", 15)
    assert take("another", "other", 15)


def test_a_silent_sweeper_loses_the_lead() -> None:
    assert Sweep.objects.take("all", "one", 15)
    Sweep.objects.update(held_at=Now() - timedelta(seconds=16))
    assert not Sweep.objects.take("all", "other", 60)
    assert Sweep.objects.take("all", "other", 15)
    assert not Sweep.objects.take("all", "one", 15)


def test_a_sweeper_gives_up_its_own_lead_only() -> None:
    assert Sweep.objects.take("all", "one", 15)
    Sweep.objects.give_up("all", "other")
    assert not Sweep.objects.take("all", "other", 15)
    Sweep.objects.give_up("all", "one")
    assert Sweep.objects.take("all", "other", 15)


@pytest.mark.usefixtures("nodes")
def test_the_selected_rows_are_deleted_in_batches() -> None:
    for number in range(5):
        make_row(f"c{number}", closed_at=START)
    make_row("open")
    old = Connection.objects.filter(closed_at__isnull=False)
    assert [delete_some(old, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert ids(Connection.objects.all()) == ["open"]
    assert Node.objects.count() == 4
