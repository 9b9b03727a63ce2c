"""Test the content of the live dashboard and its permissions."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model, logout
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from connections.access.bans import impose
from connections.announcements import post_close_requests
from connections.credentials.identity import Credential
from connections.dashboard.cache import SnapshotCache
from connections.dashboard.consumers import PATH, LiveConsumer
from connections.dashboard.filters import Selection
from connections.dashboard.snapshot import make_key
from connections.dashboard.statistics import read_statistics
from connections.dashboard.tiles import estimate_quantile
from connections.metrics.counters import Counters
from connections.models import Alert, Ban, CloseRequest, MinuteRollup, Node
from connections.node.node import Node as RunningNode
from connections.routing import protect
from connections.storage.database import Database
from connections.testing.communicators import Communicator, make_config
from tests.connections.dashboard_pages import EVIL, URL, make_staff
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_node_row

pytestmark = pytest.mark.usefixtures("dashboard")


@pytest.fixture
def viewer(client: Client, db: None) -> Client:
    client.force_login(make_staff("viewer", "view_livedashboard"))
    return client


@pytest.fixture
def node(db: None) -> Node:
    node = make_node_row(host="web-1", pid=77)
    store_states(
        node,
        make_state("alice", state="active", in_per_second=2.5, out_per_second=4.0),
        make_state("alice"),
        make_state(EVIL, state="slow", route="ws/other/"),
    )
    return node


@pytest.mark.usefixtures("node")
def test_the_page_shows_what_is_open(viewer: Client) -> None:
    page = viewer.get(URL).content.decode()
    assert "3 connections · 2 clients" in page
    assert "web-1:77" in page
    assert "↓2.5 ↑4" in page
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.usefixtures("node")
def test_the_url_holds_the_filters(viewer: Client) -> None:
    page = viewer.get(URL, {"route": "ws/other/"}).content.decode()
    assert "1 connection · 1 client" in page
    by_route = viewer.get(URL, {"by": "route"}).content.decode()
    assert by_route.count('class="live-region"') == 2
    assert "of 15m, 1h" in viewer.get(URL, {"range": "9y"}).content.decode()


@pytest.mark.usefixtures("node")
def test_alerts_are_shown_with_their_state(viewer: Client) -> None:
    since = timezone.now() - timedelta(minutes=3)
    for state, rule in (("pending", "loop_lag"), ("firing", "high_error_rate")):
        Alert.objects.create(
            rule=rule,
            severity="critical",
            state=state,
            value=0.123456,
            peak=0.2,
            threshold=0.05,
            since=since,
        )
    html = viewer.get(f"{URL}panels/").json()["html"]
    assert html["alerts"].index("high error rate") < html["alerts"].index("loop lag")
    assert "now 12.3 % · peak 20 % · alerts from 5 %" in html["alerts"]
    assert "3 min" in html["alerts"]
    assert "1 pending" in html["tiles"] and "is-bad" in html["tiles"]


def test_without_nodes_the_page_tells_how_to_start_one(viewer: Client) -> None:
    assert b"manage.py serve" in viewer.get(URL).content


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["", "panels/", "details/?key=x"])
def test_staff_need_the_view_permission(client: Client, path: str) -> None:
    client.force_login(make_staff("other"))
    assert client.get(URL + path).status_code == 403
    client.logout()
    assert client.get(URL + path).status_code == 302


@pytest.mark.usefixtures("node")
def test_panels_are_served_without_a_websocket(viewer: Client) -> None:
    panels = viewer.get(f"{URL}panels/", {"range": "15m"}).json()
    assert panels["type"] == "panels"
    assert "3 connections" in panels["html"]["map"]


def test_details_of_a_connection_and_of_a_client(viewer: Client, node: Node) -> None:
    seen = make_state(EVIL, address="192.0.2.9", messages_in=1200)
    store_states(node, seen)
    by_key = viewer.get(f"{URL}details/", {"key": make_key(seen.connection_id)})
    text = by_key.content.decode()
    assert "192.0.2.9" in text and "↓1.2k ↑0" in text and EVIL not in text
    of_client = viewer.get(f"{URL}details/", {"client": EVIL, "region": "n1"})
    assert "1 open" in of_client.content.decode()
    assert b"has ended" in viewer.get(f"{URL}details/", {"key": "AAAAAAA"}).content


def test_ten_thousand_connections_stay_small(viewer: Client, node: Node) -> None:
    seen = [make_state(f"client-{index // 4}") for index in range(10_000)]
    store_states(node, *seen)
    page = viewer.get(URL, headers={"accept-encoding": "gzip"})
    assert page.headers["Content-Encoding"] == "gzip"
    assert len(page.content) < 60_000


@pytest.mark.django_db
def test_statistics_count_the_current_minute_and_no_minute_twice() -> None:
    """A minute counts once: from its rollup, or from its node before that."""
    now = int(timezone.now().timestamp() // 60)
    whole = {
        "minute": now - 1,
        "open_connections": 5,
        "opened": 4,
        "messages_in": 10,
        "messages_out": 0,
        "ends": {"idle": 2},
        "errors": {"internal": 1},
        "durations": [1, 1, *[0] * 11],
    }
    under_way = {**whole, "minute": now, "opened": 1, "ends": {"closed": 1}}
    node = make_node_row(unrolled=[whole], minute=under_way)
    MinuteRollup.objects.create(
        node=node,
        minute=now - 1,
        open_connections=5,
        opened=4,
        ended=2,
        ends_by_reason={"idle": 2},
        errors_by_kind={"internal": 1},
        durations=[1, 1, *[0] * 11],
    )
    figures = read_statistics("15m")
    # Another minute may have begun meanwhile.
    here = [int(one.timestamp() // 60) for one in figures.times].index(now)
    both = slice(here - 1, here + 1)
    assert figures.opened[both] == [4, 1]
    assert figures.ended[both] == [2, 1]
    assert figures.open_connections[both] == [5, 5]
    assert figures.reasons == {"idle": 2, "closed": 1}
    assert figures.errors["internal"][both] == [1, 1]
    assert list(figures.durations[:3]) == [2, 2, 0]
    assert len(figures.times) == 15


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [((0, 0, 0), 0.5, None), ((0, 4, 0), 0.5, 3.0), ((1, 0, 9), 0.95, 5.0)],
)
def test_quantiles_lie_within_their_bucket(
    counts: tuple[int, ...], part: float, expected: float | None
) -> None:
    assert estimate_quantile(counts, part, edges=(1, 5)) == expected


class OwnConsumer(LiveConsumer):
    """The dashboard's consumer with the snapshots of one test."""


async def connect_as(
    user_id: Any, database: Database, **scope: Any
) -> tuple[Communicator, RunningNode]:
    """Open the dashboard's WebSocket with a user's session."""
    node = RunningNode(make_config(), database=database)
    session = await database.write(_log_in, user_id)
    OwnConsumer.shared = SnapshotCache()
    communicator = Communicator(OwnConsumer.as_asgi(), "/ws/live/")
    credential = Credential(client_id=f"user:{user_id}", session=session)
    parts = {"node": node, "session": session, "credential": credential}
    communicator.scope.update(parts | scope)
    await communicator.connect()
    return communicator, node


def _log_in(user_id: Any) -> Any:
    client = Client()
    client.force_login(get_user_model().objects.get(pk=user_id))
    session: Any = client.session
    return session


async def receive_until(communicator: Communicator, kind: str) -> Any:
    while True:
        event = await communicator.receive_output()
        if event["type"] == "websocket.close":
            return event
        content = json.loads(event["text"])
        if content["type"] == kind:
            return content


@pytest.mark.django_db(transaction=True)
async def test_the_socket_sends_changed_panels_and_is_not_counted() -> None:
    database = Database()
    try:
        await database.write(lambda: store_states(make_node_row(), make_state()))
        user = await database.write(make_staff, "viewer", "view_livedashboard")
        communicator, node = await connect_as(user.pk, database)
        watch = {"type": "watch", "query": "range=15m", "every_seconds": 1}
        await communicator.send_json_to(watch)
        first = await receive_until(communicator, "panels")
        assert "1 connection" in first["html"]["map"]
        await communicator.send_json_to(watch)
        second = await receive_until(communicator, "panels")
        assert "map" not in second["html"] and "keys" not in second
        assert len(node.hub) == 0
        assert node.counters.routes.keys().isdisjoint({"", PATH, "unknown"})
        assert not node.counters.durations.sum_seconds
        await communicator.send_json_to({**watch, "every_seconds": 7})
        assert (await receive_until(communicator, "error"))["code"] == "invalid_message"
        node.begin_drain()
        await communicator.send_json_to(watch)
        assert (await receive_until(communicator, "none"))["code"] == 4200
    finally:
        await database.close()


@pytest.mark.django_db(transaction=True)
async def test_pushed_links_begin_with_the_url_prefix() -> None:
    """The threads that draw panels serve no request, whose prefix Django knows."""
    database = Database()
    try:
        await database.write(lambda: store_states(make_node_row(), make_state()))
        rights = ("view_livedashboard", "drain_node")
        user = await database.write(make_staff, "viewer", *rights)
        communicator, _ = await connect_as(user.pk, database, root_path="/app")
        watch = {"type": "watch", "query": "range=15m", "every_seconds": 30}
        await communicator.send_json_to(watch)
        pushed = await receive_until(communicator, "panels")
        link = f"{URL}action/drain/"
        assert f'href="/app{link}' in pushed["html"]["nodes"]
        await communicator.disconnect()
        # The panels of a request without the prefix are others.
        selection, allowed = Selection(range="15m"), frozenset({"drain"})
        get_panels = OwnConsumer.shared.get_panels
        panels = await database.read(get_panels, selection, allowed)
        assert f'href="{link}' in panels.html["nodes"]
    finally:
        await database.close()


class FailingSnapshots(SnapshotCache):
    """Snapshots of which the first raises what nobody expects."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    def get_panels(self, *args: Any, **kwargs: Any) -> Any:
        if not self.failures:
            self.failures += 1
            raise KeyError("an error that nobody expected")
        return super().get_panels(*args, **kwargs)


@pytest.mark.django_db(transaction=True)
async def test_an_unexpected_error_ends_no_pushes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    try:
        user = await database.write(make_staff, "viewer", "view_livedashboard")
        communicator, _ = await connect_as(user.pk, database)
        OwnConsumer.shared = FailingSnapshots()
        watch = {"type": "watch", "query": "range=15m", "every_seconds": 1}
        await communicator.send_json_to(watch)
        assert "map" in (await receive_until(communicator, "panels"))["html"]
        begin = "The background task 'The push of the dashboard' failed"
        failures = [one.getMessage() for one in caplog.records]
        assert sum(one.startswith(begin) for one in failures) == 1
        await communicator.disconnect()
    finally:
        await database.close()


def log_out(session: Any, user: User) -> None:
    request = HttpRequest()
    request.session, request.user = session, user
    logout(request)


def take_permission(session: Any, user: User) -> None:
    user.user_permissions.clear()


def dismiss(session: Any, user: User) -> None:
    user.is_staff = False
    user.save()


def deactivate(session: Any, user: User) -> None:
    user.is_active = False
    user.save()


def change_password(session: Any, user: User) -> None:
    user.set_password("another")
    user.save()


def ban_user(session: Any, user: User) -> None:
    impose(Ban(target="user", value=str(user.pk)))


LOST_RIGHTS = {
    log_out: 4009,
    deactivate: 4009,
    change_password: 4009,
    lambda session, user: session.flush(): 4009,
    lambda session, user: Session.objects.all().delete(): 4009,
    lambda session, user: user.delete(): 4009,
    take_permission: 4003,
    dismiss: 4003,
    ban_user: 4003,
    lambda session, user: User.objects.update(is_staff=False): 4003,
    lambda session, user: User.objects.update(is_active=False): 4009,
    lambda session, user: Ban.objects.create(target="user", value=str(user.pk)): 4003,
}
"""Ways to lose the dashboard, with the close code of its WebSocket."""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("lose", "code"), LOST_RIGHTS.items())
async def test_the_socket_ends_at_once_with_the_rights_of_its_user(
    lose: Any, code: int
) -> None:
    """Neither a viewer's interval nor the next regular check delays it."""
    database = Database()
    try:
        user = await database.write(make_staff, "viewer", "view_livedashboard")
        communicator, node = await connect_as(user.pk, database)
        watch = {"type": "watch", "query": "range=15m", "every_seconds": 30}
        await communicator.send_json_to(watch)
        await receive_until(communicator, "panels")
        await node.beat()
        await node.reauthoriser.poll()
        await database.write(lose, communicator.scope["session"], user)
        await node.beat()
        await node.reauthoriser.poll()
        assert (await receive_until(communicator, "none"))["code"] == code
        assert len(node.hub) == 0
        await communicator.disconnect()
        assert not node.hub.viewers
    finally:
        await database.close()


@pytest.mark.django_db(transaction=True)
async def test_a_kick_of_all_clients_spares_the_socket() -> None:
    database = Database()
    try:
        user = await database.write(make_staff, "viewer", "view_livedashboard")
        communicator, node = await connect_as(user.pk, database)
        await database.write(
            lambda: post_close_requests(CloseRequest(target="all", reason="kicked"))
        )
        await node.beat()
        await node.reauthoriser.poll()
        watch = {"type": "watch", "query": "range=15m", "every_seconds": 1}
        await communicator.send_json_to(watch)
        assert await receive_until(communicator, "panels")
        await communicator.disconnect()
    finally:
        await database.close()


@pytest.mark.django_db(transaction=True)
async def test_the_socket_needs_the_view_permission() -> None:
    database = Database()
    try:
        user = await database.write(make_staff, "other")
        communicator, _ = await connect_as(user.pk, database)
        assert (await receive_until(communicator, "none"))["code"] == 4003
    finally:
        await database.close()


def test_the_dashboards_route_has_no_metrics() -> None:
    protect(http=None, websocket=[])
    assert PATH not in Counters().routes


def test_similar_widths_are_the_same_selection() -> None:
    assert Selection.parse({"width": "1013"}) == Selection.parse({"width": "1001"})
