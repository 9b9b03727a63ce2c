"""Test the list of recorded connections with their live state."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.paginator import Paginator
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.actions.registry import MOST_VALUES
from connections.dashboard.bounded_lists import MOST_COUNTED, BoundedPaginator
from connections.dashboard.cache import SnapshotCache
from connections.dashboard.listing import ConnectionList
from connections.models import Connection, ErrorEvent, Node
from connections.units import show_moment
from tests.connections.dashboard_pages import make_staff
from tests.connections.live_states import make_row, make_state, store_states
from tests.connections.rows import make_connection_row, make_node_row

URL = "/admin/connections/connection/"


@pytest.fixture(autouse=True)
def own_snapshots() -> Any:
    before, ConnectionList.shared = ConnectionList.shared, SnapshotCache()
    yield
    ConnectionList.shared = before


@pytest.fixture
def node(db: None) -> Node:
    return make_node_row(host="web-1", pid=77)


@pytest.fixture
def rows(node: Node) -> dict[str, Connection]:
    """A slow connection, one that is only recorded, and an ended one."""
    ended = timezone.now()
    live = make_row(node, client_id="alice-live", address="192.0.2.7")
    seen = make_state(
        "alice-live",
        connection_id=live.pk,
        state="slow",
        rtt_ms=12.5,
        unsent_bytes=2_000_000,
        address="192.0.2.7",
    )
    found = {
        "live": live,
        "recorded": make_row(node, client_id="bob-recorded"),
        "ended": make_row(
            node,
            client_id="carol-ended",
            opened_at=ended - timedelta(seconds=90),
            closed_at=ended,
            close_code=4300,
            reason="idle",
        ),
    }
    store_states(node, seen)
    return found


def find(client: Client, **query: str) -> str:
    answer = client.get(URL, query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_open_connections_are_listed_with_live_state(
    admin_client: Client, rows: dict[str, Connection]
) -> None:
    page = find(admin_client)
    assert "alice-live" in page and "bob-recorded" in page
    assert "carol-ended" not in page
    assert ">slow</span>" in page and "12.5 ms" in page and "2 MB" in page
    assert "open, as recorded" in page


def test_filters_by_state(admin_client: Client, rows: dict[str, Connection]) -> None:
    assert "4300 idle" in find(admin_client, state="closed")
    slow = find(admin_client, state="slow")
    assert "alice-live" in slow and "bob-recorded" not in slow
    assert "carol-ended" in find(admin_client, state="all")
    assert "carol-ended" in find(admin_client, reason="idle")
    assert "carol-ended" not in find(admin_client, reason="kicked")


def test_a_state_is_filtered_by_node_before_the_rows_are_bounded(
    admin_client: Client, node: Node
) -> None:
    store_states(node, *(make_state(state="slow") for _ in range(501)))
    other = make_node_row("n2")
    row = make_row(other, client_id="zoe")
    seen = make_state("zoe", connection_id=row.pk, state="slow")
    store_states(other, seen)
    page = find(admin_client, state="slow", node="n2")
    assert ">zoe</a>" in page and "are listed" not in page
    note = "Only 500 of 502 connections in this state are listed."
    assert note in find(admin_client, state="slow")


def test_a_node_that_is_gone_is_a_filter(admin_client: Client, node: Node) -> None:
    make_row(node, client_id="alice")
    make_connection_row("c1", node_id="gone", client_id="bob")
    Node.objects.update(state="stopped")
    page = find(admin_client, node="gone")
    assert ">bob</a>" in page and ">alice</a>" not in page


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("bob-recorded", "bob-recorded"),
        ("ice-li", "alice-live"),
        ("192.0.2", "alice-live"),
    ],
)
def test_search_finds_full_names_and_parts_of_live_ones(
    admin_client: Client, rows: dict[str, Connection], term: str, expected: str
) -> None:
    page = find(admin_client, q=term)
    assert f">{expected}</a>" in page
    assert page.count('data-live="state"') == 1
    by_id = find(admin_client, q=rows["recorded"].pk)
    assert ">bob-recorded</a>" in by_id


def make_error(row: Connection, ref: str) -> None:
    ErrorEvent.objects.create(
        error_id=ref,
        connection=row,
        node_id="n1",
        at=timezone.now(),
        exception_class="builtins.KeyError",
        where="chat.py:7",
    )


def test_the_place_of_an_error_needs_the_right_to_view_errors(
    client: Client, rows: dict[str, Connection]
) -> None:
    ref = "e" * 16
    make_error(rows["ended"], ref)
    client.force_login(make_staff("viewer", "view_connection"))
    page = find(client, q=ref)
    assert ">carol-ended</a>" in page and "chat.py" not in page
    client.force_login(make_staff("both", "view_connection", "view_errorevent"))
    assert "an error in chat.py:7" in find(client, q=ref)


@pytest.mark.parametrize("query", [{}, {"state": "slow"}, {"node": "x"}])
def test_a_search_finds_closed_connections_and_refs_whatever_the_filter(
    admin_client: Client, rows: dict[str, Connection], query: dict[str, str]
) -> None:
    ended = rows["ended"]
    ref = "e" * 16
    make_error(ended, ref)
    for term in ("carol-ended", ended.pk, ref):
        page = find(admin_client, q=term, **query)
        assert ">carol-ended</a>" in page and "alice-live" not in page
        assert "open and closed" in page
        assert ("an error in chat.py:7" in page) == (term == ref)
    assert "0 connections" in find(admin_client, q="f" * 32)


def test_closed_connections_are_listed_with_their_end(
    admin_client: Client, rows: dict[str, Connection], node: Node
) -> None:
    """The last to end comes first, in the time format of all pages."""
    before = timezone.now() - timedelta(hours=3)
    make_row(node, client_id="dave", closed_at=before, reason="idle")
    end = show_moment(before)
    page = find(admin_client, state="closed")
    assert page.index("carol-ended") < page.index("dave")
    assert end in page and end in find(admin_client, reason="idle")
    assert end in find(admin_client, state="all")
    assert end in find(admin_client, q="dave")


def test_a_page_says_once_which_numbers_are_live_and_which_recorded(
    admin_client: Client, rows: dict[str, Connection]
) -> None:
    live = admin_client.get(f"{URL}{rows['live'].pk}/change/").content.decode()
    assert "Live numbers" in live
    assert "field-messages_in" not in live and live.count("Messages") == 1
    recorded = admin_client.get(f"{URL}{rows['recorded'].pk}/change/").content.decode()
    assert "Recorded so far" in recorded and "Live numbers" not in recorded
    assert "field-messages_in" in recorded and "field-closed_at" not in recorded
    ended = admin_client.get(f"{URL}{rows['ended'].pk}/change/").content.decode()
    assert "Counted until its end" in ended and "field-closed_at" in ended
    assert show_moment(rows["ended"].opened_at) in ended


@pytest.mark.django_db
def test_the_detail_shows_the_flight_record(admin_client: Client, node: Node) -> None:
    flight = [{"after_seconds": 1.25, "event": "handler_failed", "detail": "<b>"}]
    row = make_row(node, closed_at=timezone.now(), reason="network", flight=flight)
    detail = admin_client.get(f"{URL}{row.pk}/change/").content.decode()
    assert "handler_failed" in detail and "1.250 s" in detail
    assert "&lt;b&gt;" in detail and "<td><b>" not in detail


@pytest.mark.django_db
def test_no_page_counts_all_rows(admin_client: Client, node: Node) -> None:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        find(admin_client, state="all")
    counts = [one["sql"] for one in captured if "COUNT(" in one["sql"]]
    tables = [sql for sql in counts if "connections_connection" in sql]
    assert tables and all("LIMIT" in sql for sql in tables)


@pytest.mark.django_db
def test_the_count_stops_at_its_bound(node: Node) -> None:
    for _ in range(3):
        make_row(node)
    paginator: Paginator[Connection] = BoundedPaginator(Connection.objects.all(), 2)
    assert paginator.count == 3
    assert MOST_COUNTED == 10_000


def test_selected_connections_are_ended_after_confirmation(
    admin_client: Client, rows: dict[str, Connection]
) -> None:
    keys = [rows["live"].pk, rows["ended"].pk]
    query = {"action": "end_selected", "_selected_action": keys}
    answer = admin_client.post(f"{URL}?state=all", query)
    assert answer.status_code == 302
    assert f"value={keys[0]}" in answer["Location"]
    assert keys[1] not in answer["Location"]
    only_ended = {**query, "_selected_action": keys[1:]}
    refused = admin_client.post(f"{URL}?state=all", only_ended, follow=True)
    assert "None of the selected connections is open" in refused.content.decode()


def test_a_redirect_of_many_fits_into_the_buffer_of_a_proxy(
    admin_client: Client, node: Node
) -> None:
    """nginx takes 4 kB of headers, and answers 502 to more."""
    keys = [make_row(node).pk for _ in range(MOST_VALUES)]
    choice = {"action": "end_selected", "_selected_action": keys, "select_across": 1}
    answer = admin_client.post(URL, choice)
    assert all(key in answer.headers["Location"] for key in keys)
    assert len(answer.serialize_headers()) < 4000
    make_row(node)
    refused = admin_client.post(URL, choice, follow=True).content.decode()
    assert f"Select at most {MOST_VALUES}" in refused


def test_ending_is_offered_only_with_its_permission(
    client: Client, rows: dict[str, Connection]
) -> None:
    client.force_login(make_staff("viewer", "view_connection"))
    assert "end_selected" not in find(client)
    detail = client.get(f"{URL}{rows['live'].pk}/change/").content.decode()
    assert "Slow now" in detail and "action/" not in detail


def test_the_detail_shows_live_state(
    admin_client: Client, rows: dict[str, Connection]
) -> None:
    detail = admin_client.get(f"{URL}{rows['live'].pk}/change/").content.decode()
    assert "Slow now" in detail and "192.0.2.7" in detail and "action/end/" in detail
    ended = admin_client.get(f"{URL}{rows['ended'].pk}/change/").content.decode()
    assert " now</h2>" not in ended


def test_the_live_columns_are_refreshed(
    admin_client: Client, client: Client, rows: dict[str, Connection]
) -> None:
    keys = [row.pk for row in rows.values()]
    found = admin_client.get(f"{URL}live/", {"id": keys}).json()["rows"]
    assert found[keys[0]]["unsent"] == "2 MB"
    assert found[keys[2]]["state"] == "4300 idle"
    client.force_login(make_staff("other"))
    assert client.get(f"{URL}live/", {"id": keys}).status_code == 403


def test_the_connection_of_a_deleted_node_is_listed(
    admin_client: Client, node: Node
) -> None:
    """Connections outlive the rows of nodes, which are pruned by themselves."""
    row = make_row(node, client_id="orphan", closed_at=timezone.now())
    node.delete()
    assert ">orphan</a>" in find(admin_client, q="orphan", state="all")
    assert admin_client.get(f"{URL}{row.pk}/change/").status_code == 200


@pytest.mark.django_db
def test_rows_are_ordered_by_an_index_whatever_the_url_asks_for(
    admin_client: Client, node: Node
) -> None:
    with CaptureQueriesContext(connection) as captured:
        find(admin_client, state="all", o="8")
    assert not [one for one in captured if '."route" ASC' in one["sql"]]
