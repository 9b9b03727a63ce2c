"""Test that connections end when their right to stay ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, Permission, User, update_last_login
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.cache import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.access.revocation import watch
from connections.asgi import ARRIVED
from connections.consumers import LimitedSyncConsumer
from connections.credentials.requirements import Requirements, find_lacking
from connections.credentials.sessions import verify_session
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.exceptions import DatabaseUnavailable, Refused
from connections.hub.connection import LiveConnection
from connections.metrics.counters import Counters
from connections.models import AccessToken, CloseRequest
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config
from tests.connections.conversations import JsonEcho, receive_close
from tests.connections.failing_database import (
    database_unreachable,
    statement_failing,
)
from tests.connections.login import log_in
from tests.connections.own_users import run_with_user_model
from tests.connections.switchable_database import SwitchableDatabase

pytestmark = pytest.mark.django_db(transaction=True)

in_database = database_sync_to_async


class StaffEcho(JsonEcho):
    permission_required = "auth.view_user"
    groups_required = ("staff",)


class SyncStaff(LimitedSyncConsumer):
    permission_required = ["auth.view_user"]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node that beats and polls only when the test calls it."""
    database = SwitchableDatabase()
    yield Node(make_config(), database=database, clock=FakeClock())
    await database.close()


def make_staff(name: str = "alice") -> User:
    """Make a user with the requirements of StaffEcho, the permission by a group."""
    group, _ = Group.objects.get_or_create(name="staff")
    group.permissions.add(Permission.objects.get(codename="view_user"))
    user = User.objects.create_user(name)
    user.groups.add(group)
    return user


def make_token(user: User | None = None) -> tuple[Any, AccessToken]:
    token, row = create_access_token("phone", user=user)
    return verify_access_token(token), row


async def open_as(credential: Any, node: Node, consumer: Any = JsonEcho) -> Any:
    communicator = connect_to(
        consumer, node, credential=credential, user=credential.user
    )
    assert (await communicator.connect())[0]
    return communicator


async def poll(node: Node) -> None:
    """Let a node apply close requests and check the connections that are due."""
    await node.beat()
    await node.reauthoriser.poll()


async def assert_stays(node: Node) -> None:
    await poll(node)
    assert [one.close_reason for one in node.hub] == [None]


async def assert_ends(communicator: Any, code: int, reason: str) -> None:
    close = await receive_close(communicator)
    assert (close["code"], close["reason"]) == (code, reason)
    await communicator.disconnect()


# What Django says


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def change_password(user: User) -> None:
    user.set_unusable_password()  # Random, and quick: no hash is computed.
    user.save()


def leave_group(user: User) -> None:
    user.groups.remove(Group.objects.get())


def clear_groups(user: User) -> None:
    user.groups.clear()


def empty_group(user: User) -> None:
    Group.objects.get().user_set.clear()


def remove_member(user: User) -> None:
    Group.objects.get().user_set.remove(user)


def replace_groups(user: User) -> None:
    user.groups.set([])


def lose_permission(user: User) -> None:
    Group.objects.get().permissions.clear()


def delete_group(user: User) -> None:
    Group.objects.get().delete()


def rename_group(user: User) -> None:
    group = Group.objects.get()
    group.name = "others"
    group.save()


@pytest.mark.parametrize(
    ("revoke", "code", "reason"),
    [
        (deactivate, 4009, "deactivated"),
        (User.delete, 4009, "deactivated"),
        (change_password, 4009, "logged_out"),
        (leave_group, 4003, "forbidden"),
        (clear_groups, 4003, "forbidden"),
        (empty_group, 4003, "forbidden"),
        (remove_member, 4003, "forbidden"),
        (replace_groups, 4003, "forbidden"),
        (lose_permission, 4003, "forbidden"),
        (delete_group, 4003, "forbidden"),
        (rename_group, 4003, "forbidden"),
    ],
)
async def test_a_lost_right_ends_the_connections_that_depend_on_it(
    node: Node, revoke: Callable[[User], Any], code: int, reason: str
) -> None:
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_as(credential, node, StaffEcho)
    await assert_stays(node)
    await in_database(revoke)(user)
    await poll(node)
    await assert_ends(communicator, code, reason)


async def test_a_users_other_changes_and_other_users_losses_end_nothing(
    node: Node,
) -> None:
    user = await in_database(make_staff)()
    other = await in_database(make_staff)("bob")
    credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_as(credential, node, StaffEcho)
    user.email = "alice@example.com"
    await user.asave()
    for loss in (change_password, leave_group, deactivate):
        await in_database(loss)(other)
    await other.adelete()
    await assert_stays(node)
    await communicator.disconnect()


# Which changes post a request


def sign_up(user: User) -> None:
    """A user that was just created signs in."""
    bob = User.objects.create_user("bob")
    bob.save()
    update_last_login(User, bob)


def sign_in(user: User) -> None:
    update_last_login(User, user)


def save_last_login_with_the_rest(user: User) -> None:
    user.last_login = timezone.now()
    user.save()


def save_another_field(user: User) -> None:
    user.email = "alice@example.com"
    user.save()


def save_some_fields(user: User) -> None:
    user.is_active = False  # It is not written.
    user.save(update_fields=["email", "first_name"])


def save_without_password(user: User) -> None:
    User.objects.defer("password").get(pk=user.pk).save()


def save_its_groups(user: User) -> None:
    user.groups.set(user.groups.all())
    user.groups.remove(*[])
    for group in user.groups.all():
        group.save()


def activate(user: User) -> None:
    """It was inactive, and is saved again."""
    User.objects.filter(pk=user.pk).update(is_active=False)
    inactive = User.objects.get(pk=user.pk)
    inactive.email = "alice@example.com"
    inactive.save()


@pytest.mark.parametrize(
    "change",
    [
        User.save,
        sign_up,
        sign_in,
        save_last_login_with_the_rest,
        save_another_field,
        save_some_fields,
        save_without_password,
        save_its_groups,
        activate,
    ],
)
def test_a_change_that_concerns_no_connection_posts_nothing(
    change: Callable[[User], Any],
) -> None:
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    change(user)
    assert not CloseRequest.objects.exists()


class Employee(User):
    """The same users by a proxy, whose signals are sent with the proxy."""

    class Meta:
        proxy = True
        app_label = "employees"


def deactivate_later(user: User) -> None:
    """One save writes another field, the next one the change."""
    user.is_active = False
    user.save(update_fields=["email"])
    user.save()


def overwrite(user: User) -> None:
    """A row that was never read may overwrite one of the database."""
    User(pk=user.pk, username="alice", is_active=False).save()


def set_deferred_password(user: User) -> None:
    change_password(User.objects.defer("password").get(pk=user.pk))


def lose_staff(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    staff = User.objects.get(pk=user.pk)
    staff.is_staff = False
    staff.save()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (deactivate, "deactivated"),
        (deactivate_later, "deactivated"),
        (overwrite, "deactivated"),
        (change_password, "reauthorise"),
        (set_deferred_password, "reauthorise"),
        (lose_staff, "reauthorise"),
        (rename_group, "reauthorise"),
    ],
)
def test_a_change_of_a_right_posts_one_request(
    change: Callable[[User], Any], reason: str
) -> None:
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    change(user)
    assert CloseRequest.objects.get().reason == reason


def test_users_of_a_proxy_are_watched() -> None:
    watch()  # As at the start of a process, after all models were made.
    deactivate(Employee.objects.get(pk=make_staff().pk))
    assert CloseRequest.objects.get(reason="deactivated").target == "user"


class RoleBackend(ModelBackend):
    """A backend that decides by a field of its own."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        return bool(user_obj.first_name == "admin")


def test_with_own_permissions_any_field_may_be_a_right(settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.RoleBackend"]
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    sign_in(user)
    assert not CloseRequest.objects.exists()
    user.first_name = "guest"
    user.save()
    assert CloseRequest.objects.get().reason == "reauthorise"


class Uncomparable:
    """An array of numpy, as pgvector has it, compares its elements."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __str__(self) -> str:
        return "[1, 2]"


def test_a_user_with_values_that_cannot_be_compared_is_saved() -> None:
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    for _ in range(2):
        user.first_name = Uncomparable()  # type: ignore[assignment]
        user.save()
    assert User.objects.get().first_name == "[1, 2]"
    assert not CloseRequest.objects.exists()


WITHOUT_GROUPS = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.contenttypes", "django.contrib.auth", "channels",
        "connections", "people",
    ],
    AUTH_USER_MODEL="people.Person", SECRET_KEY="x" * 50,
)
django.setup()
print(django.apps.apps.ready)
"""

PERSON = """
from django.contrib.auth.models import AbstractUser

class Person(AbstractUser):
    groups = None
    user_permissions = None
"""


def test_a_user_model_may_have_neither_groups_nor_permissions(tmp_path: Path) -> None:
    assert run_with_user_model(tmp_path, PERSON, WITHOUT_GROUPS) == "True\n"


# Changes that the database of the requests does not take

PART = "A receiver of Django's signals"


def count_failures() -> int:
    return Counters().get_failures().get(PART, 0)


@pytest.fixture
def lacks_the_table(transactional_db: None) -> Iterator[None]:
    with connection.schema_editor() as editor:
        editor.alter_db_table(CloseRequest, "connections_closerequest", "elsewhere")
    yield
    with connection.schema_editor() as editor:
        editor.alter_db_table(CloseRequest, "elsewhere", "connections_closerequest")


def test_a_logout_ends_the_session_while_the_database_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Sessions in a cache need none; Django flushes the session after the signal."""
    request = RequestFactory().get("/")
    request.session = SessionStore()
    request.session.create()
    request.user = User(pk=7)
    key = request.session.session_key or ""
    before = count_failures()
    with database_unreachable():
        logout(request)
    assert key
    assert not SessionStore().exists(key)
    assert count_failures() == before + 1
    (said,) = [
        one
        for one in caplog.records
        if getattr(one, "event", "") == "close_requests_failed"
    ]
    assert "the database does not answer" in said.getMessage()


def test_a_logout_ends_the_session_without_the_table(
    client: Client, lacks_the_table: None
) -> None:
    client.force_login(make_staff())
    client.logout()
    assert not Session.objects.exists()


@pytest.mark.parametrize("change", [deactivate, change_password, leave_group])
def test_a_transaction_goes_on_without_the_table(
    lacks_the_table: None, change: Callable[[User], Any]
) -> None:
    """As in a migration of data on a fresh database."""
    user = make_staff()
    called: list[int] = []
    before = count_failures()
    with transaction.atomic():
        change(user)
        user.first_name = "Alice"
        user.save()
        transaction.on_commit(lambda: called.append(1))
        Group.objects.create(name="others")
    assert User.objects.get().first_name == "Alice"
    assert Group.objects.filter(name="others").exists()
    assert called == [1]
    assert count_failures() > before


# One transaction


def test_a_transaction_posts_each_request_once() -> None:
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    with transaction.atomic():
        for _ in range(3):
            change_password(user)
            user.groups.clear()
    assert CloseRequest.objects.count() == 1
    change_password(user)
    assert CloseRequest.objects.count() == 2


def test_a_request_of_a_savepoint_that_is_rolled_back_is_posted_again() -> None:
    user = User.objects.get(pk=make_staff().pk)
    CloseRequest.objects.all().delete()
    with transaction.atomic():
        with contextlib.suppress(KeyError), transaction.atomic():
            change_password(user)
            raise KeyError
        change_password(user)
    assert CloseRequest.objects.count() == 1


def test_a_transaction_of_many_users_rechecks_all_connections_once() -> None:
    group = Group.objects.create(name="guests")
    users = [User(username=f"user{number}") for number in range(150)]
    User.objects.bulk_create(users)
    with transaction.atomic():
        for user in User.objects.all():
            change_password(user)
    rows = CloseRequest.objects.values_list("target", flat=True)
    assert sorted(set(rows)) == ["all", "user"]
    assert len(rows) == 101
    CloseRequest.objects.all().delete()
    group.user_set.set(users)
    group.user_set.clear()
    assert CloseRequest.objects.get().target == "all"


async def test_a_token_outlives_the_password_of_its_user(node: Node) -> None:
    """It has an own right, which is revoked by itself."""
    user = await in_database(make_staff)()
    credential, _ = await in_database(make_token)(user)
    communicator = await open_as(credential, node)
    await in_database(change_password)(user)
    await assert_stays(node)
    await communicator.disconnect()


def revoke(row: AccessToken) -> None:
    row.revoked_at = timezone.now()
    row.save()


@pytest.mark.parametrize("end", [revoke, AccessToken.delete])
async def test_a_revoked_or_deleted_token_ends_its_connections(
    node: Node, end: Callable[[AccessToken], Any]
) -> None:
    credential, row = await in_database(make_token)()
    other, _ = await in_database(make_token)()
    communicator, bystander = (
        await open_as(credential, node),
        await open_as(other, node),
    )
    await in_database(end)(row)
    await poll(node)
    await assert_ends(communicator, 4009, "revoked")
    assert [one.close_reason for one in node.hub] == [None]
    await bystander.disconnect()


def log_out(key: str, user: User) -> None:
    """Send the signal that Django sends before it deletes the session."""
    request = RequestFactory().get("/")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user_logged_out.send(sender=User, request=request, user=user)


async def test_a_logout_ends_the_connections_of_its_session_alone(node: Node) -> None:
    user = await in_database(make_staff)()
    keys = [await in_database(log_in)(user) for _ in range(2)]
    here, there = [
        await open_as(await in_database(verify_session)(key), node) for key in keys
    ]
    await in_database(log_out)(keys[0], user)
    await poll(node)
    await assert_ends(here, 4009, "logged_out")
    assert [one.close_reason for one in node.hub] == [None]
    await there.disconnect()


async def test_a_handshake_between_the_logout_and_the_end_of_its_session_is_ended(
    node: Node,
) -> None:
    """Django announces the logout first and deletes the session after."""
    user = await in_database(make_staff)()
    key = await in_database(log_in)(user)
    await in_database(log_out)(key, user)
    await poll(node)
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(1)
    credential = await in_database(verify_session)(key)
    late = connect_to(JsonEcho, node, credential=credential, user=user)
    await late.send_input({"type": "websocket.connect"})
    await assert_ends(late, 4009, "logged_out")


async def test_nothing_happens_before_the_commit(node: Node) -> None:
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_as(credential, node)

    def roll_back() -> None:
        with transaction.atomic():
            deactivate(User.objects.get())
            transaction.set_rollback(True)

    await in_database(roll_back)()
    await assert_stays(node)
    assert not await CloseRequest.objects.filter(reason="deactivated").aexists()
    await communicator.disconnect()


# Handshakes in flight


async def test_a_request_during_a_handshake_applies_to_it(
    node: Node,
) -> None:
    """Its credential was read before the request, its slot is taken after."""
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    may_accept = asyncio.Event()

    class Slow(JsonEcho):
        async def connect(self) -> None:
            await may_accept.wait()
            await self.accept()

    slow = connect_to(Slow, node, credential=credential, user=user)
    await slow.send_input({"type": "websocket.connect"})
    await in_database(change_password)(user)
    await poll(node)
    may_accept.set()
    assert (await slow.receive_output())["type"] == "websocket.accept"
    await node.reauthoriser.poll()
    await assert_ends(slow, 4009, "logged_out")


async def test_a_handshake_is_as_old_as_its_first_byte(node: Node) -> None:
    """The moment of the middleware counts, not that of the consumer."""
    credential, row = await in_database(make_token)()
    arrived = node.clock()
    await in_database(revoke)(row)
    await poll(node)
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(1)
    late = connect_to(
        JsonEcho, node, credential=credential, user=None, extensions={ARRIVED: arrived}
    )
    await late.send_input({"type": "websocket.connect"})
    await assert_ends(late, 4009, "revoked")


# What nodes find by themselves


def vanish(**changes: Any) -> Callable[[], Any]:
    return lambda: User.objects.update(**changes)


def erase_users() -> None:
    """Delete all users by SQL, without the signals of Django."""
    with connection.cursor() as cursor:
        cursor.execute("delete from auth_user_groups")
        cursor.execute("delete from auth_user")


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (vanish(is_active=False), 4009, "deactivated"),
        (vanish(password="!"), 4009, "logged_out"),
        (Session.objects.all().delete, 4009, "logged_out"),
        (
            lambda: Session.objects.update(
                expire_date=timezone.now() - timedelta(minutes=1)
            ),
            4100,
            "token_expired",
        ),
        (
            lambda: User.objects.get().groups.through.objects.all().delete(),
            4003,
            "forbidden",
        ),
        (erase_users, 4009, "deactivated"),
    ],
)
async def test_a_change_without_a_signal_is_found_within_the_period(
    node: Node, change: Callable[[], Any], code: int, reason: str
) -> None:
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_as(credential, node, StaffEcho)
    await poll(node)

    def apply() -> None:
        with connection.constraint_checks_disabled():
            change()

    await CloseRequest.objects.all().adelete()
    await in_database(apply)()
    assert not await CloseRequest.objects.aexists()
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)
    await poll(node)
    await assert_ends(communicator, code, reason)
    await in_database(Session.objects.all().delete)()
    await in_database(User.groups.through.objects.all().delete)()


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"revoked_at": timezone.now()}, 4009, "revoked"),
        ({"expires_at": timezone.now() - timedelta(1)}, 4100, "token_expired"),
    ],
)
async def test_a_token_changed_without_a_signal_is_found(
    node: Node, changes: dict[str, Any], code: int, reason: str
) -> None:
    credential, _ = await in_database(make_token)()
    communicator = await open_as(credential, node)
    await AccessToken.objects.aupdate(**changes)
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)
    await poll(node)
    await assert_ends(communicator, code, reason)


@pytest.fixture
async def observing() -> AsyncIterator[Node]:
    """A node on which the expiry of the route "ws/old/" is observed."""
    database = SwitchableDatabase()
    modes = {"routes": {"ws/old/": {"expiry": "observe"}}}
    yield Node(make_config(enforce=modes), database=database, clock=FakeClock())
    await database.close()


async def recheck(node: Node) -> None:
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)
    await poll(node)


async def open_observed(credential: Any, node: Node) -> Any:
    communicator = connect_to(
        StaffEcho, node, credential=credential, user=credential.user, route="ws/old/"
    )
    assert (await communicator.connect())[0]
    return communicator


def expire_sessions() -> None:
    Session.objects.update(expire_date=timezone.now() - timedelta(minutes=1))


@pytest.mark.parametrize("knows_expiry", [True, False])
async def test_a_session_that_expired_stays_where_expiry_is_observed(
    observing: Node, knows_expiry: bool
) -> None:
    """Also after `clearsessions`; what does not belong to expiry still ends it."""
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    if not knows_expiry:  # As that of a middleware's user.
        credential = replace(credential, expires_at=None)
    communicator = await open_observed(credential, observing)
    await in_database(expire_sessions)()
    await recheck(observing)
    await in_database(call_command)("clearsessions")
    assert not await Session.objects.aexists()
    await recheck(observing)
    await assert_stays(observing)
    assert observing.counters.get_totals(())["would_have"] == {"expiry": 1}
    await User.objects.aupdate(is_active=False)
    await recheck(observing)
    await assert_ends(communicator, 4009, "deactivated")


async def test_an_expired_session_that_vanished_has_expired(observing: Node) -> None:
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    past = timezone.now() - timedelta(minutes=1)
    communicator = await open_observed(replace(credential, expires_at=past), observing)
    await Session.objects.all().adelete()
    await recheck(observing)
    await assert_stays(observing)
    await communicator.disconnect()


async def test_a_logout_ends_a_session_whose_expiry_is_observed(
    observing: Node,
) -> None:
    user = await in_database(make_staff)()
    credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_observed(credential, observing)
    await Session.objects.all().adelete()
    await recheck(observing)
    await assert_ends(communicator, 4009, "logged_out")


@pytest.mark.parametrize("kind", ["token", "session"])
async def test_a_lost_permission_ends_an_expired_credential_that_is_observed(
    observing: Node, kind: str
) -> None:
    user = await in_database(make_staff)()
    if kind == "token":
        credential, _ = await in_database(make_token)(user)
    else:
        credential = await in_database(lambda: verify_session(log_in(user)))()
    communicator = await open_observed(credential, observing)
    past = timezone.now() - timedelta(days=1)
    await AccessToken.objects.aupdate(expires_at=past)
    await in_database(expire_sessions)()
    await recheck(observing)
    await assert_stays(observing)
    await in_database(lambda: user.groups.through.objects.all().delete())()
    await recheck(observing)
    await assert_ends(communicator, 4003, "forbidden")


async def test_a_poll_takes_few_queries_for_all_connections(node: Node) -> None:
    """One each for users, tokens, sessions, groups and the permission."""
    communicators = []
    for number in range(4):
        user = await in_database(make_staff)(f"user{number}")
        credential = await in_database(lambda user=user: verify_session(log_in(user)))()
        communicators.append(await open_as(credential, node, StaffEcho))
    token, _ = await in_database(make_token)()
    communicators.append(await open_as(token, node))
    moments = {one.reauthorise_at for one in node.hub}
    assert len(moments) == 5
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)
    queries: list[int] = []

    def count(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with CaptureQueriesContext(connection) as captured:
                found = work(*args)
            queries.append(len(captured))
            return found

        return run

    assert isinstance(node.database, SwitchableDatabase)
    node.database.around_read = count
    await node.reauthoriser.poll()
    await node.reauthoriser.poll()
    assert queries == [5]
    for communicator in communicators:
        await communicator.disconnect()


async def test_the_last_answer_holds_while_the_database_is_away_and_not_for_ever(
    node: Node,
) -> None:
    credential, _ = await in_database(make_token)()
    communicator = await open_as(credential, node)
    assert isinstance(node.database, SwitchableDatabase)
    assert isinstance(node.clock, FakeClock)
    node.database.is_away = True
    node.clock.advance(node.config.stale_authorisation_seconds)
    with pytest.raises(DatabaseUnavailable):
        await node.reauthoriser.poll()
    assert [one.close_reason for one in node.hub] == [None]
    node.clock.advance(1)
    with pytest.raises(DatabaseUnavailable):
        await node.reauthoriser.poll()
    await assert_ends(communicator, 4104, "unavailable")


async def test_an_answer_from_the_database_restarts_the_time(node: Node) -> None:
    credential, _ = await in_database(make_token)()
    communicator = await open_as(credential, node)
    assert isinstance(node.database, SwitchableDatabase)
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(200)
    await node.reauthoriser.poll()
    node.database.is_away = True
    node.clock.advance(200)
    with pytest.raises(DatabaseUnavailable):
        await node.reauthoriser.poll()
    assert [one.close_reason for one in node.hub] == [None]
    node.database.is_away = False
    await node.reauthoriser.poll()
    assert [one.close_reason for one in node.hub] == [None]
    await communicator.disconnect()


async def test_a_request_during_a_poll_is_checked_again(node: Node) -> None:
    """The poll may have read the database before the change."""
    credential, _ = await in_database(make_token)()
    communicator = await open_as(credential, node)
    live: LiveConnection = next(iter(node.hub))
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.config.reauthorise_seconds)

    async def revoke() -> None:
        await AccessToken.objects.aupdate(revoked_at=timezone.now())
        node.reauthoriser.ask(live)

    assert isinstance(node.database, SwitchableDatabase)
    node.database.after_read = revoke
    await node.reauthoriser.poll()
    assert live.close_reason is None
    node.database.after_read = None
    await node.reauthoriser.poll()
    await assert_ends(communicator, 4009, "revoked")


async def test_an_anonymous_connection_is_never_checked(node: Node) -> None:
    communicator = connect_to(JsonEcho, node, client_id="address:192.0.2.7")
    await communicator.connect()
    assert isinstance(node.database, SwitchableDatabase)
    assert isinstance(node.clock, FakeClock)
    node.database.is_away = True
    node.clock.advance(10_000)
    await node.reauthoriser.poll()
    assert [one.close_reason for one in node.hub] == [None]
    await communicator.disconnect()


# Requirements


@pytest.mark.parametrize("consumer", [StaffEcho, SyncStaff])
async def test_a_user_without_the_requirements_is_refused_at_the_handshake(
    node: Node, consumer: Any
) -> None:
    user = await in_database(make_staff)()
    await in_database(leave_group)(user)
    credential, _ = await in_database(make_token)(user)
    nobody, _ = await in_database(make_token)()
    for one in (credential, nobody):
        communicator = connect_to(consumer, node, credential=one, user=one.user)
        await communicator.send_input({"type": "websocket.connect"})
        await assert_ends(communicator, 4003, "forbidden")
    assert len(node.hub) == 0


async def test_requirements_hold_behind_another_authentication_stack() -> None:
    user = await in_database(make_staff)()
    communicator = connect_to(StaffEcho, user=user)
    assert (await communicator.connect())[0]
    await communicator.disconnect()
    await in_database(leave_group)(user)
    communicator = connect_to(StaffEcho, user=user)
    await communicator.send_input({"type": "websocket.connect"})
    await assert_ends(communicator, 4003, "forbidden")


async def test_requirements_are_unavailable_without_the_database(node: Node) -> None:
    user = await in_database(make_staff)()
    credential, _ = await in_database(make_token)(user)
    assert isinstance(node.database, SwitchableDatabase)
    node.database.is_away = True
    communicator = connect_to(StaffEcho, node, credential=credential, user=user)
    await communicator.send_input({"type": "websocket.connect"})
    await assert_ends(communicator, 4104, "unavailable")


class OwnBackend:
    """A backend with permissions of its own."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        return None

    def get_user(self, user_id: Any) -> None:
        return None

    def has_perm(self, user: Any, permission: str, obj: Any = None) -> bool:
        return bool(user.username == "carol" and permission == "auth.add_user")


@pytest.mark.parametrize("has_own_backend", [False, True])
def test_all_requirements_count_and_superusers_fulfil_them(
    settings: Any, has_own_backend: bool
) -> None:
    if has_own_backend:
        settings.AUTHENTICATION_BACKENDS = [
            *settings.AUTHENTICATION_BACKENDS,
            f"{__name__}.OwnBackend",
        ]
    member = make_staff("member")
    carol = User.objects.create_user("carol")
    root = User.objects.create_superuser("root")
    direct = User.objects.create_user("direct")
    direct.user_permissions.add(Permission.objects.get(codename="view_user"))
    asleep = User.objects.create_superuser("asleep", is_active=False)
    view = Requirements.read("auth.view_user", ())
    add = Requirements.read(["auth.add_user"], ())
    both = Requirements.read("auth.view_user", "staff")
    none = Requirements.read((), ())
    users = (member, carol, root, direct, asleep)
    wanted = [(needs, user) for needs in (view, add, both, none) for user in users]
    expected = {
        *((view, one.pk) for one in (carol, asleep)),
        *((add, one.pk) for one in (member, carol, direct, asleep)),
        *((both, one.pk) for one in (carol, direct, asleep)),
    }
    if has_own_backend:
        expected.discard((add, carol.pk))
    assert find_lacking(wanted) == dict.fromkeys(expected)


# Credentials in memory


@pytest.mark.parametrize("target", ["user", "token", "client", "all"])
async def test_a_revoked_credential_is_not_remembered_for_an_outage(
    node: Node, target: str
) -> None:
    user = await in_database(make_staff)()
    token, row = await in_database(create_access_token)("phone", user=user)
    await node.verifier.verify_token(token)
    values = {"user": user.pk, "token": row.pk, "client": "phone", "all": ""}
    request = CloseRequest(target=target, value=str(values[target]), reason="revoked")
    await in_database(CloseRequest.objects.post)([request])
    await poll(node)
    assert isinstance(node.database, SwitchableDatabase)
    node.database.is_away = True
    with pytest.raises(Refused) as refused:
        await node.verifier.verify_token(token)
    assert refused.value.close_reason.code == 4104


@pytest.mark.parametrize("is_its_own", [True, False])
async def test_a_credential_read_before_a_revocation_is_not_remembered(
    node: Node, is_its_own: bool
) -> None:
    """The revocation of another token at the same time has no effect."""
    token, row = await in_database(create_access_token)("phone")

    async def forget() -> None:
        node.verifier.forget("token", str(row.pk if is_its_own else row.pk + 1))

    assert isinstance(node.database, SwitchableDatabase)
    node.database.after_read = forget
    await node.verifier.verify_token(token)
    node.database.after_read = None
    node.database.is_away = True
    if is_its_own:
        with pytest.raises(Refused):
            await node.verifier.verify_token(token)
    else:
        assert (await node.verifier.verify_token(token)).client_id == "phone"


async def test_a_kick_of_others_forgets_nothing(node: Node) -> None:
    token, _ = await in_database(create_access_token)("phone")
    await node.verifier.verify_token(token)
    for target in ("session_key", "address", "connection"):
        node.verifier.forget(target, "::1")
    assert isinstance(node.database, SwitchableDatabase)
    node.database.is_away = True
    assert (await node.verifier.verify_token(token)).client_id == "phone"


@pytest.mark.django_db(transaction=True)
def test_a_change_that_was_lost_with_its_transaction_is_an_error() -> None:
    """The savepoint of the close requests went with it, as on a full disk."""
    user, group = make_staff(), Group.objects.create(name="g")
    user.groups.add(group)
    with (
        statement_failing('INSERT INTO "connections_'),
        statement_failing("ROLLBACK TO"),
    ):
        with pytest.raises(OperationalError):
            user.groups.remove(group)
        with pytest.raises(OperationalError), transaction.atomic():
            User(pk=user.pk, username="x", is_active=False).save()
        with pytest.raises(OperationalError):
            User.objects.get(pk=user.pk).delete()
    kept = User.objects.get(pk=user.pk)
    assert kept.is_active
    assert group in kept.groups.all()
