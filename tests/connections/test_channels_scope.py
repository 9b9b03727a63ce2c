"""The scope of a consumer has the keys of Channels' AuthMiddlewareStack."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack, login, logout
from channels.db import database_sync_to_async
from channels.routing import URLRouter
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.urls import path

from connections.config.auth_sections import TicketsConfig
from connections.consumers import LimitedJsonConsumer
from connections.credentials.channels_scope import copy_session, parse_cookies
from connections.credentials.sessions import make_store, verify_session
from connections.credentials.tickets import issue_ticket
from connections.credentials.tokens import create_access_token
from connections.node.node import Node
from connections.routing import WebSocketRouter
from connections.testing import FakeClock
from connections.testing.communicators import Communicator, make_config
from tests.connections.login import log_in
from tests.connections.switchable_database import SwitchableDatabase

pytestmark = pytest.mark.django_db(transaction=True)

in_database = database_sync_to_async

ENGINES = ("db", "cached_db", "cache", "file", "signed_cookies")
ORIGIN = "http://testserver"

Headers = list[tuple[bytes, bytes]]


@pytest.fixture(params=ENGINES)
def engine(request: Any, settings: Any, tmp_path: Any) -> str:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    return str(request.param)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    database = SwitchableDatabase()
    yield Node(make_config(anonymous=True), database=database, clock=FakeClock())
    await database.close()


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer a handshake as a consumer would, and keep the scope for the test."""
    scope["seen"].append(scope)
    await send({"type": "websocket.accept"})


ROUTES: list[Any] = [path("ws/<str:room>/<path:rest>", answer)]  # type: ignore[arg-type]


async def reach(
    application: Any, headers: Headers, query: str = "", **keys: Any
) -> Any:
    """Return the scope of the application behind a middleware."""
    seen: list[Any] = []
    where = f"/ws/hall/a/b{query}"
    communicator = Communicator(application, where, headers)
    communicator.scope.update(keys, seen=seen, client=["192.0.2.1", 1])
    assert (await communicator.connect())[0]
    await communicator.disconnect()
    return seen[0]


async def reach_ours(node: Node, headers: Headers, query: str = "") -> Any:
    return await reach(WebSocketRouter(ROUTES), headers, query, node=node)


async def reach_stock(headers: Headers, query: str = "") -> Any:
    return await reach(AuthMiddlewareStack(URLRouter(ROUTES)), headers, query)


def cookie(**cookies: str) -> Headers:
    text = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return [(b"cookie", text.encode())]


def make_user() -> User:
    return User.objects.create_user("alice")


def make_bearer(user: User) -> Headers:
    token, _ = create_access_token("phone", user=user)
    return [(b"authorization", b"Bearer " + token.encode())]


def make_session(**values: Any) -> str:
    session = make_store(None)
    session.update(values)
    session.create()
    session.save()
    key: str = session.session_key
    return key


def make_session_cookie(user: User) -> Headers:
    key = make_session(
        **{
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        },
        theme="dark",
    )
    return cookie(**{settings.SESSION_COOKIE_NAME: key, "a": "b"})


def make_anonymous_cookie(user: User) -> Headers:
    return cookie(**{settings.SESSION_COOKIE_NAME: make_session(basket=[1, 2])})


CREDENTIALS = {
    "nothing": lambda user: [],
    "other cookies": lambda user: cookie(a="b", c=""),
    "unknown session": lambda user: cookie(sessionid="x" * 32),
    "session": make_session_cookie,
    "anonymous session": make_anonymous_cookie,
    "token": make_bearer,
    "token and session": lambda user: make_bearer(user) + make_anonymous_cookie(user),
}


@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_cookies_session_and_route_are_those_of_channels(
    engine: str, node: Node, kind: str
) -> None:
    user = await in_database(make_user)()
    headers = await in_database(CREDENTIALS[kind])(user)
    stock, ours = await reach_stock(headers), await reach_ours(node, headers)
    for key in ("cookies", "url_route", "path_remaining", "path", "query_string"):
        assert ours.get(key) == stock.get(key), key
    assert dict(ours["session"].items()) == dict(stock["session"].items())
    if kind != "unknown session":  # Its key is of no use to either.
        assert ours["session"].session_key == stock["session"].session_key
    assert isinstance(ours["session"], SessionBase)
    assert ours["session"].modified == stock["session"].modified
    is_token = kind.startswith("token")
    expected = user if is_token or kind == "session" else AnonymousUser()
    assert ours["user"] == expected
    if not is_token:
        assert ours["user"] == stock["user"]


class Switching(LimitedJsonConsumer):
    """Logs in and out as Channels' documentation shows."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content["action"] == "login":
            user = await User.objects.aget(username="bob")
            await login(self.scope, user, settings.AUTHENTICATION_BACKENDS[0])
        else:
            await logout(self.scope)
        await in_database(self.scope["session"].save)()
        key = self.scope["session"].session_key
        await self.send_json({"key": key, "user": str(self.scope["user"])})


@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_a_consumer_logs_in_and_out(engine: str, node: Node, kind: str) -> None:
    user = await in_database(make_user)()
    await in_database(User.objects.create_user)("bob")
    headers = await in_database(CREDENTIALS[kind])(user)
    routes: list[Any] = [path("ws/", Switching.as_asgi())]
    communicator = Communicator(WebSocketRouter(routes), "/ws/", headers)
    communicator.scope.update(node=node, client=["192.0.2.1", 1])
    assert (await communicator.connect())[0]
    await communicator.send_json_to({"action": "login"})
    logged_in = await communicator.receive_json_from()
    assert logged_in["user"] == "bob"
    credential = await in_database(verify_session)(logged_in["key"])
    assert credential.user.username == "bob"
    await communicator.send_json_to({"action": "logout"})
    assert (await communicator.receive_json_from())["user"] == "AnonymousUser"
    await communicator.disconnect()


async def test_the_node_rechecks_the_session_of_the_handshake(node: Node) -> None:
    """A consumer that logs out ends its connection: its session is gone."""
    user = await in_database(make_user)()
    headers = await in_database(make_session_cookie)(user)
    routes: list[Any] = [path("ws/", Switching.as_asgi())]
    communicator = Communicator(WebSocketRouter(routes), "/ws/", headers)
    communicator.scope.update(node=node, client=["192.0.2.1", 1])
    assert (await communicator.connect())[0]
    await communicator.send_json_to({"action": "logout"})
    await communicator.receive_json_from()
    (connection,) = node.hub
    node.reauthoriser.ask(connection)
    await node.reauthoriser.poll()
    assert connection.close_reason is not None
    assert connection.close_reason.reason == "logged_out"
    await communicator.disconnect()


async def test_a_ticket_of_a_session_brings_that_session(node: Node) -> None:
    user = await in_database(make_user)()
    config = TicketsConfig()

    def make() -> str:
        ticket = issue_ticket(
            verify_session(log_in(user, theme="dark")), ORIGIN, config
        )
        assert ticket is not None
        return ticket

    ticket = await in_database(make)()
    headers = [(b"origin", ORIGIN.encode())]
    scope = await reach_ours(node, headers, f"?ticket={ticket}&a=1")
    assert scope["user"] == user
    assert scope["session"]["theme"] == "dark"
    assert scope["cookies"] == {}


async def test_without_its_database_a_token_still_has_a_session(node: Node) -> None:
    user = await in_database(make_user)()
    headers = await in_database(CREDENTIALS["token and session"])(user)
    await reach_ours(node, headers)
    assert isinstance(node.database, SwitchableDatabase)
    node.database.is_away = True
    scope = await reach_ours(node, headers)
    assert scope["user"] == user
    assert isinstance(scope["session"], SessionBase)
    assert scope["cookies"].keys() == {settings.SESSION_COOKIE_NAME}


async def test_middleware_of_channels_may_stand_behind_ours(node: Node) -> None:
    """A project that wraps its consumers anyway keeps the user of its token."""
    user = await in_database(make_user)()
    headers = await in_database(make_bearer)(user)
    routes: list[Any] = [path("ws/<str:room>/<path:rest>", AuthMiddlewareStack(answer))]
    scope = await reach(WebSocketRouter(routes), headers, node=node)
    assert scope["user"] == user


def test_a_copied_session_changes_by_itself() -> None:
    session = make_store(None)
    session["basket"] = [1]
    copied = copy_session(session)
    copied["basket"].append(2)
    copied["more"] = True
    assert session["basket"] == [1] and "more" not in session


def test_cookies_of_several_headers_are_joined() -> None:
    headers = [(b"cookie", b"a=1; b=2; =; d"), (b"cookie", b"b=3")]
    assert parse_cookies(headers) == {"a": "1", "b": "3", "d": ""}
