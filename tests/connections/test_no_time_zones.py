"""A project with USE_TZ=False: moments of TIME_ZONE, and a database in UTC."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.management import call_command
from django.db import connection
from django.template import engines
from django.utils import timezone

from connections.access.ban_list import Bans
from connections.alerts.measurements import read_measurements
from connections.announcements import post_close_requests
from connections.config.auth_sections import TicketsConfig
from connections.credentials.identity import Credential
from connections.credentials.tickets import issue_ticket
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.exceptions import Refused
from connections.models import (
    AccessToken,
    Alert,
    Ban,
    CloseRequest,
    Connection,
    Node,
    Sweep,
    Ticket,
)
from connections.models.clock import Now
from connections.sweeper.sweeper import Sweeper
from connections.testing.communicators import make_config
from connections.units import as_stored, as_utc
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.django_db(transaction=True)

ZONES = ("Asia/Kathmandu", "America/New_York", "UTC")


@pytest.fixture(params=[(zone, use_tz) for zone in ZONES for use_tz in (False, True)])
def zone(request: Any, settings: Any) -> Iterator[str]:
    connection.close()
    settings.TIME_ZONE, settings.USE_TZ = request.param
    yield request.param[0]
    connection.close()


def is_now(moment: datetime | None) -> bool:
    assert moment is not None
    return abs(as_utc(moment) - datetime.now(UTC)) < timedelta(seconds=30)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_the_databases_clock_is_that_of_the_columns(zone: str) -> None:
    make_node_row()
    Node.objects.update(beat_at=Now())
    node = Node.objects.get()
    assert is_now(node.beat_at) and is_now(node.started_at)
    assert list(Node.objects.filter(started_at__gte=Now() - timedelta(seconds=30)))
    assert list(Node.objects.filter(beat_at__lte=timezone.now()))
    assert list(Node.objects.serving_within(30))
    assert not Node.objects.silent_since(Now() - timedelta(seconds=30))


def test_close_requests_are_recent_and_have_their_time(zone: str) -> None:
    post_close_requests(CloseRequest(target="all", reason="kicked"))
    assert is_now(CloseRequest.objects.recent(30).get().created_at)
    CloseRequest.objects.update(created_at=timezone.now() - timedelta(seconds=90))
    assert not CloseRequest.objects.recent(60)


@pytest.mark.parametrize("hours", [-1, 1])
def test_bans_end_in_time(zone: str, hours: int) -> None:
    Ban.objects.create(
        target="client", value="alice", until=timezone.now() + timedelta(hours=hours)
    )
    bans = Bans(lambda: 0.0)
    bans.load(None)
    assert bool(Ban.objects.in_force()) is (hours > 0)
    assert bans.has_ban_on(client_id="alice") is (hours > 0)


@pytest.mark.parametrize("hours", [-1, 1])
def test_tokens_expire_in_time(zone: str, hours: int) -> None:
    expires_at = timezone.now() + timedelta(hours=hours)
    token, _ = create_access_token("phone", expires_at=expires_at)
    if hours < 0:
        with pytest.raises(Refused):
            verify_access_token(token)
        return
    found = verify_access_token(token).expires_at
    assert found is not None and found.tzinfo is not None
    assert abs(found - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)


def test_tickets_live_as_long_as_configured(zone: str) -> None:
    _, row = create_access_token("phone")
    credential = Credential(client_id="phone", token_id=row.pk)
    assert issue_ticket(credential, "https://example.com", TicketsConfig())
    assert Ticket.objects.younger_than(30) and not Ticket.objects.older_than(30)
    assert is_now(Ticket.objects.get().issued_at)


def test_a_sweep_keeps_and_finds_what_it_should(zone: str) -> None:
    make_node_row("live")
    make_connection_row("fresh", node_id="live")
    idle_at = timezone.now() - timedelta(hours=3)
    make_connection_row("idle", node_id="live", last_activity_at=idle_at)
    swept = Sweeper(make_config(idle_timeout_seconds=3600)).sweep_once()
    assert (swept.idle_requested, swept.nodes_lost, swept.connections_lost) == (1, 0, 0)
    assert is_now(Sweep.objects.get().finished_at)
    assert Connection.objects.open().count() == 2
    assert Sweep.objects.take("other", "me", 15)
    assert not Sweep.objects.take("other", "you", 15)


def test_lost_nodes_are_counted_while_they_are_recent(zone: str) -> None:
    make_node_row("n1", state="lost", stopped_at=timezone.now())
    old = timezone.now() - timedelta(hours=1)
    make_node_row("n2", state="lost", stopped_at=old)
    assert len(read_measurements().lost) == 1


def test_the_self_test_of_alerts_passes(zone: str, settings: Any) -> None:
    settings.ADMINS = ["ops@example.com"]
    lines = run("alerts", "--self-test", "--json").splitlines()
    assert all(json.loads(line)["problem"] == "" for line in lines)
    assert any("UTC" in str(one.body) for one in mail.outbox)


def test_commands_show_moments_in_utc(zone: str) -> None:
    now = timezone.now()
    make_node_row()
    make_connection_row("c1")
    Alert.objects.create(
        rule="loop_lag",
        severity="warning",
        state="firing",
        value=1,
        peak=1,
        threshold=1,
        since=now,
        fired_at=now,
    )
    run("ban", "--client", "alice", "--for", "60")
    shown = [
        json.loads(run("connections", "list", "--json"))[0]["opened_at"],
        json.loads(run("alerts", "--json").splitlines()[0])["since"],
        json.loads(run("ban", "--list", "--json"))[0]["created_at"],
    ]
    for text in shown:
        moment = datetime.fromisoformat(text)
        assert moment.utcoffset() == timedelta(0) and is_now(moment)


@pytest.mark.parametrize("text", ["2099-01-31T12:00Z", "2099-01-31T12:00"])
def test_a_ban_may_end_at_a_moment_with_and_without_zone(zone: str, text: str) -> None:
    run("ban", "--client", "alice", "--until", text)
    until = Ban.objects.get().until
    assert until is not None
    if text.endswith("Z"):
        assert as_utc(until) == datetime(2099, 1, 31, 12, tzinfo=UTC)
    else:
        local = timezone.make_naive(as_utc(until), timezone.get_default_timezone())
        assert local == datetime(2099, 1, 31, 12)


def test_pages_show_moments_in_utc(zone: str) -> None:
    template = engines["django"].from_string("{% load tz %}{{ at|utc|date:'c' }}")
    moment = as_stored(datetime(2026, 1, 1, tzinfo=UTC))
    assert template.render({"at": moment}).startswith("2026-01-01T00:00:00")


def test_an_access_token_is_listed_by_its_state(zone: str, admin_client: Any) -> None:
    create_access_token("a", expires_at=timezone.now() + timedelta(hours=1))
    assert AccessToken.objects.count() == 1
    page = admin_client.get("/admin/connections/accesstoken/")
    assert page.status_code == 200
