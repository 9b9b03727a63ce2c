"""Cases of users that are in another database; test_routers.py runs them."""

import io
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.checks import ERROR, run_checks
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone

from connections import close_codes
from connections.access.bans import impose
from connections.config.loader import get_config
from connections.credentials.identity import Credential
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.credentials.tickets import issue_ticket, redeem_ticket
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.exceptions import Refused
from connections.models import AccessToken, Ban, CloseRequest, Connection
from connections.storage.database import Database, require_tables
from connections.sweeper.sweeper import Sweeper
from sessions_history.commits import commit
from sessions_history.entries import Committed
from sessions_history.models import HistoryEntry, Session
from sessions_history.reads import read_entries_after
from tests.connections.failing_database import database_unreachable
from tests.connections.login import log_in
from tests.connections.rows import make_connection_row, make_node_row
from tests.sessions_history.appends import LIMITS, make_append, make_beginning

pytestmark = pytest.mark.django_db(databases=["default", "own"], transaction=True)


def test_each_table_is_in_one_of_the_databases() -> None:
    tables = {one: connections[one].introspection.table_names() for one in connections}
    assert "connections_accesstoken" not in tables["default"]
    assert "auth_user" not in tables["own"]
    require_tables()
    assert [one for one in run_checks() if one.level >= ERROR] == []


def test_a_token_gives_its_user_and_follows_the_users_state() -> None:
    alice = User.objects.create_user("alice")
    token, row = create_access_token("a", user=alice)
    assert verify_access_token(token).user == alice
    assert AccessToken.objects.get(pk=row.pk).user == alice
    User.objects.update(is_active=False)
    with pytest.raises(Refused) as refused:
        verify_access_token(token)
    assert refused.value.close_reason is close_codes.DEACTIVATED


def test_a_token_without_its_user_is_deactivated() -> None:
    alice = User.objects.create_user("alice")
    token, _ = create_access_token("a", user=alice)
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM auth_user")
    with pytest.raises(Refused) as refused:
        verify_access_token(token)
    assert refused.value.close_reason is close_codes.DEACTIVATED


def test_a_ticket_gives_its_user() -> None:
    alice = User.objects.create_user("alice")
    token, _ = create_access_token("a", user=alice)
    config = get_config()
    for credential in (
        verify_access_token(token),
        Credential(client_id="user:1", user=alice, session=_Session(log_in(alice))),
    ):
        ticket = issue_ticket(credential, "", config.tickets)
        assert ticket is not None
        redeemed = redeem_ticket(ticket, "", config.tickets, config.jwt)
        assert redeemed.user == alice


class _Session:
    def __init__(self, session_key: str) -> None:
        self.session_key = session_key


def test_a_user_who_is_deleted_takes_tokens_along_and_leaves_records() -> None:
    alice = User.objects.create_user("alice")
    create_access_token("a", user=alice)
    make_node_row()
    make_connection_row("c1", user_id=alice.pk)
    Session.objects.create(session_id="s", client_id="a", user_id=alice.pk, epoch="e")
    alice.delete()
    assert not AccessToken.objects.exists()
    assert Connection.objects.get().user_id is None
    assert Session.objects.get().user_id is None
    assert CloseRequest.objects.get(target="user").reason == "deactivated"


def test_a_change_of_a_user_is_posted_when_it_is_committed() -> None:
    alice = User.objects.create_user("alice")
    with transaction.atomic():
        alice.set_password("another")
        alice.is_staff = True
        alice.save()
        assert not CloseRequest.objects.exists()
    assert CloseRequest.objects.count() == 1
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        alice.set_password("a third")
        alice.is_staff = False
        alice.save()
        _ = 1 / 0
    assert CloseRequest.objects.count() == 1


def test_commits_of_users_go_on_while_the_database_of_requests_is_away() -> None:
    alice = User.objects.create_user("alice")
    called: list[str] = []
    for change in (_lock_out, User.delete):
        with database_unreachable("own"), transaction.atomic():
            change(alice)
            transaction.on_commit(lambda: called.append("hook"))
    assert called == ["hook", "hook"]
    assert not User.objects.exists()


def _lock_out(user: User) -> None:
    user.is_active = False
    user.save()


def test_connections_of_users_and_sessions_are_rechecked() -> None:
    alice = User.objects.create_user("alice")
    snapshot = AuthorisationSnapshot(
        connection_id="c", user_id=alice.pk, session_key=log_in(alice)
    )
    assert find_close_reasons([snapshot]) == {}
    User.objects.update(is_active=False)
    assert find_close_reasons([snapshot]) == {"c": close_codes.DEACTIVATED}


def test_the_log_of_sessions_is_written_and_read() -> None:
    new = make_beginning()
    append = make_append(new.session_id, "k", '"hi"', beginning=new)
    (found,) = commit([append], replace(LIMITS, max_sessions=5))
    assert isinstance(found, Committed)
    assert [one.data for one in read_entries_after(new.session_id, 0, 9)] == ['"hi"']
    assert HistoryEntry.objects.using("own").count() == 1


async def test_threads_close_the_connections_of_both_databases() -> None:
    database = Database()
    opened: list[Any] = []

    def read() -> int:
        opened.extend(connections.all())
        return User.objects.count() + AccessToken.objects.count()

    assert await database.read(read) == 0
    await database.close()
    assert len(opened) == 2
    assert all(one.connection is None for one in opened)


PAGES = (
    "connections/accesstoken/",
    "connections/accesstoken/add/",
    "connections/accesstoken/?q=alice",
    "connections/connection/?q=alice",
    "connections/connection/c1/change/",
    "connections/livedashboard/",
    "connections/livedashboard/details/?client=alice",
    "connections/ban/",
    "connections/errorevent/",
    "connections/node/",
    "sessions_history/session/?q=alice",
    "sessions_history/historyentry/",
)


def test_pages_of_the_admin_show_and_find_users(client: Client) -> None:
    root = User.objects.create_superuser("root")
    alice = User.objects.create_user("alice")
    make_node_row()
    make_connection_row("c1", client_id="x", user_id=alice.pk)
    session_id = "s" * 32
    Session.objects.create(
        session_id=session_id, client_id="y", user_id=alice.pk, epoch="e"
    )
    _, row = create_access_token("z", user=alice)
    client.force_login(root)
    pages = {}
    for path in (*PAGES, f"connections/accesstoken/{row.pk}/change/"):
        answer = client.get(f"/admin/{path}")
        assert answer.status_code == 200, path
        pages[path] = answer.content.decode()
    assert f"accesstoken/{row.pk}/change" in pages["connections/accesstoken/?q=alice"]
    assert "connection/c1/change" in pages["connections/connection/?q=alice"]
    assert session_id in pages["sessions_history/session/?q=alice"]


def test_staff_create_tokens_and_delete_users(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    alice = User.objects.create_user("alice")
    made = client.post(
        "/admin/connections/accesstoken/add/", {"client_id": "a", "user": alice.pk}
    )
    assert "Access token created" in made.content.decode()
    assert AccessToken.objects.get().user == alice
    path = f"/admin/auth/user/{alice.pk}/delete/"
    assert client.get(path).status_code == 200
    assert client.post(path, {"post": "yes"}).status_code == 302
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize("alias", ["default", "own"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/livez", 200),
        ("get", "/readyz", 200),
        ("get", "/metrics", 200),
        ("post", "/api/tickets/", 403),
        ("get", "/admin/connections/livedashboard/", 200),
        ("get", "/admin/connections/ban/", 200),
    ],
)
def test_requests_in_a_transaction_of_either_database(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    alias: str,
    method: str,
    path: str,
    status: int,
) -> None:
    """Django refuses to run an async view in one."""
    monkeypatch.setitem(connections[alias].settings_dict, "ATOMIC_REQUESTS", True)
    client.force_login(User.objects.create_superuser("root"))
    answer = getattr(client, method)(path)
    assert answer.status_code == status, answer.content


def test_a_ban_names_a_user() -> None:
    alice = User.objects.create_user("alice")
    ban = Ban(target="user", value="alice")
    ban.full_clean()
    impose(ban)
    assert Ban.objects.get().value == str(alice.pk)


@pytest.mark.parametrize(
    "arguments",
    [
        ("connections", "list"),
        ("connections", "list", "--user", "alice"),
        ("ban", "--user", "alice"),
        ("create_access_token", "--client", "a", "--user", "alice"),
        ("alerts", "--self-test"),
        ("prune_sessions", "--dry-run"),
        ("sessions", "renew_epoch"),
        ("sweep_idle_connections", "--once"),
    ],
)
def test_commands_run(arguments: tuple[str, ...]) -> None:
    alice = User.objects.create_user("alice")
    make_node_row()
    make_connection_row("c1", user_id=alice.pk)
    call_command(*arguments, stdout=io.StringIO(), stderr=io.StringIO())


def test_the_sweeper_sweeps() -> None:
    make_node_row()
    make_connection_row("c1", closed_at=timezone.now())
    assert Sweeper(get_config()).sweep().is_leader
