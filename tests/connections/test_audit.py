"""Test the audit stream: its sources, its export and its retention."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from connections.access.bans import impose
from connections.actions.effects import perform
from connections.actions.registry import ACTIONS, ActionRequest
from connections.announcements import post_close_requests
from connections.audit import acting, describe, record, record_limits
from connections.models import AccessToken, AuditEntry, Ban, CloseRequest
from connections.models.alias import atomic
from connections.personal_data.person import find_user_person
from connections.personal_data.tables import export
from connections.sweeper.sweeper import Sweeper
from connections.testing.communicators import make_config
from tests.connections.dashboard_pages import make_staff
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.django_db


def run(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def read_entries() -> list[tuple[str, str, str, str, str, str]]:
    names = ("actor", "via", "action", "target", "value", "reason")
    rows = AuditEntry.objects.exclude(action="limits").order_by("id")
    return list(rows.values_list(*names))


def test_commands_are_recorded_with_their_operator() -> None:
    make_connection_row("c1")
    run("connections", "kick", "--client", "alice", "--note", "flood")
    run("connections", "kick", "--id", "c1", "--author", "kim")
    run("ban", "--client", "alice", "--reason", "spam", "--author", "kim")
    run("unban", "--client", "alice")
    token = run("create_access_token", "--client", "robot").strip()
    key = str(AccessToken.objects.get().pk)
    assert read_entries() == [
        ("manage.py connections kick", "command", "end", "client", "alice", "flood"),
        ("kim", "command", "end", "connection", "c1", ""),
        ("kim", "command", "ban", "client", "alice", "spam"),
        ("manage.py unban", "command", "unban", "client", "alice", "spam"),
        ("manage.py create_access_token", "command", "issue", "token", key, ""),
    ]
    assert token not in run("audit", "export", "--json")


def test_a_note_that_is_too_long_is_refused() -> None:
    make_connection_row("c1")
    with pytest.raises(CommandError, match="255"):
        run("connections", "kick", "--client", "alice", "--note", "x" * 256)
    assert not CloseRequest.objects.exists()
    assert read_entries() == []


def test_a_ban_is_one_entry_with_its_end() -> None:
    until = timezone.now() + timedelta(hours=1)
    impose(Ban(target="address", value="192.0.2.0/24", author="kim", until=until))
    entry = AuditEntry.objects.get()
    assert (entry.via, entry.action, entry.value) == ("code", "ban", "192.0.2.0/24")
    assert entry.facts == {"until": until.isoformat()}


def test_what_users_and_limits_do_is_not_recorded() -> None:
    post_close_requests(
        *(
            CloseRequest(target="client", value="alice", reason=reason)
            for reason in ("idle", "logged_out", "reauthorise", "revoked", "kicked")
        )
    )
    actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["revoke", "end"]


def test_an_action_that_is_rolled_back_is_not_recorded() -> None:
    with pytest.raises(KeyError), atomic():
        impose(Ban(target="client", value="alice"))
        raise KeyError("planted")
    assert not AuditEntry.objects.exists()


def test_a_rule_of_django_is_recorded_as_rule(
    django_capture_on_commit_callbacks: Any,
) -> None:
    user = User.objects.create(username="alice")
    user.is_active = False
    with django_capture_on_commit_callbacks(execute=True):
        user.save()
    (entry,) = AuditEntry.objects.all()
    assert (entry.actor, entry.via, entry.value) == ("Django", "rule", str(user.pk))
    assert entry.facts == {"close_reason": "deactivated"}


@pytest.fixture
def staff() -> Iterator[Client]:
    client = Client()
    client.force_login(User.objects.create_superuser("kim"))
    yield client


def test_the_admin_records_bans_and_tokens(staff: Client) -> None:
    add = reverse("admin:connections_ban_add")
    staff.post(add, {"target": "client", "value": "alice", "reason": "spam"})
    ban = Ban.objects.get()
    staff.post(reverse("admin:connections_ban_delete", args=[ban.pk]), {"post": "yes"})
    add = reverse("admin:connections_accesstoken_add")
    staff.post(add, {"client_id": "robot", "scopes": ""})
    token = AccessToken.objects.get()
    staff.post(reverse("admin:connections_accesstoken_revoke", args=[token.pk]))
    assert read_entries() == [
        ("kim", "admin", "ban", "client", "alice", "spam"),
        ("kim", "admin", "unban", "client", "alice", "spam"),
        ("kim", "admin", "issue", "token", str(token.pk), ""),
        ("kim", "admin", "revoke", "token", str(token.pk), ""),
    ]


@pytest.mark.usefixtures("dashboard")
def test_the_dashboard_records_each_target_of_an_action() -> None:
    node = make_node_row()
    staff = Client()
    staff.force_login(
        make_staff(
            "kim", "view_livedashboard", "drain_node", "end_connection", "send_notice"
        )
    )
    for name, target, values, fields in (
        ("end", "connection", ("c1", "c2"), {"may_return": "on"}),
        ("drain", "node", (node.node_id,), {}),
        ("notice", "all", ("",), {"text": "soon"}),
    ):
        query = urlencode([("target", target), *(("value", one) for one in values)])
        url = reverse("admin:connections_live_action", args=[name])
        form = {"reason": "deploy", "spread_seconds": "0", **fields}
        assert staff.post(f"{url}?{query}", form).status_code == 302
    entries = AuditEntry.objects.order_by("id")
    assert {entry.via for entry in entries} == {"dashboard"}
    assert [(entry.action, entry.value, entry.facts) for entry in entries] == [
        ("end", "c1", {"close_reason": "asked_to_reconnect"}),
        ("end", "c2", {"close_reason": "asked_to_reconnect"}),
        ("drain", node.node_id, {}),
        ("notice", "", {"text": "soon"}),
    ]


def test_staff_read_entries_and_change_none(staff: Client) -> None:
    with acting("api", "robot"):
        record(AuditEntry(action="end", target="client", value="alice"))
    entry = AuditEntry.objects.get()
    page = staff.get(reverse("admin:connections_auditentry_changelist"))
    assert b"robot" in page.content
    url = reverse("admin:connections_auditentry_change", args=[entry.pk])
    assert b"alice" in staff.get(url).content
    assert staff.post(url, {"value": "bob"}).status_code == 403
    add = reverse("admin:connections_auditentry_add")
    assert staff.post(add, {}).status_code == 403


def test_the_export_has_a_line_for_each_entry_in_order() -> None:
    for number in range(3):
        at = timezone.now() - timedelta(days=3 - number)
        record(AuditEntry(at=at, actor="kim", action="end", value=str(number)))
    since = (timezone.now() - timedelta(days=2, hours=12)).isoformat()
    lines = run("audit", "export", "--since", since, "--json").splitlines()
    found = [json.loads(line) for line in lines]
    assert (
        found
        == [
            describe(entry)
            for entry in AuditEntry.objects.order_by("id")
            if entry.pk > 0
        ][1:]
    )
    assert [one["value"] for one in found] == ["1", "2"]
    until = run("audit", "export", "--until", since)
    assert "kim via code: end" in until
    assert run("audit", "export", "--actor", "robot") == ""
    assert run("audit", "export", "--action", "ban") == ""


def test_a_date_is_its_midnight_in_utc(settings: Any) -> None:
    settings.TIME_ZONE = "America/Los_Angeles"
    for hour in (0, 23):
        at = datetime(2030, 1, 30 + hour // 23, 23 - hour, 30, tzinfo=UTC)
        record(AuditEntry(at=at, actor="kim", action="end", value=at.isoformat()))
    found = run("audit", "export", "--since", "2030-01-31", "--json").splitlines()
    assert [json.loads(line)["value"] for line in found] == [
        "2030-01-31T00:30:00+00:00"
    ]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-02-30T00:00Z"])
def test_an_export_since_no_time_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"--since .* is not a time such as"):
        run("audit", "export", "--since", text)


def test_the_sweeper_deletes_old_entries_by_their_own_retention() -> None:
    for days in (9, 11):
        at = timezone.now() - timedelta(days=days)
        record(AuditEntry(at=at, action="end", value=str(days)))
    config = make_config(retention={"audit_days": 10})
    assert Sweeper(config, is_dry=True).sweep_once().tasks["audit_entries_pruned"] == 1
    assert Sweeper(config).sweep_once().tasks["audit_entries_pruned"] == 1
    assert [entry[4] for entry in read_entries()] == ["9"]


def test_a_changed_limit_is_recorded_once() -> None:
    """The first sweep has nothing to compare; old entries stay for comparison."""
    before = make_config(max_connections_per_client=5)
    after = make_config(max_connections_per_client=3)
    swept = [Sweeper(one).sweep_once() for one in (before, before, after, after)]
    assert [one.tasks["limits_recorded"] for one in swept] == [0, 0, 1, 0]
    first, second = AuditEntry.objects.order_by("id")
    assert (second.actor, second.via) == ("configuration", "rule")
    assert first.facts["changed"] == {}
    assert second.facts["changed"] == {"max_connections_per_client": [5, 3]}
    AuditEntry.objects.update(at=timezone.now() - timedelta(days=400))
    assert Sweeper(after).sweep_once().tasks["audit_entries_pruned"] == 1
    assert record_limits(after) == 0


@pytest.mark.parametrize("facts", [{"changed": {}, "others": {}}, {"values": "x"}, []])
def test_a_configuration_that_cannot_be_read_is_recorded_anew(facts: Any) -> None:
    AuditEntry.objects.create(via="rule", action="limits", facts=facts)
    before = make_config(max_connections_per_client=5)
    after = make_config(max_connections_per_client=3)
    assert [record_limits(one) for one in (before, before, after)] == [0, 0, 1]
    newest = AuditEntry.objects.filter(action="limits").first()
    assert newest and newest.facts["changed"] == {"max_connections_per_client": [5, 3]}


@pytest.mark.skipif(
    connection.vendor == "postgresql", reason="Django's own users have shorter names"
)
def test_the_name_of_an_actor_may_be_longer_than_its_column(client: Client) -> None:
    """An e-mail address, which many projects sign in with, has up to 254 characters."""
    name = f"{'x' * 240}@example.com"
    user = make_staff(name, "add_ban", "delete_ban", "add_accesstoken")
    client.force_login(user)
    fields = {"target": "client", "value": "eve", "reason": "", "until_0": ""}
    url = reverse("admin:connections_ban_add")
    assert client.post(url, {**fields, "until_1": ""}).status_code == 302
    ban = Ban.objects.get()
    url = reverse("admin:connections_ban_delete", args=[ban.pk])
    assert client.post(url, {"post": "yes"}).status_code == 302
    url = reverse("admin:connections_accesstoken_add")
    assert client.post(url, {"client_id": "robot", "scopes": ""}).status_code == 200
    request = ActionRequest(
        action=ACTIONS["ban"],
        target="client",
        values=("eve",),
        user=user,
        reason="a test",
    )
    perform(request)
    assert ban.author == name[:150]
    assert CloseRequest.objects.filter(author=name[:150]).count() == 2
    entries = AuditEntry.objects.exclude(action="limits")
    assert {one.actor for one in entries} == {name[:150]}
    found = export(find_user_person(user))
    assert len(found["audit_entries"]) == entries.count() == 4
