"""Test what the dashboard shows of observed limits, and its forecast."""

import re
from datetime import timedelta

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone

from connections.dashboard.forecast import describe_forecast
from connections.forecast.records import ROWS_PER_QUERY
from connections.models import Connection, RefusedHandshake
from tests.connections.dashboard_pages import EVIL, URL, make_staff
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.usefixtures("dashboard", "db")

FORECAST = f"{URL}forecast/"


@pytest.fixture
def viewer(client: Client, db: None) -> Client:
    client.force_login(make_staff("viewer", "view_livedashboard"))
    return client


def test_a_tile_and_a_panel_show_what_is_observed(viewer: Client) -> None:
    would_have = {"clients": 7, "idle": 2}
    make_node_row(counters={"observed": "clients, idle", "would_have": would_have})
    page = viewer.get(URL).content.decode()
    assert "clients, idle · 9 decisions since the start of the nodes" in page
    cells = re.findall(
        r'<th scope="row">(\w+)</th><td class="live-number">(\d+)<', page
    )
    assert {("clients", "7"), ("idle", "2")} <= set(cells)


def test_without_observed_limits_there_is_no_tile(viewer: Client) -> None:
    make_node_row()
    page = viewer.get(URL).content.decode()
    assert "Observed, not enforced" not in page
    assert "Every limit is enforced." in page
    assert FORECAST in page


def test_the_forecast_names_whom_limits_would_affect(viewer: Client) -> None:
    moment = timezone.now() - timedelta(hours=1)
    for index in range(3):
        make_connection_row(
            f"c{index}",
            client_id=EVIL,
            opened_at=moment + timedelta(minutes=index),
            closed_at=moment + timedelta(minutes=30),
        )
    page = viewer.get(f"{FORECAST}?max_connections_per_client=1").content.decode()
    assert "evicted for a newer connection of their client" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert EVIL not in page
    page = viewer.get(FORECAST).content.decode()
    assert "Nobody would have been affected." in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("days=0", "Days: Ensure this value is greater than or equal to 0.01."),
        ("days=many", "Days: Enter a number."),
        ("max_connections_per_client=0", "Per client: Ensure this value is greater"),
        ("on_client_limit=drop", "drop is not one of the available choices"),
    ],
)
def test_bad_input_is_named(viewer: Client, query: str, message: str) -> None:
    assert message in viewer.get(f"{FORECAST}?{query}").content.decode()


def test_a_page_reads_a_bounded_number_of_rows(rf: RequestFactory) -> None:
    moment = timezone.now() - timedelta(hours=1)
    Connection.objects.bulk_create(
        Connection(
            connection_id=f"{index:06}",
            client_id="alice",
            node_id="n1",
            opened_at=moment,
            last_activity_at=moment,
            closed_at=moment,
        )
        for index in range(ROWS_PER_QUERY + 1)
    )
    context = describe_forecast(rf.get("/"), most_rows=ROWS_PER_QUERY)
    assert context["problem"].startswith("More than 4,000 connections are recorded")
    context = describe_forecast(rf.get("/"), most_rows=ROWS_PER_QUERY + 1)
    assert context["found"]["connections"] == ROWS_PER_QUERY + 1
    RefusedHandshake.objects.create(at=moment, client_id="bob", reason="pool_full")
    context = describe_forecast(rf.get("/"), most_rows=ROWS_PER_QUERY + 1)
    assert "problem" in context


def test_only_viewers_may_see_a_forecast(client: Client) -> None:
    client.force_login(make_staff("other"))
    assert client.get(FORECAST).status_code == 403
