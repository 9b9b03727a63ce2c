"""Test the dashboard and the admin while the database is away or read-only."""

from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from connections.dashboard.admin import LiveDashboardAdmin
from connections.dashboard.cache import SnapshotCache, Snapshots
from connections.dashboard.memory import list_own_minutes, take_from_memory
from connections.dashboard.outage import TRUSTED_SECONDS, KnownViewers
from connections.dashboard.snapshot import Snapshot
from connections.dashboard.statistics import add_minutes
from connections.models import Node
from connections.node.current import get_node
from connections.testing import FakeClock
from tests.connections.dashboard_pages import URL, make_staff
from tests.connections.failing_database import database_away, database_read_only
from tests.connections.live_connections import make_connection
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_node_row


def take_own(number: int, before: Snapshot | None) -> Snapshot:
    """Return the snapshot of a node that holds one connection of zoe."""
    now = timezone.now()
    row: Any = Node(node_id="own", host="web-9", pid=9, beat_at=now, started_at=now)
    row.beat_age = now - now
    return Snapshot(
        number=number,
        taken_at=now,
        nodes=(row,),
        seen={"own": [make_state("zoe")]},
        recorded_nodes=frozenset(),
        is_from_memory=True,
    )


@pytest.fixture(params=[False, True], ids=["", "atomic"])
def atomic_requests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the project sets ATOMIC_REQUESTS: then BEGIN fails first."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", request.param)


@pytest.fixture
def page(
    client: Client, db: None, dashboard: LiveDashboardAdmin, atomic_requests: None
) -> Client:
    """A viewer who may end connections, and who has seen the dashboard."""
    client.force_login(make_staff("viewer", "view_livedashboard", "end_connection"))
    store_states(make_node_row(host="web-1"), make_state("alice"))
    assert client.get(URL).status_code == 200
    dashboard.shared = SnapshotCache(Snapshots(take_own=take_own))
    return client


def test_without_the_database_the_page_shows_this_node(page: Client) -> None:
    with database_away():
        response = page.get(URL)
        panels = page.get(f"{URL}panels/").json()
    text = response.content.decode()
    assert response.status_code == 200
    assert "The database does not answer." in text
    assert "zoe" in text and "web-9" in text and "alice" not in text
    assert "/action/" not in text
    assert "zoe" in panels["html"]["map"] and panels["html"]["problem"]
    # The viewer stays signed in.
    assert "sessionid" not in response.cookies


def test_a_project_keeps_its_transactions(page: Client) -> None:
    """The pages of lists and actions run in one, if the project wants it."""
    began: list[str] = []

    def watch(execute: Any, sql: str, *args: Any) -> Any:
        began.append(sql.partition(" ")[0])
        return execute(sql, *args)

    with connection.execute_wrapper(watch):
        page.get("/admin/connections/ban/")
    wanted = connection.settings_dict["ATOMIC_REQUESTS"]
    assert (began[0] == "SAVEPOINT") is wanted


@pytest.mark.django_db(transaction=True)
def test_a_read_only_database_hides_nothing(page: Client) -> None:
    """Other nodes are shown as recorded; that it takes no writes is said."""
    with database_read_only():
        text = page.get(URL).content.decode()
    assert "The database refuses the statement." in text
    assert "zoe" in text and "alice" in text


@pytest.mark.django_db
def test_the_page_recovers_with_the_database() -> None:
    clock = FakeClock()
    snapshots = Snapshots(
        lambda number: take_own(number, None), request, take_own, clock=clock
    )
    requests.clear()
    with database_away():
        assert snapshots.get().problem
    clock.advance(4)
    assert snapshots.get().problem and len(requests) == 1
    clock.advance(2)
    assert not snapshots.get().problem and len(requests) == 2


def test_a_database_that_fails_slowly_is_seldom_asked() -> None:
    """Viewers wait for each attempt; a failure at once costs them nothing."""
    clock, asked = FakeClock(), []

    def wait_and_fail() -> None:
        asked.append(clock())
        clock.advance(5)
        raise OperationalError("database is locked")

    snapshots = Snapshots(
        lambda number: take_own(number, None), wait_and_fail, take_own, clock=clock
    )
    for _ in range(28):
        assert snapshots.get().problem
        clock.advance(1)
    assert len(asked) == 1
    clock.advance(4)
    snapshots.get()
    assert len(asked) == 2


requests: list[bool] = []


def request() -> None:
    requests.append(True)
    Node.objects.exists()


def test_a_stranger_learns_what_is_wrong(client: Client, page: Client) -> None:
    client.cookies.clear()
    client.cookies["sessionid"] = "an-unknown-session"
    with database_away():
        response = client.get(URL)
    assert response.status_code == 503
    assert "does not answer" in response.content.decode()
    assert "zoe" not in response.content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "connection/",
        "connection/x/change/",
        "connection/live/?id=x",
        "node/",
        "errorevent/",
        "ban/",
        "accesstoken/",
        "accesstoken/1/revoke/",
        "livedashboard/result/?action=end&key=1",
    ],
)
def test_other_pages_name_the_problem(page: Client, path: str) -> None:
    with database_away():
        response = page.get(f"/admin/connections/{path}")
    assert response.status_code == 503
    assert "the database does not answer" in response.content.decode()


def test_an_action_on_a_read_only_database_changes_nothing(page: Client) -> None:
    url = f"{URL}action/end/?target=connection&value=x"
    with database_read_only():
        response = page.post(url, {"reason": "a test"})
    assert response.status_code == 503
    assert "Nothing was changed" in response.content.decode()


def test_a_viewer_is_trusted_for_an_hour_at_most() -> None:
    clock = FakeClock()
    known = KnownViewers(clock)
    known.remember("key", "viewer")
    known.remember("gone", "other")
    known.forget("gone")
    clock.advance(TRUSTED_SECONDS - 1)
    assert known.find("key") == "viewer"
    assert known.find("gone") is None and known.find(None) is None
    clock.advance(2)
    assert known.find("key") is None


async def test_a_node_is_described_from_memory() -> None:
    node = get_node()
    node.hub.join(make_connection("c1", client_id="zoe", now=node.clock()))
    before = take_from_memory(1)
    connection = node.hub.get("c1")
    assert connection is not None
    connection.messages_in += 30
    snapshot = take_from_memory(2, before)
    (row,) = snapshot.nodes
    assert (row.node_id, row.state) == (node.node_id, "serving")
    (state,) = snapshot
    assert state.client_id == "zoe" and state.in_per_second > 0
    node.meter.finish()
    minutes = list_own_minutes(node.node_id)
    assert list_own_minutes("another") == ()
    assert max(add_minutes("15m", minutes).open_connections) == 1
    assert node.database is not None
    await node.database.close()


def test_a_process_without_a_node_has_nothing_in_memory() -> None:
    assert take_from_memory(1).nodes == () and list_own_minutes("") == ()
