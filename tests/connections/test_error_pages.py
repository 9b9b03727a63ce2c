"""Test the pages of recorded errors and of nodes."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.admin.node_pages import NodePages
from connections.dashboard.cache import SnapshotCache
from connections.models import CloseRequest, ErrorEvent, NodeCommand
from connections.models.error_groups import MOST_GROUPED, group_errors
from connections.units import show_moment
from tests.connections.dashboard_pages import make_staff
from tests.connections.live_states import make_row, make_state, store_states
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.django_db

ERRORS = "/admin/connections/errorevent/"


@pytest.fixture(autouse=True)
def _no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page shows the connections of the test before."""
    monkeypatch.setattr(NodePages, "shared", SnapshotCache())


def make_error(ref: str, **values: Any) -> ErrorEvent:
    given = {
        "node_id": "n1",
        "at": timezone.now(),
        "exception_class": "builtins.KeyError",
        "where": "chat/consumers.py/receive:42",
        "traceback": 'Traceback:\n  File "a.py", line 1\n    x[1]\nKeyError: 1\n',
    }
    return ErrorEvent.objects.create(error_id=ref, **(given | values))


def test_errors_are_grouped_by_where_they_were_raised(admin_client: Client) -> None:
    make_node_row()
    now = timezone.now()
    old = make_error("e1", at=now - timedelta(hours=3))
    new = make_error("e2", at=now - timedelta(minutes=5))
    make_error("e3", where="chat/consumers.py/connect:7")
    make_error("e4", at=now - timedelta(days=3))
    page = admin_client.get(ERRORS).content.decode()
    assert page.count("builtins.KeyError</a>") == 2
    assert page.index("receive:42") < page.index("connect:7")
    assert show_moment(old.at) in page and show_moment(new.at) in page
    assert f"{ERRORS}e2/change/" in page and f"{ERRORS}e1/change/" not in page
    assert "KeyError: 1" in page and page.count('class="sparkline"') == 2
    week = admin_client.get(ERRORS, {"range": "7d"}).content.decode()
    assert "<b>3</b>" in week
    group = {
        "exception_class": "builtins.KeyError",
        "where": "chat/consumers.py/receive:42",
    }
    rows = admin_client.get(ERRORS, group)
    assert rows.context["cl"].result_count == 3


def test_the_sparkline_of_a_group_counts_by_time() -> None:
    end = timezone.now()
    for minutes in (1, 1, 59):
        make_error(
            f"e{minutes}{ErrorEvent.objects.count()}",
            at=end - timedelta(minutes=minutes),
        )
    (group,) = group_errors(end - timedelta(hours=1), end).groups
    assert (group.count, group.steps[0], group.steps[-1]) == (3, 1, 2)
    assert sum(group.steps) == 3


def test_a_storm_is_grouped_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are counted, and the page says since when."""
    end = timezone.now()
    ErrorEvent.objects.bulk_create(
        ErrorEvent(
            error_id=f"e{index}",
            node_id="n1",
            at=end - timedelta(milliseconds=index),
            exception_class="x",
            where="y",
        )
        for index in range(MOST_GROUPED + 2)
    )
    found = group_errors(end - timedelta(hours=1), end)
    assert found.is_cut and found.since == end - timedelta(milliseconds=MOST_GROUPED)
    assert sum(group.count for group in found.groups) == MOST_GROUPED
    assert sum(sum(group.steps) for group in found.groups) == MOST_GROUPED


def test_a_traceback_keeps_its_indentation(admin_client: Client) -> None:
    make_error("e1")
    page = admin_client.get(f"{ERRORS}e1/change/").content.decode()
    assert '<pre class="live-traceback">Traceback:\n  File' in page
    assert "\n    x[1]\n" in page


def test_the_groups_need_the_permission(client: Client) -> None:
    client.force_login(make_staff("other"))
    assert client.get(ERRORS).status_code == 403


def test_the_page_of_a_node_has_its_connections_and_actions(
    admin_client: Client,
) -> None:
    counters = {
        "opened": 1234,
        "ends": {"idle": 7, "kicked": 2},
        "errors": {"internal": 3},
        "messages_in": 10,
    }
    node = make_node_row(host="web-1", counters=counters, minute={"opened": 99})
    store_states(node, make_state("alice"), make_state("bob"))
    make_row(node, client_id="carol", closed_at=timezone.now(), reason="idle")
    NodeCommand.objects.create(kind="drain", target="node", value="n1", author="ann")
    CloseRequest.objects.create(
        target="node", value="n1", reason="kicked", author="bea", note="too loud"
    )
    NodeCommand.objects.create(
        kind="drain", target="node", value="n2", author="zebedee"
    )
    page = admin_client.get("/admin/connections/node/n1/change/").content.decode()
    for shown in ("alice", "bob", "carol", "2 open", "1.2k", "ann", "too loud"):
        assert shown in page
    assert "action/drain/" in page and "zebedee" not in page
    assert "&#x27;ends&#x27;" not in page and "unrolled" not in page
    assert "idle</th>" in page


def test_the_page_of_a_gone_node_offers_nothing(admin_client: Client) -> None:
    make_node_row(state="lost", stopped_at=timezone.now())
    page = admin_client.get("/admin/connections/node/n1/change/").content.decode()
    assert "/action/" not in page and "No connection is open" in page
