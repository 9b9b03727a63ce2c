"""Test the series over the range, and what the map folds."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.dashboard.filters import Selection
from connections.dashboard.map import make_map
from connections.dashboard.snapshot import take_snapshot
from connections.dashboard.statistics import add_minutes, read_statistics
from connections.dashboard.trends import describe_trends
from connections.models import MinuteRollup
from tests.connections.dashboard_pages import URL, make_staff
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.django_db


def test_the_trends_have_axes_and_the_values_of_the_range() -> None:
    """Latency is the mean of all nodes, from rollups and from minutes under way."""
    now = int(timezone.now().timestamp() // 60)
    counted: dict[str, Any] = {
        "open_connections": 5,
        "handling": [2, 2],
        "handling_seconds": 0.04,
        "max_loop_lag_seconds": 0.3,
        "refused": {"pool_full": 120},
    }
    # The minute under way may end before the statistics are read.
    node = make_node_row(
        unrolled=[{"minute": now - 1, **counted}], minute={"minute": now, **counted}
    )
    MinuteRollup.objects.create(
        node=node,
        minute=now - 2,
        open_connections=7,
        messages_in=600,
        handled=10,
        handling_seconds=0.05,
        max_loop_lag_seconds=0.002,
    )
    statistics = read_statistics("15m")
    first = list(statistics.times).index(datetime.fromtimestamp((now - 2) * 60, UTC))
    assert statistics.handling_ms[first : first + 2] == [5.0, 10.0]
    assert statistics.lag_ms[first : first + 2] == [2.0, 300.0]
    trends = describe_trends(statistics, "15m", 500)["trends"]
    titles = [one["title"] for one in trends]
    assert titles[0] == "Open connections" and titles[3] == "Latency in milliseconds"
    messages, handshakes = trends[1], trends[2]
    assert messages["legend"][0]["most"] == "10"
    assert handshakes["legend"][2]["last"] == "120"
    for one in trends:
        assert one["chart"].count("<text") > 4 and " UTC: " in one["chart"]


def test_the_trends_are_drawn_from_memory_without_minutes() -> None:
    for one in describe_trends(add_minutes("15m", ()), "15m", 500)["trends"]:
        assert one["legend"][0]["last"] == "0"


def test_of_many_clients_the_quiet_ones_are_folded() -> None:
    node = make_node_row()
    loud = [make_state("loud", state="slow"), make_state("loud")]
    quiet = [make_state(f"c{index // 2}") for index in range(600)]
    store_states(node, *loud, *quiet)
    (region,) = make_map(take_snapshot(1), Selection())
    assert (region.quiet_count, region.quiet_clients) == (600, 300)
    assert region.count == 602 and region.grid is not None
    assert len(region.keys.split()) == 1 and "2 of 602" in region.grid


def test_few_clients_are_named_quiet_or_not() -> None:
    node = make_node_row()
    store_states(node, make_state("alice"), make_state("bob"))
    (region,) = make_map(take_snapshot(1), Selection())
    assert region.quiet_count == 0 and len(region.named) == 2


@pytest.mark.usefixtures("dashboard")
def test_states_and_folded_clients_link_to_the_filtered_list(client: Client) -> None:
    client.force_login(make_staff("viewer", "view_livedashboard"))
    node = make_node_row()
    quiet = [make_state(f"c{index}") for index in range(500)]
    store_states(node, make_state("x", state="slow"), *quiet)
    html = client.get(f"{URL}panels/", {"node": "n1"}).json()["html"]["map"]
    listing = "/admin/connections/connection/"
    assert f'href="{listing}?state=slow&amp;node=n1">slow' in html
    assert f'href="{listing}?state=quiet&amp;node=n1"' in html
    assert "<b>500</b> quiet connections of 500 clients" in html
    assert "state=limited" not in html
