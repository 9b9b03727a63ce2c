"""Test what the dashboard shows first: open alerts and degraded parts, with links."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.alerts.runbook import read_sections
from connections.config.alert_rules import DEFAULT_RULES, format_value
from connections.models import Alert, Node
from tests.connections.dashboard_pages import EVIL, URL, make_staff
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("dashboard")]


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(make_staff("viewer", "view_livedashboard"))
    return client


def make_alert(rule: str, **values: Any) -> Alert:
    defaults = {
        "severity": "critical",
        "state": "firing",
        "value": 3,
        "peak": 40,
        "threshold": 1,
        "since": timezone.now() - timedelta(minutes=3),
    }
    return Alert.objects.create(rule=rule, **(defaults | values))


def make_beating_node(**values: Any) -> Node:
    """Create a node that has not been silent for long, whatever time its page takes."""
    beat_at = timezone.now() + timedelta(minutes=5)
    return make_node_row("n1", **{"beat_at": beat_at} | values)


def read_panel(viewer: Client, name: str = "alerts") -> str:
    html: str = viewer.get(f"{URL}panels/").json()["html"][name]
    return html


def test_an_alert_has_peak_unit_time_runbook_and_nodes(viewer: Client) -> None:
    node = make_node_row("a" * 32, host="web-1", pid=77, degraded="Error 111")
    alert = make_alert("pool_degraded", detail="node web-1:77: Error 111")
    html = read_panel(viewer)
    assert "node web-1:77: Error 111" in html
    assert "now 3 nodes · peak 40 nodes · alerts from 1 node" in html
    assert f"since {alert.since:%H:%M:%S} UTC, 3 min" in html
    assert f'href="{URL}runbook/#pool_degraded"' in html
    assert f'href="/admin/connections/node/{node.node_id}/change/"' in html


def test_a_full_pool_leads_to_the_clients_that_hold_most(viewer: Client) -> None:
    make_node_row("n1", counters={"pool_full": "9 refused in the last minute"})
    for number, client_id in enumerate([EVIL, EVIL, "bob"]):
        make_connection_row(f"{number:032}", client_id=client_id)
    make_alert("pool_full")
    html = read_panel(viewer)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (2)" in html and EVIL not in html
    assert "?client_id=bob" in html
    assert "is-bad" in read_panel(viewer, "tiles").partition("Refused")[0][-120:]


@pytest.mark.parametrize("rule", [rule.name for rule in DEFAULT_RULES])
def test_every_alert_is_shown_with_its_runbook(viewer: Client, rule: str) -> None:
    make_node_row("n1")
    make_alert(rule)
    html = read_panel(viewer)
    assert f"runbook/#{rule}" in html
    for url in re.findall(r'href="(/admin/[^"#]+)', html):
        assert viewer.get(url).status_code in (200, 403), url


@pytest.mark.parametrize(
    ("columns", "text", "section"),
    [
        ({"degraded": "Error 111"}, "Error 111", "pool_degraded"),
        ({"counters": {"pool_full": "9 refused"}}, "9 refused", "pool_full"),
        (
            {"counters": {"overdue_steps": ["The beat"]}},
            "The beat",
            "step_overdue",
        ),
        (
            {"beat_at": timedelta(seconds=90)},
            "has not beaten for 1 min",
            "dead_node",
        ),
    ],
)
def test_a_degraded_part_is_shown_before_its_alert(
    viewer: Client, columns: dict[str, Any], text: str, section: str
) -> None:
    if "beat_at" in columns:
        columns = {"beat_at": timezone.now() - columns["beat_at"]}
    make_beating_node(host="web-1", pid=77, **columns)
    html = read_panel(viewer)
    assert "live-fault is-degraded" in html
    assert f"node web-1:77: {text}" in html
    assert f"runbook/#{section}" in html
    assert html.count("live-fault ") == 1


def test_a_degraded_part_with_an_alert_is_shown_once(viewer: Client) -> None:
    make_beating_node(degraded="Error 111")
    make_alert("pool_degraded")
    assert read_panel(viewer).count("live-fault ") == 1


def test_a_pool_lost_with_its_database_is_no_part_of_its_own(viewer: Client) -> None:
    counters = {"pool_lost_with_database": True}
    make_beating_node(degraded="PostgreSQL does not answer", counters=counters)
    assert "live-fault " not in read_panel(viewer)


def test_a_draining_node_is_named_with_what_is_left(viewer: Client) -> None:
    make_node_row("n1", host="web-1", pid=77, state="draining")
    make_connection_row("0" * 32)
    html = read_panel(viewer)
    assert "node web-1:77: 1 connection left, new ones are refused" in html


def test_resolved_alerts_are_folded(viewer: Client) -> None:
    make_alert("loop_lag", state="resolved", resolved_at=timezone.now())
    html = read_panel(viewer)
    assert "No alert is firing or pending" in html
    assert "Resolved in the last day: 1" in html and "live-fault " not in html


def test_what_is_wrong_comes_first(viewer: Client) -> None:
    page = viewer.get(URL).content.decode()
    panels = re.findall(r'data-panel="(\w+)"', page)
    assert panels.index("alerts") < panels.index("tiles")


def test_refused_handshakes_are_charted_by_reason(viewer: Client) -> None:
    minute = int(timezone.now().timestamp() // 60)
    refused = {"pool_full": 200, "unauthenticated": 3}
    make_node_row("n1", minute={"minute": minute, "refused": refused})
    html = read_panel(viewer, "refused")
    assert "pool full <b>200</b>" in html and "unauthenticated <b>3</b>" in html
    assert "pool full · 203 in the range" in read_panel(viewer, "tiles")


def test_the_runbook_is_a_page_of_the_admin(viewer: Client, client: Client) -> None:
    page = viewer.get(f"{URL}runbook/").content.decode()
    for name in read_sections():
        assert f'<section id="{name}"' in page
    assert "<pre>manage.py connections list" in page
    assert "<code>/readyz</code>" in page and '<a href="#pool_full">' in page
    assert "**" not in page and "```" not in page
    client.logout()
    assert client.get(f"{URL}runbook/").status_code == 302


@pytest.mark.parametrize(
    ("rule", "value", "text"),
    [
        ("pool_near_exhaustion", 0.954, "95.4 %"),
        ("dead_node", 1, "1 node"),
        ("dead_node", 2, "2 nodes"),
        ("loop_lag", 0.5, "0.5 s"),
        ("loop_lag", 1, "1 s"),
        ("gone", 2, "2"),
    ],
)
def test_values_have_their_unit(rule: str, value: float, text: str) -> None:
    assert format_value(rule, value) == text


def test_every_rule_has_a_unit() -> None:
    assert all(rule.unit for rule in DEFAULT_RULES)


def test_presence_that_is_out_of_reach_is_shown(viewer: Client) -> None:
    make_node_row(
        "n1",
        host="web-1",
        pid=77,
        counters={"presence_degraded": "Redis is away", "online": 1234},
    )
    html = read_panel(viewer)
    assert "presence degraded" in html
    assert "node web-1:77: Redis is away" in html
    assert "clients present" in read_panel(viewer, "tiles")


def test_without_presence_no_tile_speaks_of_it(viewer: Client) -> None:
    make_node_row("n1")
    assert "clients present" not in read_panel(viewer, "tiles")
