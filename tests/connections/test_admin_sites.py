"""Test the dashboard on several admin sites, each with its own pages and rules."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client
from django.urls import clear_url_caches, path, set_urlconf

from connections.dashboard.cache import SnapshotCache
from connections.dashboard.consumers import PATH
from connections.dashboard.filters import Selection
from connections.dashboard.sites import may_view
from connections.models import LiveDashboard
from tests.connections import office_urls
from tests.connections.failing_database import database_away
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.urls("tests.connections.office_urls"),
]

DASHBOARD = "connections/livedashboard/"
PAGES = (
    DASHBOARD,
    f"{DASHBOARD}panels/",
    f"{DASHBOARD}details/?key={'a' * 32}",
    f"{DASHBOARD}forecast/",
    f"{DASHBOARD}runbook/",
    f"{DASHBOARD}action/notice/?target=all",
)
LISTS = (
    "connections/connection/",
    "connections/node/n1/change/",
    "connections/errorevent/",
    "sessions_history/session/",
)
SCOPE = {"path": f"/{PATH}", "headers": [], "client": ("192.0.2.1", 1), "scheme": "ws"}


@pytest.fixture
def staff(client: Client) -> Any:
    user = get_user_model().objects.create_superuser("staff", "a@office.test")
    client.force_login(user)
    return user


@pytest.fixture(autouse=True)
def own_snapshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for site in (office_urls.office, office_urls.bare):
        admin = site.get_model_admin(LiveDashboard)
        monkeypatch.setattr(admin, "shared", SnapshotCache(), raising=False)
    yield


def find_links(page: str) -> set[str]:
    links = re.findall(r'(?:href|data-[a-z]+)=\\?"(/[^"\\]*)', page)
    return {link for link in links if not link.startswith("/static/")}


@pytest.mark.parametrize("page", [*PAGES, *LISTS])
def test_each_link_leads_to_the_site_of_its_page(
    client: Client, staff: Any, page: str
) -> None:
    """Not to the default site, where the viewer may have no rights."""
    node = make_node_row("n1", degraded="a reason")
    store_states(node, make_state(connection_id="a" * 32))
    make_connection_row("b" * 32, node=node)
    response = client.get(f"/office/{page}")
    assert response.status_code == 200
    links = find_links(response.content.decode())
    strange = {link for link in links if not link.startswith("/office/")}
    assert strange <= {"/", f"/{PATH}?site=office"}


@pytest.mark.parametrize("page", PAGES)
def test_a_site_may_have_the_dashboard_alone(
    client: Client, staff: Any, page: str
) -> None:
    node = make_node_row("n1", degraded="a reason")
    store_states(node, make_state(connection_id="a" * 32))
    response = client.get(f"/bare/{page}")
    assert response.status_code == 200
    links = find_links(response.content.decode())
    assert not {link for link in links if "/connections/connection/" in link}


def test_the_page_of_an_outage_links_to_the_dashboard_of_its_site(
    client: Client, staff: Any
) -> None:
    pages = {}
    with database_away():
        for site in ("office", "plain"):
            response = client.get(f"/{site}/connections/connection/")
            assert response.status_code == 503
            pages[site] = response.content.decode()
    assert f'<a href="/office/{DASHBOARD}">live dashboard</a>' in pages["office"]
    assert "live dashboard" in pages["plain"] and DASHBOARD not in pages["plain"]


def test_the_panels_of_each_site_are_its_own() -> None:
    cache, action = SnapshotCache(), "action/end-all/"
    make_node_row("n1")
    for name in ("office", "bare"):
        panels = cache.get_panels(Selection(site=name), frozenset({"end-all"}))
        assert f"/{name}/{DASHBOARD}{action}" in panels.html["nodes"]


@pytest.mark.parametrize(
    ("email", "site", "expected"),
    [
        ("a@office.test", "office", True),
        ("a@home.test", "office", False),
        ("a@home.test", "bare", True),
        ("a@home.test", "", True),
        ("a@office.test", "verified", False),
        ("a@office.test", "admin", False),
        ("a@office.test", "no such site", False),
    ],
)
def test_the_socket_follows_the_rule_of_the_site(
    email: str, site: str, expected: bool
) -> None:
    """The default site is mounted nowhere here, so it lets nobody in."""
    user = get_user_model().objects.create_superuser("staff", email)
    assert may_view(SCOPE, user, SessionStore(), site) is expected


def test_the_socket_is_not_open_to_those_whom_each_site_refuses(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = [path("office/", office_urls.office.urls)]
    monkeypatch.setattr(office_urls, "urlpatterns", only)
    clear_url_caches()
    set_urlconf(None)
    user = get_user_model().objects.create_superuser("staff", "a@home.test")
    assert not may_view(SCOPE, user, SessionStore(), "")
    monkeypatch.undo()
    clear_url_caches()
