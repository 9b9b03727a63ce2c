"""Test bans in memory, by commands, in the admin and on a node."""

import asyncio
import json
from datetime import timedelta
from io import StringIO

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.access.ban_list import Bans
from connections.access.bans import impose, lift
from connections.exceptions import Refused
from connections.middleware import CredentialMiddleware
from connections.models import Ban, CloseRequest
from connections.models.alias import get_connection
from connections.node.node import Node
from connections.node.slots import NodeSlots
from connections.pool.base import Slot
from connections.pool.local import LocalPool
from connections.privacy import name_address
from connections.testing import FakeClock
from connections.testing.communicators import (
    Communicator,
    connect_to,
    make_config,
    make_node,
)
from tests.connections.conversations import (
    Echo,
    JsonEcho,
    open_connection,
    receive_close,
)
from tests.connections.failing_database import statement_failing
from tests.connections.switchable_database import SwitchableDatabase


def make_bans(*bans: Ban, clock: FakeClock | None = None) -> Bans:
    known = Bans(clock or FakeClock())
    known.replace(bans)
    return known


@pytest.mark.parametrize(
    ("banned", "address", "is_out"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.0/120", "192.0.2.200", True),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.9/24", "192.0.2.1", True),
        ("0.0.0.0/0", "203.0.113.1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.7", False),
        ("2001:db8::/64", "2001:db8::ffff", True),
        ("2001:db8::/64", "2001:db8:0:1::", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
        ("192.0.2.0/24", "", False),
        ("192.0.2.0/24", "not an address", False),
    ],
)
def test_an_address_is_matched_with_networks(
    banned: str, address: str, is_out: bool
) -> None:
    bans = make_bans(Ban(target="address", value=banned))
    assert bans.has_ban_on(address=address) is is_out


def test_clients_and_users_are_not_mistaken_for_each_other() -> None:
    bans = make_bans(Ban(target="client", value="7"), Ban(target="user", value="8"))
    assert len(bans) == 2
    assert bans.has_ban_on(client_id="7", user_id=1)
    assert bans.has_ban_on(client_id="1", user_id=8)
    assert not bans.has_ban_on(client_id="8", user_id=7)
    assert not bans.has_ban_on(client_id="1", user_id=None)


@pytest.mark.parametrize(("target", "value"), [("client", "a"), ("address", "::1")])
def test_a_ban_ends_by_itself(target: str, value: str) -> None:
    clock = FakeClock()
    until = timezone.now() + timedelta(seconds=60)
    bans = make_bans(Ban(target=target, value=value, until=until), clock=clock)
    assert bans.has_ban_on(client_id="a", address="::1")
    clock.advance(61)
    assert not bans.has_ban_on(client_id="a", address="::1")


def test_replaced_bans_are_forgotten() -> None:
    bans = make_bans(
        Ban(target="client", value="a"), Ban(target="address", value="::1")
    )
    bans.replace([])
    assert len(bans) == 0
    assert not bans.has_ban_on(client_id="a", address="::1")


def test_an_invalid_ban_does_not_affect_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bans = make_bans(
        Ban(target="address", value="nowhere"), Ban(target="address", value="::1")
    )
    assert bans.has_ban_on(address="::1")
    assert "nowhere" in caplog.text


# Commands


def run(*arguments: str) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()


@pytest.mark.django_db
def test_ban_and_unban() -> None:
    user = User.objects.create_user("alice")
    made = json.loads(run("ban", "--user", "alice", "--reason", "spam", "--json"))
    assert (made["target"], made["value"]) == ("user", str(user.pk))
    assert (made["reason"], made["author"], made["until"]) == (
        "spam",
        "manage.py ban",
        None,
    )
    request = CloseRequest.objects.get()
    assert (request.target, request.value, request.reason) == (
        "user",
        str(user.pk),
        "banned",
    )
    run("ban", "--address", "::ffff:192.0.2.9/120", "--for", "60")
    listed = json.loads(run("ban", "--list", "--json"))
    assert {one["value"] for one in listed} == {str(user.pk), "192.0.2.0/24"}
    assert "1 in force" in run("ban", "--list", "--address", "192.0.2.0/24")
    assert "lifted" in run("unban", "--user", "alice")
    assert json.loads(run("unban", "--address", "192.0.2.0/24", "--json"))["until"]
    assert "0 in force" in run("ban", "--list")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2001:db8::7", "2001:db8::/64"),
        ("2001:DB8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8::7/128", "2001:db8::7/128"),
        ("2001:db8::7/48", "2001:db8::/48"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
    ],
)
def test_an_ipv6_address_is_banned_with_its_network(text: str, value: str) -> None:
    """One client has a /64 and can take any address of it."""
    assert json.loads(run("ban", "--address", text, "--json"))["value"] == value
    assert CloseRequest.objects.get().value == value
    impose(Ban(target="address", value=text))
    assert Ban.objects.get().value == value
    assert "1 in force" in run("ban", "--list", "--address", text)
    ban = Ban.objects.get()
    ban.reason = "saved again"
    impose(ban)
    assert Ban.objects.get().value == value
    assert "lifted" in run("unban", "--address", text)
    assert not Ban.objects.exists()


@pytest.mark.django_db
def test_a_ban_of_one_ipv6_address_by_an_older_version_stays_and_is_lifted() -> None:
    Ban.objects.create(target="address", value="2001:db8::7")
    ban = Ban.objects.get()
    ban.reason = "saved again"
    impose(ban)
    assert Ban.objects.get().value == "2001:db8::7"
    bans = make_bans(*Ban.objects.all())
    assert bans.has_ban_on(address="2001:db8::7")
    assert not bans.has_ban_on(address="2001:db8::8")
    assert "1 in force" in run("ban", "--list", "--address", "2001:db8::7")
    run("unban", "--address", "2001:db8::7")
    assert not Ban.objects.exists()


@pytest.mark.django_db
def test_a_second_ban_replaces_the_first() -> None:
    run("ban", "--client", "phone", "--reason", "first", "--for", "60")
    first = Ban.objects.get()
    run("ban", "--client", "phone", "--reason", "second")
    second = Ban.objects.get()
    assert (second.pk, second.reason, second.until) == (first.pk, "second", None)
    assert second.created_at == first.created_at


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ban"], "one of --client"),
        (["ban", "--client", "a", "--user", "b"], "one of --client"),
        (["unban"], "one of --client"),
        (["ban", "--client", ""], "blank"),
        (["ban", "--client", "x" * 256], "255"),
        (["ban", "--user", "nobody"], "no user 'nobody'"),
        (["ban", "--address", "nowhere"], "no address or network such as"),
        (
            ["ban", "--client", "a", "--for", "0"],
            "--for .*expected a number",
        ),
        (
            ["ban", "--client", "a", "--for", "nan"],
            "--for .*expected a number",
        ),
        (["ban", "--client", "a", "--until", "soon"], "not a time such as"),
        (["ban", "--client", "a", "--until", "2001-02-30T00:00"], "not a time such as"),
        (["ban", "--client", "a", "--until", "2001-01-01T00:00"], "in the past"),
        (["ban", "--client", "a", "--reason", "x" * 256], "255"),
        (["unban", "--client", "a"], "no ban of client a"),
    ],
)
def test_the_commands_name_the_problem(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        run(*arguments)
    assert not Ban.objects.exists()


# The admin


@pytest.mark.django_db
def test_staff_ban_and_lift_in_the_admin(admin_client: Client) -> None:
    url = "/admin/connections/ban/"
    form = {"target": "address", "value": "::FFFF:192.0.2.7", "reason": "flood"}
    added = admin_client.post(f"{url}add/", {**form, "until_0": "", "until_1": ""})
    assert added.status_code == 302
    ban = Ban.objects.get()
    assert (ban.value, ban.author) == ("192.0.2.7", "admin")
    assert CloseRequest.objects.get().value == "192.0.2.7"
    again = admin_client.post(f"{url}add/", {**form, "until_0": "", "until_1": ""})
    assert b"There is such a ban already." in again.content
    wrong = admin_client.post(f"{url}add/", {"target": "user", "value": "nobody"})
    assert b"there is no user" in wrong.content
    assert admin_client.get(url, {"q": "192.0.2"}).status_code == 200
    deleted = admin_client.post(f"{url}{ban.pk}/delete/", {"post": "yes"})
    assert deleted.status_code == 302
    assert not Ban.objects.exists()


@pytest.mark.django_db
def test_a_ban_that_is_over_ends_no_connection(admin_client: Client) -> None:
    add, over = "/admin/connections/ban/add/", {"until_1": "00:00:00"}
    form = {"target": "client", "value": "alice", "until_0": "2001-01-01", **over}
    refused = admin_client.post(add, form).content
    assert b"Enter a time in the future, or none." in refused
    assert not Ban.objects.exists()
    form["until_0"] = "2999-01-01"
    assert admin_client.post(add, form).status_code == 302
    assert CloseRequest.objects.count() == 1
    url = f"/admin/connections/ban/{Ban.objects.get().pk}/change/"
    for until, count in (("2001-01-01", 1), ("2001-01-02", 1), ("2999-01-02", 2)):
        form |= {"until_0": until, "reason": until}
        assert admin_client.post(url, form).status_code == 302
        assert CloseRequest.objects.count() == count
    assert Ban.objects.get().reason == "2999-01-02"


@pytest.mark.django_db
def test_the_admin_lifts_all_selected_bans_or_none(admin_client: Client) -> None:
    keys = []
    for value in ("alice", "bob"):
        ban = Ban(target="client", value=value)
        impose(ban)
        keys.append(ban.pk)
    chosen = {"action": "delete_selected", "_selected_action": keys, "post": "yes"}
    with statement_failing('DELETE FROM "connections_ban"', after=1):
        assert admin_client.post("/admin/connections/ban/", chosen).status_code == 503
    assert Ban.objects.count() == 2


@pytest.mark.django_db
def test_the_admin_keeps_the_target_of_a_ban(admin_client: Client) -> None:
    """The key of a user is not taken for the name of another."""
    one = User.objects.create_user("one")
    User.objects.create_user(str(one.pk))
    ban = Ban(target="user", value="one")
    impose(ban)
    assert ban.value == str(one.pk)
    url = f"/admin/connections/ban/{ban.pk}/change/"
    form = {"target": "client", "value": "x", "reason": "new"}
    admin_client.post(url, {**form, "until_0": "", "until_1": ""})
    ban.refresh_from_db()
    assert (ban.target, ban.value, ban.reason) == ("user", str(one.pk), "new")


@pytest.mark.django_db
def test_a_ban_outlives_its_user(admin_client: Client) -> None:
    """Staff change and lift it, and no other user is taken for this one."""
    one = User.objects.create_user("one")
    key = str(one.pk)
    ban = Ban(target="user", value="one")
    impose(ban)
    one.delete()
    url = f"/admin/connections/ban/{ban.pk}/change/"
    form = {"reason": "new", "until_0": "", "until_1": ""}
    assert admin_client.post(url, form).status_code == 302
    User.objects.create_user(key)
    assert admin_client.post(url, form).status_code == 302
    ban.refresh_from_db()
    assert (ban.value, ban.reason) == (key, "new")
    User.objects.filter(username=key).delete()
    with pytest.raises(CommandError, match="no ban of user nobody"):
        run("unban", "--user", "nobody")
    assert f"user {key}" in run("ban", "--list", "--user", key)
    assert f"lifted: user {key}" in run("unban", "--user", key)
    assert not Ban.objects.exists()


# On a node


impose_here = database_sync_to_async(impose)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("target", "value"),
    [("client", "alice"), ("address", "192.0.2.0/24")],
)
async def test_a_ban_ends_open_connections_and_refuses_new_ones(
    recording: Node, target: str, value: str
) -> None:
    """It applies to client ids of consumers too, which the middleware does not know."""
    there = await open_connection(JsonEcho, recording, client=["192.0.2.7", 1])
    other = await open_connection(
        Echo, recording, client_id="bob", client=["192.0.3.7", 1]
    )
    ban = Ban(target=target, value=value)
    await impose_here(ban)
    await recording.beat()
    assert (await receive_close(there))["code"] == 4003
    back = connect_to(JsonEcho, recording, client=["::ffff:192.0.2.7", 1])
    await back.send_input({"type": "websocket.connect"})
    close = await receive_close(back)
    assert (close["code"], close["reason"]) == (4003, "banned")
    await database_sync_to_async(lift)(ban)
    await recording.beat()
    assert isinstance(recording.clock, FakeClock)
    recording.clock.advance(1)
    third = await open_connection(Echo, recording, client=["192.0.2.7", 1])
    for communicator in (other, third):
        await communicator.send_to(text_data="here")
        assert await communicator.receive_from() == "here"
    for communicator in (there, other, back, third):
        await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_bans_written_past_the_model_are_found(recording: Node) -> None:
    """New rows on a beat, changed ones when all are read again."""
    there = await open_connection(JsonEcho, recording)
    await recording.beat()
    over = timezone.now() - timedelta(days=1)
    ban = Ban(target="client", value="alice", until=over)
    await Ban.objects.abulk_create([ban])
    await recording.beat()
    assert next(iter(recording.hub)).close_reason is None
    await Ban.objects.aupdate(until=None)
    await recording.beat()
    assert next(iter(recording.hub)).close_reason is None
    assert isinstance(recording.clock, FakeClock)
    recording.clock.advance(recording.config.reauthorise_seconds)
    await recording.beat()
    assert (await receive_close(there))["code"] == 4003
    await there.disconnect()


class HesitantPool(LocalPool):
    """Returns a slot when the test allows it."""

    def __init__(self) -> None:
        super().__init__(max_total=10, evict_oldest=True)
        self.is_asked = asyncio.Event()
        self.may_give = asyncio.Event()

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        self.is_asked.set()
        await self.may_give.wait()
        return await super().acquire(slot, replaces=replaces)


@pytest.mark.django_db(transaction=True)
async def test_a_ban_read_during_the_wait_for_a_slot_counts(
    recording: Node,
) -> None:
    pool = HesitantPool()
    recording.slots = NodeSlots(
        node_id=recording.node_id,
        hub=recording.hub,
        pool=pool,
        observer=recording.observer,
    )
    communicator = connect_to(JsonEcho, recording)
    await communicator.send_input({"type": "websocket.connect"})
    await pool.is_asked.wait()
    await Ban.objects.abulk_create([Ban(target="client", value="alice")])
    await recording.gate.refresh()
    pool.may_give.set()
    assert (await receive_close(communicator))["code"] == 4003
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_an_unchanged_list_is_not_read_again(recording: Node) -> None:
    await impose_here(Ban(target="client", value="alice"))
    await recording.gate.refresh()
    recording.gate.bans.replace([])
    await recording.gate.refresh()
    assert len(recording.gate.bans) == 0


async def test_a_gate_that_never_read_the_bans_admits_no_client(
    switchable_database: SwitchableDatabase,
) -> None:
    switchable_database.is_away = True
    node = Node(make_config(), database=switchable_database, clock=FakeClock())
    with pytest.raises(Refused) as refused:
        await node.gate.open()
    assert refused.value.close_reason.code == 4104


async def test_the_log_names_the_banned_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has the address, client and origin, and bounds their length."""
    caplog.set_level("INFO", "connections.middleware")
    node = make_node(anonymous=True)
    client_id = name_address("192.0.2.7")
    node.gate.bans.replace([Ban(target="client", value=client_id)])
    communicator = Communicator(CredentialMiddleware(Echo.as_asgi()), "/ws/")
    origin = b"https://evil.example/\x1b[31m" + b"x" * 1000
    communicator.scope |= {
        "node": node,
        "client": ["192.0.2.7", 1],
        "headers": [(b"origin", origin)],
    }
    await communicator.connect()
    assert (await receive_close(communicator))["reason"] == "banned"
    (record,) = [one for one in caplog.records if "refused" in one.msg]
    text = record.getMessage()
    assert f"refused: banned; from 192.0.2.7, client {client_id!r}," in text
    assert "'https://evil.example/\\x1b[31mxxx" in text
    assert len(text) < 400
    fields = vars(record)
    assert (fields["address"], fields["client_id"]) == ("192.0.2.7", client_id)
    assert len(fields["origin"]) == 100


@pytest.mark.django_db(transaction=True)
def test_an_added_ban_is_read_without_the_others() -> None:
    """Thirty thousand bans, and one more every half second."""
    first = Ban.objects.create(target="client", value="one")
    bans = Bans(FakeClock())
    version = bans.load(None)
    Ban.objects.create(target="client", value="two")
    Ban.objects.create(target="address", value="192.0.2.0/24")
    connection = get_connection()
    with CaptureQueriesContext(connection) as captured:
        version = bans.load(version)
    rows = [one["sql"] for one in captured if '"value"' in one["sql"]]
    assert len(rows) == 1
    assert '"id" > ' in rows[0]
    assert bans.has_ban_on(client_id="one")
    assert bans.has_ban_on(client_id="two")
    assert bans.has_ban_on(address="192.0.2.9")
    first.delete()
    version = bans.load(version)
    assert not bans.has_ban_on(client_id="one")
    two = Ban.objects.get(value="two")
    two.value = "three"
    two.save()
    Ban.objects.create(target="client", value="four")
    bans.load(version)
    names = ["two", "three", "four"]
    found = [bans.has_ban_on(client_id=name) for name in names]
    assert found == [False, True, True]
