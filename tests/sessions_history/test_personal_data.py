"""Test what is exported and erased about one person, in all tables."""

import json
import threading
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.signals import pre_delete
from django.utils import timezone

from connections.access.bans import impose
from connections.announcements import post_close_requests
from connections.audit import acting, record, record_limits
from connections.credentials.tokens import create_access_token
from connections.models import (
    AccessToken,
    AuditEntry,
    Ban,
    CloseRequest,
    Connection,
    ErrorEvent,
    ForgetRequest,
    NodeCommand,
    NodePicture,
    RefusedHandshake,
    Ticket,
)
from connections.models.alias import atomic
from connections.models.credentials import digest_token
from connections.personal_data.person import find_client
from connections.personal_data.tables import get_personal_tables
from connections.presence.rooms import name_member
from connections.sweeper.forgetting import begin, erase
from connections.sweeper.results import SweepIncomplete
from connections.sweeper.sweeper import Sweeper
from connections.testing.communicators import make_config
from orchestra.models import FailedSignIn
from orchestra.sign_in import digest_username
from sessions_history.approval_models import Approval
from sessions_history.models import (
    AppendKey,
    EntryChunk,
    HistoryEntry,
    Session,
    SessionInvitation,
    SessionMember,
    StreamProducer,
    Work,
)
from tests.connections.rows import make_connection_row, make_node_row
from tests.planted import find_in_database

NAME = "planted-7Q"
"""A text that no other row has."""

ADDRESS = "203.0.113.77"
TEXT = json.dumps({"text": NAME})

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def plant(client_id: str, user: User | None, **values: Any) -> Connection:
    """Write rows of a person into every table that may name one."""
    moment = timezone.now()
    row = make_connection_row(
        f"c-{client_id[-8:]}",
        client_id=client_id,
        user=user,
        path=f"/ws/{NAME}/",
        address=ADDRESS,
        origin=f"https://{NAME}.example",
        user_agent=f"Browser of {NAME}",
        messages_in=7,
        flight=[{"event": "sent", "detail": NAME}],
        **values,
    )
    ErrorEvent.objects.create(
        error_id="e1",
        connection=row,
        node_id="n1",
        at=moment,
        exception_class="builtins.ValueError",
        where="chat.py",
        traceback=f"ValueError: {NAME}",
    )
    _, token = create_access_token(client_id, user=user)
    for number, reference in enumerate((token, None)):
        Ticket.objects.create(
            digest=str(number),
            client_digest=digest_token(client_id),
            token=reference,
            claims={"sub": NAME},
        )
    session = Session.objects.create(
        session_id=f"s-{NAME}", client_id=client_id, user=user, epoch="e"
    )
    entry = HistoryEntry.objects.create(
        session=session, offset=1, kind="message", sender="client", data=TEXT
    )
    elsewhere = Session.objects.create(
        session_id=f"of-others-{client_id[-9:]}", client_id="others", epoch="e"
    )
    HistoryEntry.objects.create(
        session=elsewhere,
        offset=1,
        kind="message",
        sender="client",
        author=name_member(user or client_id),
        data=TEXT,
    )
    Approval.objects.create(
        session=session, offset=1, part_id="c1", note=NAME, expires_at=moment
    )
    Approval.objects.create(
        session=elsewhere,
        offset=2,
        part_id="c1",
        state="denied",
        decided_by=name_member(user or client_id),
        note=NAME,
        expires_at=moment,
    )
    outcome = {"state": "denied", "by": name_member(user or client_id), "note": NAME}
    call = {"id": "c1", "type": "tool_call", "name": "refund", "approval": outcome}
    answer = HistoryEntry.objects.create(
        session=elsewhere,
        offset=2,
        kind="message",
        sender="server",
        data='{"text":""}',
        parts=f"{json.dumps(call)}\n",
        state="streaming",
    )
    EntryChunk.objects.create(
        entry=answer, sequence=1, kind="parts", text=f"{json.dumps(call)}\n"
    )
    reader = user or User.objects.create(username="reader")
    SessionMember.objects.create(session=session, user=reader, role="reader")
    SessionInvitation.objects.create(
        session=session, role="reader", author=user, expires_at=moment
    )
    EntryChunk.objects.create(entry=entry, sequence=1, kind="text", text=NAME)
    AppendKey.objects.create(session=session, key=f"m-{NAME}", offset=1)
    StreamProducer.objects.create(session=session, producer=NAME, epoch=0, sequence=0)
    Work.objects.create(
        session=session,
        offset=1,
        key=f"m-{NAME}",
        leased_until=moment,
        ends_at=moment,
    )
    RefusedHandshake.objects.create(at=moment, client_id=client_id, reason="full")
    FailedSignIn.objects.create(address=ADDRESS, user_digest=digest_username(NAME))
    impose(Ban(target="address", value=ADDRESS, reason="spam"))
    with acting("command", "kim"):
        record(
            AuditEntry(
                action="notice",
                target="all",
                reason=f"after the flood of {client_id} ({ADDRESS})",
                facts={"text": [f"Dear {client_id}"]},
            )
        )
        record(AuditEntry(action="drain", target="node", reason=client_id.upper()))
    ErrorEvent.objects.create(
        error_id="e2",
        node_id="n1",
        at=moment,
        exception_class="builtins.KeyError",
        where="chat.py",
        traceback=f"KeyError: no room for {client_id}",
    )
    targets = [("client", client_id)]
    if user is not None:
        targets.append(("user", str(user.pk)))
    for target, value in targets:
        with acting("command", "kim"):
            post_close_requests(
                CloseRequest(target=target, value=value, reason="kicked", note=NAME)
            )
            impose(Ban(target=target, value=value, reason=NAME))
        NodeCommand.objects.create(
            kind="notice", target=target, value=value, text=NAME, author="kim"
        )
    NodePicture.objects.create(
        node=make_node_row(), wanted_at=moment, content=NAME.encode()
    )
    staff = User.objects.create(username="kim", is_staff=True)
    LogEntry.objects.create(
        user=staff,
        object_repr=f"client {client_id}",
        action_flag=CHANGE,
        change_message=NAME,
    )
    return row


def test_a_forgotten_client_is_in_no_table() -> None:
    """Counts stay under one pseudonym; the rows of others stay whole."""
    other = make_connection_row("other", client_id="bob", address="192.0.2.1")
    row = plant(NAME, None, closed_at=timezone.now(), reason="idle")
    assert len(find_in_database(NAME)) >= 11
    counts = json.loads(run("forget", "--client", NAME, "--json"))
    assert counts["connections"] == 1
    assert counts["sessions"] == 1
    assert find_in_database(NAME, NAME.upper(), ADDRESS) == []
    kept = Connection.objects.get(pk=row.pk)
    assert (kept.messages_in, kept.reason, kept.user_id) == (7, "idle", None)
    assert kept.client_id.startswith("forgotten:")
    ended = AuditEntry.objects.get(action="end")
    assert (ended.value, ended.actor, ended.reason) == (kept.client_id, "kim", "")
    assert CloseRequest.objects.get(reason="kicked").value == kept.client_id
    errors = ErrorEvent.objects.order_by("error_id")
    assert [one.traceback for one in errors] == [
        "",
        f"KeyError: no room for {kept.client_id}",
    ]
    notice = AuditEntry.objects.get(action="notice")
    assert notice.facts == {"text": [f"Dear {kept.client_id}"]}
    assert RefusedHandshake.objects.get().client_id == kept.client_id
    assert not ForgetRequest.objects.exists()
    for model in (AccessToken, Ticket, SessionMember, Ban):
        assert not model.objects.exists()
    # The answers of others stay, without who decided on their calls.
    (chunk,) = EntryChunk.objects.all()
    answer = HistoryEntry.objects.get(offset=2)
    for changes in (chunk.text, answer.parts):
        assert json.loads(changes)["approval"] == {"state": "denied"}
    other.refresh_from_db()
    assert (other.client_id, other.address) == ("bob", "192.0.2.1")
    (entry,) = AuditEntry.objects.filter(action="forget")
    assert (entry.actor, entry.value) == ("manage.py forget", "")


def test_a_forgotten_user_is_in_the_users_table_alone() -> None:
    """A user that acted as staff is forgotten as the author as well."""
    user = User.objects.create(username=NAME, is_staff=True)
    plant(f"device-{NAME}", user, closed_at=timezone.now())
    shared = make_connection_row("c1", client_id="shared", user=user)
    Connection.objects.filter(pk="c1").update(closed_at=timezone.now())
    make_connection_row("c2", client_id="shared", user=User.objects.get(username="kim"))
    with acting("admin", NAME):
        impose(Ban(target="client", value="mallory", author=NAME))
    run("forget", "--user", NAME)
    assert find_in_database(NAME, ADDRESS) == [User._meta.db_table]
    shared.refresh_from_db()
    assert (shared.client_id[:10], shared.user_id) == ("forgotten:", None)
    assert Connection.objects.get(pk="c2").client_id == "shared"
    assert Ban.objects.get().value == "mallory"


def test_the_export_has_every_table_and_no_hash() -> None:
    user = User.objects.create(username=NAME)
    plant(f"device-{NAME}", user)
    make_connection_row("other", client_id="bob")
    text = run("export_person", "--user", NAME)
    found = json.loads(text)
    assert found["client_ids"] == [f"device-{NAME}", f"user:{user.pk}"]
    assert found["connections"][0]["address"] == ADDRESS
    assert [one["data"] for one in found["entries"]] == [TEXT]
    empty = {name for name, rows in found.items() if not rows}
    assert empty == set()
    assert "live_samples" not in found
    assert not {"digest", "hint", "claims"} & {*found["access_tokens"][0]}
    assert "bob" not in text
    assert AccessToken.objects.get().digest not in text


def test_an_export_is_in_the_audit_stream_until_the_person_is_forgotten() -> None:
    plant(NAME, None, closed_at=timezone.now())
    run("export_person", "--client", NAME)
    entry = AuditEntry.objects.get(action="export")
    assert (entry.actor, entry.value) == ("manage.py export_person", NAME)
    run("forget", "--client", NAME)
    entry.refresh_from_db()
    assert entry.value.startswith("forgotten:")


def replace_sleep(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Do some work when this thread sleeps; those of other parts go on sleeping."""
    own, sleep = threading.current_thread(), time.sleep

    def pause(seconds: float) -> None:
        if threading.current_thread() is own:
            work()
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", pause)


def test_nothing_is_forgotten_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the command waits for the ends of connections."""
    plant(NAME, None)

    def interrupt() -> None:
        raise KeyboardInterrupt

    replace_sleep(monkeypatch, interrupt)
    with pytest.raises(CommandError, match="interrupted; nothing was") as raised:
        run("forget", "--client", NAME)
    assert raised.value.returncode == 130
    assert not ForgetRequest.objects.exists()


def test_open_connections_end_before_anything_is_forgotten() -> None:
    plant(NAME, None)
    CloseRequest.objects.all().delete()
    with pytest.raises(CommandError, match=r"1 connection.*nothing was forgotten"):
        run("forget", "--client", NAME, "--wait", "0")
    assert Session.objects.exists()
    assert CloseRequest.objects.get().value == NAME


@pytest.mark.django_db(transaction=True)
def test_forgetting_waits_for_the_end_of_connections() -> None:
    """Another thread closes the row, as the node does after the close request."""
    row = plant(NAME, None)

    def close() -> None:
        Connection.objects.filter(pk=row.pk).update(closed_at=timezone.now())
        connection.close()

    closer = threading.Timer(0, close)
    closer.start()
    run("forget", "--client", NAME)
    closer.join()
    assert find_in_database(NAME) == []


@pytest.mark.parametrize("command", ["forget", "export_person"])
def test_an_unknown_user_or_no_person_is_named(command: str) -> None:
    with pytest.raises(CommandError, match="no user with the login name 'nobody'"):
        run(command, "--user", "nobody")
    with pytest.raises(CommandError, match="one of the arguments --user --client"):
        run(command)


def test_a_client_of_whom_nothing_is_recorded_is_said() -> None:
    with pytest.raises(CommandError, match="nothing is recorded about this person"):
        run("forget", "--client", "nobody")
    assert not AuditEntry.objects.filter(action="forget").exists()


def test_a_dry_run_counts_and_changes_nothing() -> None:
    plant(NAME, None, closed_at=timezone.now())
    before = find_in_database(NAME)
    counts = json.loads(run("forget", "--client", NAME, "--dry-run", "--json"))
    assert (counts["connections"], counts["errors"]) == (1, 1)
    assert find_in_database(NAME) == before
    done = json.loads(run("forget", "--client", NAME, "--json"))
    assert all(done.get(name, 0) <= rows + 1 for name, rows in counts.items())


def test_a_ban_of_an_address_that_others_share_stays() -> None:
    make_connection_row("other", client_id="bob", address=ADDRESS)
    plant(NAME, None, closed_at=timezone.now())
    run("forget", "--client", NAME)
    assert find_in_database(NAME) == []
    assert Ban.objects.get().value == ADDRESS
    assert AuditEntry.objects.get(target="address").value == ADDRESS


def test_a_sweeper_finishes_what_a_command_began() -> None:
    plant(NAME, None, closed_at=timezone.now())
    with acting("command", "kim"):
        request = begin(find_client(NAME))

    def stop(name: str, done: int, count_left: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(request, make_config(), stop)
    assert find_in_database(NAME)
    assert Sweeper(make_config()).sweep_once().tasks["persons_forgotten"] == 1
    assert find_in_database(NAME, ADDRESS) == []
    (entry,) = AuditEntry.objects.filter(action="forget")
    assert (entry.actor, entry.facts) == ("kim", {"person": request.pseudonym})


def test_a_person_whose_connections_are_open_waits() -> None:
    plant(NAME, None)
    begin(find_client(NAME))
    sweeper = Sweeper(make_config())
    assert sweeper.sweep_once().tasks["persons_forgotten"] == 0
    assert find_in_database(NAME)
    Connection.objects.update(closed_at=timezone.now())
    assert sweeper.sweep_once().tasks["persons_forgotten"] == 1
    assert find_in_database(NAME) == []


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_a_deleted_user_is_forgotten_if_the_setting_says_so(
    settings: Any, is_forgotten: bool
) -> None:
    settings.WEBSOCKET = make_config(privacy={"forget_deleted_users": is_forgotten})
    user = User.objects.create(username=NAME)
    plant(f"device-{NAME}", user, closed_at=timezone.now())
    with pytest.raises(KeyError), atomic():
        user.delete()
        raise KeyError("planted")
    assert not ForgetRequest.objects.exists()
    User.objects.get(username=NAME).delete()
    Sweeper(make_config()).sweep_once()
    assert bool(find_in_database(NAME)) is not is_forgotten
    actors = AuditEntry.objects.filter(action="forget").values_list("actor", "via")
    assert list(actors) == [("Django", "rule")] * is_forgotten


def test_the_sessions_of_a_deleted_user_without_connections_are_deleted(
    settings: Any,
) -> None:
    """The client id, which is of no other user, is known by the session alone."""
    settings.WEBSOCKET = make_config(privacy={"forget_deleted_users": True})
    user = User.objects.create(username=NAME)
    other = User.objects.create(username="bob")
    for number, (client_id, owner) in enumerate(
        ((f"phone-{NAME}", user), ("shared", user), ("shared", other))
    ):
        Session.objects.create(
            session_id=f"s{number}", client_id=client_id, user=owner, epoch="e"
        )
    impose(Ban(target="client", value=f"phone-{NAME}"))
    impose(Ban(target="client", value="shared"))
    RefusedHandshake.objects.create(
        at=timezone.now(), client_id=f"phone-{NAME}", reason="full"
    )
    user.delete()
    Sweeper(make_config()).sweep_once()
    assert find_in_database(NAME) == []
    assert Session.objects.get(user=other).client_id == "shared"
    assert Ban.objects.get().value == "shared"


@pytest.mark.parametrize("is_json", [True, False])
def test_a_person_whom_a_sweeper_forgot_meanwhile_is_said_to_be_forgotten(
    monkeypatch: pytest.MonkeyPatch, is_json: bool
) -> None:
    """The sweeper works while the command waits for the ends of connections."""
    plant(NAME, None)

    def sweep() -> None:
        Connection.objects.update(closed_at=timezone.now())
        Sweeper(make_config()).sweep_once()

    replace_sleep(monkeypatch, sweep)
    text = run("forget", "--client", NAME, *(["--json"] * is_json))
    assert find_in_database(NAME) == []
    if is_json:
        assert json.loads(text) == {"forgotten_by": "sweeper"}
    else:
        assert text == "forgotten, by a sweeper\n"


def test_a_person_with_a_thousand_names_is_forgotten() -> None:
    """Each is in a text, and each address has a ban."""
    user = User.objects.create(username=NAME)
    moment = timezone.now()
    entries, bans = [], []
    for number in range(600):
        name = f"{NAME}-{number}"
        address = f"198.18.{number // 250}.{number % 250 + 1}"
        make_connection_row(
            name, client_id=name, user=user, address=address, closed_at=moment
        )
        facts = {"text": f"from {address}"}
        entries.append(AuditEntry(action="notice", reason=name.upper(), facts=facts))
        bans.append(Ban(target="address", value=address))
    record(*entries)
    Ban.objects.bulk_create(bans)
    planned = json.loads(run("forget", "--user", NAME, "--dry-run", "--json"))
    assert planned["audit_texts"] == planned["bans"] == 600
    done = json.loads(run("forget", "--user", NAME, "--json"))
    assert done["audit_texts"] == done["bans"] == 600
    assert not Ban.objects.exists()
    pseudonym = Connection.objects.values_list("client_id", flat=True)[0]
    texts = AuditEntry.objects.filter(action="notice").values_list("reason", "facts")
    assert [*texts] == [(pseudonym, {"text": f"from {pseudonym}"})] * 600


def test_a_person_that_cannot_be_erased_delays_no_other() -> None:
    """The rows of one cannot be changed, for as long as its table refuses it."""
    begin(find_client("stuck"))
    Session.objects.create(session_id="s1", client_id="stuck", epoch="e")
    plant(NAME, None, closed_at=timezone.now())
    begin(find_client(NAME))
    sweeper = Sweeper(make_config())

    def refuse(instance: Session, **kwargs: Any) -> None:
        if instance.client_id == "stuck":
            raise ValueError("planted")

    pre_delete.connect(refuse, Session)
    try:
        with pytest.raises(SweepIncomplete):
            sweeper.sweep_once()
    finally:
        pre_delete.disconnect(refuse, Session)
    assert find_in_database(NAME) == []
    assert Session.objects.filter(client_id="stuck").exists()
    assert sweeper.sweep_once().tasks["persons_forgotten"] == 1
    assert not Session.objects.filter(client_id="stuck").exists()


def test_a_ban_of_an_ipv6_network_goes_if_the_person_alone_connected_from_it() -> None:
    own, shared = "2001:db8:1:2", "2001:db8:1:3"
    moment = timezone.now()
    for number, (client_id, address) in enumerate(
        (
            (NAME, f"{own}::1"),
            (NAME, f"{shared}::1"),
            ("bob", f"{shared}:a:b:c:d"),
            # Their texts begin as those of the first network do.
            ("bob", f"{own}0::1"),
        )
    ):
        make_connection_row(
            f"c{number}", client_id=client_id, address=address, closed_at=moment
        )
    singles = (f"{own}::1/128", f"{shared}::1/128")
    for value in (*singles, f"{own}::/64", f"{shared}::/64", f"{own}0::/64"):
        Ban.objects.create(target="address", value=value)
    FailedSignIn.objects.create(address=f"{own}::/64", user_digest="1")
    FailedSignIn.objects.create(address=f"{shared}::/64", user_digest="1")
    run("forget", "--client", NAME)
    left = Ban.objects.values_list("value", flat=True)
    assert {*left} == {f"{shared}::/64", f"{own}0::/64"}
    assert FailedSignIn.objects.get().address == f"{shared}::/64"


@pytest.mark.parametrize("name", ["values", "node", "changed", "forgotten"])
def test_the_recorded_configuration_outlives_a_person_with_a_word_of_it(
    name: str,
) -> None:
    config = make_config()
    record_limits(config)
    make_connection_row("c1", client_id=name, closed_at=timezone.now())
    record(AuditEntry(action="notice", reason=f"after {name}", facts={name: name}))
    run("forget", "--client", name)
    notice = AuditEntry.objects.get(action="notice")
    pseudonym = Connection.objects.get().client_id
    assert notice.reason == f"after {pseudonym}"
    assert notice.facts == {name: pseudonym}
    assert record_limits(config) == 0
    recorded = AuditEntry.objects.get(action="limits").facts
    assert recorded["values"]["node.beat_seconds"] == config.node.beat_seconds


def test_pseudonyms_are_no_names() -> None:
    """A person that signed up as their first word changes none of them."""
    others = "forgotten:0123456789abcdef"
    record(AuditEntry(action="notice", reason=f"{others} was forgotten"))
    make_connection_row("c1", client_id="forgotten", closed_at=timezone.now())
    run("forget", "--client", "forgotten")
    pseudonym = Connection.objects.get().client_id
    reason = AuditEntry.objects.get(action="notice").reason
    assert reason == f"{others} was {pseudonym}"


IMPERSONAL = {
    "DeletedSession": "random ids",
    "ForgetRequest": "deleted when the person is forgotten",
    "HourRollup": "counts",
    "LiveDashboard": "no table",
    "MinuteRollup": "counts",
    "Node": "counts of a process",
    "Sweep": "counts of sweeps",
}
"""Models without personal data, and what they hold instead."""


def test_every_table_is_in_the_registry_or_said_to_be_impersonal() -> None:
    """A new model is added to one of them, so that export and forget know it."""
    registered = {table.model.__name__ for table in get_personal_tables()}
    own = {
        model.__name__
        for label in ("connections", "sessions_history", "orchestra")
        for model in apps.get_app_config(label).get_models()
    }
    assert own - registered == {*IMPERSONAL}
    assert not registered & {*IMPERSONAL}
