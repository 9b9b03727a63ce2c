"""Test the backends that find the client of a handshake."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import RequestFactory
from django.urls import path

from connections.config.loader import get_config
from connections.consumers import LimitedJsonConsumer
from connections.credentials.backends import find_backend_problems
from connections.exceptions import ConfigError
from connections.hub.connection import LiveConnection
from connections.models import Ban
from connections.node.node import Node
from connections.routing import WebSocketRouter, protect
from connections.testing import FakeClock
from connections.testing.communicators import Communicator, make_config
from connections.testing.waiting import scale
from tests.connections import own_backends
from tests.connections.conversations import receive_close
from tests.connections.own_backends import Valid
from tests.connections.switchable_database import SwitchableDatabase
from tests.logged import find_records

pytestmark = pytest.mark.django_db(transaction=True)

in_database = database_sync_to_async

OURS = "connections.credentials."
AUTHENTICATION = f"{OURS}authentication"


def own(*names: str) -> list[str]:
    return [f"{own_backends.PLACE}.{name}" for name in names]


class Seen(LimitedJsonConsumer):
    """Sends the client and the user that its scope names."""

    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"].get_username()
        await self.send_json({"client": self.connection.client_id, "user": user})


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Node]]:
    databases = []

    def make(*backends: str, **values: Any) -> Node:
        databases.append(database := SwitchableDatabase())
        config = make_config(credential_backends=[*backends], **values)
        return Node(config, database=database, clock=FakeClock())

    yield make
    for database in databases:
        await database.close()


@pytest.fixture(autouse=True)
def _valid() -> Iterator[None]:
    yield
    Valid.revoked.clear()
    Valid.asked.clear()
    Valid.failure = None


def shake_hands(node: Node, key: str = "", consumer: Any = Seen) -> Communicator:
    routes: list[Any] = [path("ws/", consumer.as_asgi())]
    headers = [(b"x-key", key.encode())] if key else []
    communicator = Communicator(WebSocketRouter(routes), "/ws/", headers)
    communicator.scope.update(node=node, client=["192.0.2.1", 1])
    return communicator


async def open_as(node: Node, key: str = "", consumer: Any = Seen) -> Any:
    communicator = shake_hands(node, key, consumer)
    assert (await communicator.connect())[0]
    return communicator, await communicator.receive_json_from()


async def get_code(node: Node, key: str = "") -> int:
    communicator = shake_hands(node, key)
    await communicator.connect()
    code: int = (await receive_close(communicator))["code"]
    return code


async def recheck(node: Node) -> bool:
    await node.beat()
    for connection in node.hub:
        node.reauthoriser.ask(connection)
    return await node.reauthoriser.poll()


async def make_user(name: str = "alice") -> User:
    return await User.objects.acreate_user(name)


async def test_a_backend_finds_the_client_and_the_user(make: Any) -> None:
    await make_user()
    communicator, seen = await open_as(make(*own("Keys")), "alice")
    assert seen == {"client": "key:alice", "user": "alice"}
    await communicator.disconnect()


async def test_a_user_of_no_table_refreshes_its_credential(make: Any) -> None:
    communicator = shake_hands(make(*own("Bearers")))
    communicator.scope["headers"] = [(b"authorization", b"Bearer alice-1")]
    assert (await communicator.connect())[0]
    assert (await communicator.receive_json_from())["client"] == "alice"
    await communicator.send_json_to({"type": "refresh", "token": "alice-2"})
    assert (await communicator.receive_json_from())["type"] == "refreshed"
    await communicator.send_json_to({"type": "refresh", "token": "bob-1"})
    assert (await communicator.receive_json_from())["code"] == "invalid_message"
    await communicator.disconnect()


async def test_the_next_backend_is_asked_if_one_finds_nobody(make: Any) -> None:
    node = make(*own("Nobody", "Keys", "Guests"))
    communicator, seen = await open_as(node, "bob")
    assert seen["client"] == "guest:bob"
    await communicator.disconnect()


async def test_nobody_is_admitted_if_no_backend_finds_anybody(make: Any) -> None:
    assert await get_code(make(*own("Nobody", "Keys")), "bob") == 4001


async def test_a_wrong_credential_ends_the_search_and_is_counted(make: Any) -> None:
    node = make(
        *own("Keys", "Guests"),
        handshake={"failures_per_address_burst": 1, "per_address_per_second": 1},
    )
    assert await get_code(node, "wrong") == 4001
    assert node.gate.failures.is_limited("192.0.2.1")
    assert await get_code(node, "wrong") == 4129


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("raises", 4500),
        ("hangs", 4104),
        ("is cancelled", 4500),
        ("outage", 4104),
        ("naive", 4500),
        ("user", 4500),
        ("text", 4500),
        ("true", 4500),
        ("no client", 4500),
        ("client of another type", 4500),
        ("expired", 4100),
        ("inactive", 4009),
    ],
)
async def test_a_backend_that_fails_refuses_its_own_handshake(
    make: Any, kind: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Any other answer may come late, but comes.
    seconds = 0.1 if kind == "hangs" else scale(30)
    node = make(*own("Failing"), handshake={"timeout_seconds": seconds})
    assert await get_code(node, kind) == code
    failures = {"tests.connections.own_backends.Failing.authenticate": 1}
    is_failure = code in (4500, 4104)
    assert node.counters.get_failures().items() >= (
        failures.items() if is_failure else set()
    )
    said = find_records(caplog, AUTHENTICATION)
    logged = [one.getMessage() for one in said if one.levelno > logging.INFO]
    assert any("own_backends.Failing" in text for text in logged) is is_failure


async def test_the_failures_of_a_backend_are_logged_rarely(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = make(*own("Failing"))
    for _ in range(5):
        assert await get_code(node, "raises") == 4500
    said = find_records(caplog, AUTHENTICATION)
    assert len([one for one in said if one.exc_info]) == 1


async def test_a_credential_that_its_backend_drops_ends(make: Any) -> None:
    node = make(*own("Valid"))
    first, second = [(await open_as(node, key))[0] for key in ("a", "b")]
    assert await recheck(node)
    # A beat may have asked while the first one was alone.
    assert Valid.asked[-1] == 2
    Valid.revoked.add("guest:a")
    assert await recheck(node)
    close = await receive_close(first)
    assert (close["code"], close["reason"]) == (4009, "revoked")
    assert [one.close_reason for one in node.hub if one.client_id == "guest:b"] == [
        None
    ]
    for one in (first, second):
        await one.disconnect()


async def _raise(credentials: Any) -> Any:
    raise KeyError("planted")


async def _cancel(credentials: Any) -> Any:
    raise asyncio.CancelledError


async def _return_none(credentials: Any) -> Any:
    return None


async def _return_ids(credentials: Any) -> Any:
    return {one.client_id for one in credentials}


async def _return_list(credentials: Any) -> Any:
    return list(credentials)


@pytest.mark.parametrize(
    "failure", [_raise, _cancel, _return_none, _return_ids, _return_list]
)
async def test_a_recheck_that_fails_ends_no_connection(make: Any, failure: Any) -> None:
    """Later the connections of this backend alone end, as without a database."""
    node = make(*own("Keys", "Valid"), stale_authorisation_seconds=60)
    await make_user()
    bystander, _ = await open_as(node, "alice")
    asked, _ = await open_as(node, "b")
    Valid.failure = staticmethod(failure)
    assert not await recheck(node)
    assert [one.close_reason for one in node.hub] == [None, None]
    node.clock.advance(61)
    assert not await recheck(node)
    assert (await receive_close(asked))["code"] == 4104
    assert [one.close_reason for one in node.hub if one.user_id] == [None]
    for one in (bystander, asked):
        await one.disconnect()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda user: User.objects.update(is_active=False), 4009),
        (lambda user: (user.set_unusable_password(), user.save()), 4009),
        (lambda user: user.delete(), 4009),
        (lambda user: Ban.objects.create(target="user", value=str(user.pk)), 4003),
    ],
)
async def test_a_connection_ends_with_its_user(
    make: Any, change: Any, code: int
) -> None:
    node = make(*own("Keys"))
    user = await make_user()
    communicator, _ = await open_as(node, "alice")
    await in_database(change)(user)
    await recheck(node)
    assert (await receive_close(communicator))["code"] == code
    await communicator.disconnect()


async def test_a_lost_permission_ends_a_connection(make: Any) -> None:
    class Staff(Seen):
        permission_required = "auth.view_user"

    node = make(*own("Keys"))
    user = await make_user()
    user.is_superuser = True
    await user.asave()
    communicator, _ = await open_as(node, "alice", Staff)
    await User.objects.aupdate(is_superuser=False)
    await recheck(node)
    assert (await receive_close(communicator))["code"] == 4003
    await communicator.disconnect()


async def test_a_logout_without_a_session_rechecks_the_user(make: Any) -> None:
    """django-rest-knox deletes a token, and then sends the signal with its user."""
    node, user = make(*own("ValidKeys")), await make_user()
    communicator, _ = await open_as(node, "alice")
    Valid.revoked.add("key:alice")
    request = RequestFactory().post("/logout/")
    await in_database(user_logged_out.send)(User, request=request, user=user)
    await node.beat()
    await node.reauthoriser.poll()
    assert (await receive_close(communicator))["code"] == 4009
    await communicator.disconnect()


@pytest.mark.parametrize("key", ["", "x"])
async def test_a_client_without_credentials_is_its_address(make: Any, key: str) -> None:
    node = make(*own("Nobody"), anonymous=True)
    communicator, seen = await open_as(node, key)
    assert seen == {"client": "address:192.0.2.1", "user": ""}
    await communicator.disconnect()


class WithUser:
    """Middleware of a project around one consumer, which finds a user by itself."""

    def __init__(self, application: Any, name: str = "") -> None:
        self.application = application
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user = await User.objects.aget(username=self.name)
        await self.application({**scope, "user": user}, receive, send)


async def test_a_user_of_the_scope_comes_before_the_address(make: Any) -> None:
    """People behind one NAT do not evict each other."""
    node = make(*own("Nobody"), anonymous=True, max_connections_per_client=1)
    opened = []
    for name in ("alice", "bob"):
        await make_user(name)
        routes: list[Any] = [path("ws/", WithUser(Seen.as_asgi(), name))]  # type: ignore[arg-type]
        communicator = Communicator(WebSocketRouter(routes), "/ws/")
        communicator.scope.update(node=node, client=["192.0.2.1", 1])
        assert (await communicator.connect())[0]
        opened.append(communicator)
    assert [one.close_reason for one in node.hub] == [None, None]
    users = [await User.objects.aget(username=name) for name in ("alice", "bob")]
    assert {one.client_id for one in node.hub} == {f"user:{one.pk}" for one in users}
    users[0].set_unusable_password()
    await users[0].asave()
    await recheck(node)
    assert (await receive_close(opened[0]))["reason"] == "logged_out"
    for communicator in opened:
        await communicator.disconnect()


def test_the_default_backends_are_those_of_today() -> None:
    names = ("AccessTokens", "JsonWebTokens", "Tickets", "Sessions")
    assert get_config().credential_backends == tuple(OURS + name for name in names)
    assert find_backend_problems(get_config().credential_backends) == []


@pytest.mark.parametrize(
    ("configured", "text"),
    [
        ([], "one or more"),
        ("", "one or more"),
        (None, "one or more"),
        ([7], "no dotted path"),
        (["Sessions"], "no dotted path"),
        (own("Keys", "Keys"), "given twice"),
        (["nowhere.Backend"], "can be imported"),
        (own("Absent"), "can be imported"),
        (own("function"), "class with `async def authenticate"),
        (own("WithoutAuthenticate"), "class with `async def authenticate"),
        (own("Synchronous"), "async def authenticate()"),
        (own("SynchronousRecheck"), "async def may_stay()"),
        (own("Uncreatable"), "can be created"),
    ],
)
def test_a_wrong_list_of_backends_is_an_error(
    settings: Any, configured: Any, text: str
) -> None:
    settings.WEBSOCKET = {"credential_backends": configured}
    with pytest.raises(SystemCheckError) as failed:
        call_command("check")
    assert "credential_backends" in str(failed.value)
    assert text in str(failed.value)
    with pytest.raises(ConfigError, match="credential_backends"):
        protect(http=None, websocket=[])


async def test_the_live_connection_keeps_its_credential(make: Any) -> None:
    node = make(*own("Valid"))
    communicator: WebsocketCommunicator
    communicator, _ = await open_as(node, "a")
    (connection,) = node.hub
    assert isinstance(connection, LiveConnection)
    assert connection.credential is not None
    assert connection.credential.backend == own("Valid")[0]
    await communicator.disconnect()
