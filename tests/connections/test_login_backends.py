"""Test the ready-made backends: a user of the scope, a signed cookie, DRF."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack, login, logout
from channels.db import database_sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.http import HttpResponse
from django.test import AsyncClient
from django.urls import path

from connections.config.auth_sections import DEFAULT_BACKENDS
from connections.consumers import LimitedJsonConsumer
from connections.credentials import Credential, RestFramework, SignedCookie
from connections.credentials.backends import find_backend_problems
from connections.credentials.tokens import create_access_token
from connections.dashboard.consumers import PATH
from connections.models import Ban, CloseRequest
from connections.node.current import get_detached_node
from connections.node.node import Node
from connections.routing import WebSocketRouter, protect
from connections.testing import FakeClock, wait_until
from connections.testing.communicators import (
    PATIENCE_SECONDS,
    Communicator,
    make_config,
)
from connections.units import utc_now
from tests.connections.conversations import receive_close, receive_type
from tests.connections.login import log_in
from tests.connections.switchable_database import SwitchableDatabase

in_database = database_sync_to_async

Headers = list[tuple[bytes, bytes]]

SCOPE_USER = "connections.credentials.ScopeUser"
SIGNED_COOKIE = "connections.credentials.SignedCookie"
REST_FRAMEWORK = "connections.credentials.RestFramework"


class Seen(LimitedJsonConsumer):
    """Sends what its scope says about the client, and logs in and out."""

    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"].get_username()
        client = self.connection.client_id
        await self.send_json({"type": "seen", "client": client, "user": user})

    async def handle_login(self, content: Any) -> None:
        user = await User.objects.aget(username=content["name"])
        await login(self.scope, user, django_settings.AUTHENTICATION_BACKENDS[0])
        await in_database(self.scope["session"].save)()
        await self.send_json({"type": "done", "user": str(self.scope["user"])})

    async def handle_logout(self, content: Any) -> None:
        await logout(self.scope)
        await self.send_json({"type": "done", "user": str(self.scope["user"])})


class HeaderMiddleware:
    """A project's middleware: the user that a header names, without a session."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        names = [value.decode() for name, value in scope["headers"] if name == b"x-key"]
        user = await User.objects.filter(username__in=names).afirst()
        await self.application({**scope, "user": user}, receive, send)


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


def shake_hands(
    node: Node, headers: Headers, middleware: Any = None, **scope: Any
) -> Communicator:
    router = WebSocketRouter([path("ws/", Seen.as_asgi())], middleware)
    communicator = Communicator(router, "/ws/", headers)
    communicator.scope.update(node=node, client=["192.0.2.1", 1], **scope)
    return communicator


async def open_as(*args: Any, **scope: Any) -> tuple[Communicator, Any]:
    communicator = shake_hands(*args, **scope)
    assert (await communicator.connect())[0]
    return communicator, await communicator.receive_json_from()


async def get_code(*args: Any, **scope: Any) -> int:
    communicator = shake_hands(*args, **scope)
    await communicator.connect()
    code: int = (await receive_close(communicator))["code"]
    return code


async def recheck(node: Node) -> None:
    await node.beat()
    for connection in node.hub:
        node.reauthoriser.ask(connection)
    await node.reauthoriser.poll()


def session_cookie(user: User) -> Headers:
    key = log_in(
        user,
        **{
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: django_settings.AUTHENTICATION_BACKENDS[0],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        },
    )
    return [(b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={key}".encode())]


def signed_cookie(user: User) -> Headers:
    response = HttpResponse()
    SignedCookie().set_cookie(response, user)
    (name, morsel), *_ = response.cookies.items()
    return [(b"cookie", f"{name}={morsel.value}".encode())]


def header(user: User) -> Headers:
    return [(b"x-key", user.username.encode())]


def import_tokens() -> Any:
    """Skip a test where the libraries for REST are not installed."""
    name = "rest_framework_simplejwt.tokens"
    return pytest.importorskip(name, reason="only the main cell has its libraries")


def bearer(user: User) -> Headers:
    tokens = import_tokens()
    return [(b"authorization", f"Bearer {tokens.AccessToken.for_user(user)}".encode())]


@pytest.fixture
def _simple_jwt(settings: Any) -> None:
    settings.REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": [
            "rest_framework_simplejwt.authentication.JWTAuthentication"
        ]
    }
    settings.SECRET_KEY = "x" * 64


WAYS: dict[str, Any] = {
    "scope user of a session": (SCOPE_USER, session_cookie, AuthMiddlewareStack),
    "scope user of a middleware": (SCOPE_USER, header, HeaderMiddleware),
    "signed cookie": (SIGNED_COOKIE, signed_cookie, None),
    "Simple JWT": (REST_FRAMEWORK, bearer, None),
}

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("_simple_jwt"),
]


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_finds_the_user(make: Any, way: str) -> None:
    backend, bring, middleware = WAYS[way]
    user = await User.objects.acreate_user("alice")
    headers = await in_database(bring)(user)
    communicator, seen = await open_as(make(backend), headers, middleware)
    assert (seen["client"], seen["user"]) == (f"user:{user.pk}", "alice")
    await communicator.disconnect()


@pytest.mark.parametrize("way", WAYS)
async def test_without_a_user_it_is_4001_unless_anonymous(make: Any, way: str) -> None:
    backend, _, middleware = WAYS[way]
    if backend == REST_FRAMEWORK:
        import_tokens()
    assert await get_code(make(backend), [], middleware) == 4001
    node = make(backend, anonymous=True)
    communicator, seen = await open_as(node, [], middleware)
    assert (seen["client"], seen["user"]) == ("address:192.0.2.1", "")
    await communicator.disconnect()


def deactivate(user: User) -> None:
    User.objects.update(is_active=False)


def change_password(user: User) -> None:
    user.set_unusable_password()
    user.save()


def ban(user: User) -> None:
    Ban.objects.create(target="user", value=str(user.pk))


def end_user(user: User) -> None:
    CloseRequest.objects.create(target="user", value=str(user.pk), reason="kicked")


def end_sessions(user: User) -> None:
    Session.objects.all().delete()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (deactivate, "deactivated"),
        (change_password, "logged_out"),
        (User.delete, "deactivated"),
        (ban, "banned"),
        (end_user, "kicked"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_each_way_ends_with_its_user(
    make: Any, way: str, change: Any, reason: str
) -> None:
    backend, bring, middleware = WAYS[way]
    node, user = make(backend), await User.objects.acreate_user("alice")
    headers = await in_database(bring)(user)
    communicator, _ = await open_as(node, headers, middleware)
    await recheck(node)
    assert [one.close_reason for one in node.hub] == [None]
    await in_database(change)(user)
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == reason
    await communicator.disconnect()


@pytest.mark.parametrize("change", [end_sessions, change_password])
@pytest.mark.parametrize("backends", [(SCOPE_USER,), ()])
async def test_a_user_of_a_session_ends_with_it(
    make: Any, backends: Any, change: Any
) -> None:
    """With anonymous the middleware's user is found without ScopeUser too."""
    backends = backends or ("tests.connections.own_backends.Nobody",)
    node = make(*backends, anonymous=True)
    user = await User.objects.acreate_user("alice")
    headers = await in_database(session_cookie)(user)
    communicator, seen = await open_as(node, headers, AuthMiddlewareStack)
    assert seen["client"] == f"user:{user.pk}"
    await in_database(change)(user)
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


@pytest.mark.parametrize("change", [end_sessions, change_password])
async def test_a_user_without_protect_ends_with_the_session(
    make: Any, change: Any
) -> None:
    node, user = make(SCOPE_USER), await User.objects.acreate_user("alice")
    headers = await in_database(session_cookie)(user)
    communicator = Communicator(AuthMiddlewareStack(Seen.as_asgi()), "/ws/", headers)
    communicator.scope["node"] = node
    assert (await communicator.connect())[0]
    await in_database(change)(user)
    await recheck(node)
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


async def test_a_user_whose_hash_fails_is_refused(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method of the project raises, which costs its own connection alone."""
    node, user = make(SCOPE_USER), await User.objects.acreate_user("alice")

    def fail(self: User) -> str:
        raise KeyError("planted")

    monkeypatch.setattr(User, "get_session_auth_hash", fail)
    for application in (
        WebSocketRouter([path("ws/", Seen.as_asgi())], HeaderMiddleware),
        HeaderMiddleware(Seen.as_asgi()),
    ):
        communicator = Communicator(application, "/ws/", header(user))
        communicator.scope.update(node=node, client=["192.0.2.1", 1])
        await communicator.connect()
        assert (await receive_close(communicator))["code"] == 4500
        await communicator.disconnect()


async def test_a_session_of_the_scope_expires(make: Any) -> None:
    node, user = make(SCOPE_USER), await User.objects.acreate_user("alice")
    headers = await in_database(session_cookie)(user)
    communicator, _ = await open_as(node, headers, AuthMiddlewareStack)
    (connection,) = node.hub
    session = await Session.objects.aget()
    assert connection.expires_at == session.expire_date
    await communicator.disconnect()


async def test_a_http_logout_ends_a_user_of_the_scope(make: Any) -> None:
    node, user = make(SCOPE_USER), await User.objects.acreate_superuser("alice")
    headers = await in_database(session_cookie)(user)
    communicator, _ = await open_as(node, headers, AuthMiddlewareStack)
    client = AsyncClient()
    key = headers[0][1].decode().partition("=")[2]
    client.cookies[django_settings.SESSION_COOKIE_NAME] = key
    assert (await client.post("/admin/logout/")).status_code == 302
    await node.beat()
    assert (await receive_close(communicator))["reason"] == "logged_out"
    await communicator.disconnect()


@pytest.mark.parametrize("way", WAYS)
async def test_a_consumer_logs_in_and_out(make: Any, way: str) -> None:
    backend, bring, middleware = WAYS[way]
    user = await User.objects.acreate_user("alice")
    await User.objects.acreate_user("bob")
    headers = await in_database(bring)(user)
    communicator, _ = await open_as(make(backend), headers, middleware)
    await communicator.send_json_to({"type": "login", "name": "bob"})
    assert (await receive_type(communicator, "done"))["user"] == "bob"
    await communicator.send_json_to({"type": "logout"})
    assert (await receive_type(communicator, "done"))["user"] == "AnonymousUser"
    await communicator.disconnect()


async def test_an_inactive_user_of_the_scope_is_refused(make: Any) -> None:
    user = await User.objects.acreate_user("alice", is_active=False)
    assert await get_code(make(SCOPE_USER), header(user), HeaderMiddleware) == 4009


async def test_the_dashboard_takes_sessions_whatever_the_list(make: Any) -> None:
    node = make("tests.connections.own_backends.Nobody")
    user = await User.objects.acreate_superuser("alice")
    staff = await in_database(session_cookie)(user)
    for headers, is_admitted in ((staff, True), ([], False)):
        communicator = Communicator(WebSocketRouter([]), f"/{PATH}", headers)
        communicator.scope.update(node=node, client=["192.0.2.1", 1])
        assert (await communicator.connect())[0]
        if is_admitted:
            await wait_until(lambda: len(node.hub.viewers) == 1, 20)
        else:
            assert (await receive_close(communicator))["code"] == 4001
        await communicator.disconnect()


def test_protect_takes_no_stack_as_its_routes() -> None:
    with pytest.raises(TypeError, match="middleware=AuthMiddlewareStack"):
        protect(http=None, websocket=AuthMiddlewareStack(None))


def test_protect_warns_of_a_scope_user_that_nothing_finds(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WEBSOCKET = {"credential_backends": [SCOPE_USER]}
    protect(http=None, websocket=[], middleware=AuthMiddlewareStack)
    assert "no middleware" not in caplog.text
    protect(http=None, websocket=[])
    assert "no middleware" in caplog.text


async def test_an_unknown_path_is_404_before_the_middleware(make: Any) -> None:
    communicator = Communicator(
        WebSocketRouter([], HeaderMiddleware), "/nowhere/", [(b"x-key", b"alice")]
    )
    communicator.scope.update(
        node=make(SCOPE_USER), extensions={"websocket.http.response": {}}
    )
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output())["status"] == 404


# The signed cookie


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("a" if text[-1] != "a" else "b"),
        lambda text: text.split(":")[0],
        lambda text: text.replace(":", "", 1),
        lambda text: "1." + text,
        lambda text: "::",
    ],
)
async def test_a_cookie_with_another_signature_is_none(make: Any, change: Any) -> None:
    user = await User.objects.acreate_user("alice")
    ((name, value),) = signed_cookie(user)
    cookie, _, text = value.decode().partition("=")
    headers = [(name, f"{cookie}={change(text)}".encode())]
    assert await get_code(make(SIGNED_COOKIE), headers) == 4001


async def test_a_signed_cookie_ends_with_the_password_and_its_age(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, user = make(SIGNED_COOKIE), await User.objects.acreate_user("alice")
    headers = signed_cookie(user)
    communicator, _ = await open_as(node, headers)
    (connection,) = node.hub
    assert connection.expires_at is not None
    left = (connection.expires_at - utc_now()).total_seconds()
    assert 0 <= SignedCookie.max_age_seconds - left < 60
    await communicator.disconnect()
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now + SignedCookie.max_age_seconds + 2)
        assert await get_code(node, headers) == 4001
    await in_database(change_password)(user)
    assert await get_code(node, headers) == 4001


# Django REST framework


async def test_a_browser_sends_its_token_as_a_subprotocol(make: Any) -> None:
    user = await User.objects.acreate_user("alice")
    token = (await in_database(bearer)(user))[0][1].split()[1].decode()
    node = make(REST_FRAMEWORK)
    offered = ["chat", f"bearer.{token}"]
    communicator, seen = await open_as(node, [], None, subprotocols=offered)
    assert seen["user"] == "alice"
    (connection,) = node.hub
    assert connection.expires_at is not None
    await communicator.disconnect()


async def test_a_refresh_brings_another_token(make: Any) -> None:
    user = await User.objects.acreate_user("alice")
    headers = await in_database(bearer)(user)
    communicator, _ = await open_as(make(REST_FRAMEWORK), headers)
    token = headers[0][1].split()[1].decode()
    await communicator.send_json_to({"type": "refresh", "token": token})
    assert (await receive_type(communicator, "refreshed"))["expires_at"]
    await communicator.send_json_to({"type": "refresh", "token": token + "x"})
    assert (await receive_type(communicator, "error"))["code"] == "invalid_message"
    await communicator.disconnect()


async def test_a_class_that_waits_for_another_service_delays_no_token(
    make: Any, settings: Any
) -> None:
    import_tokens()
    may_go = threading.Event()

    class Waiting:
        """Asks a service that does not answer."""

        def authenticate(self, request: Any) -> None:
            may_go.wait(PATIENCE_SECONDS)

    class Asking(RestFramework):
        authentication_classes = (Waiting,)

    node, backend = make(*DEFAULT_BACKENDS), Asking()
    scope = {"node": node, "path": "/ws/", "headers": [], "query_string": b""}
    asking = [asyncio.create_task(backend.authenticate(scope)) for _ in range(8)]
    token, _ = await in_database(create_access_token)("phone")
    assert (await node.verifier.verify_token(token)).client_id == "phone"
    may_go.set()
    assert await asyncio.gather(*asking) == [None] * 8


async def test_a_wrong_token_is_counted_and_an_expired_one_is_not(make: Any) -> None:
    tokens = import_tokens()
    user = await User.objects.acreate_user("alice")
    node = make(REST_FRAMEWORK, handshake={"failures_per_address_burst": 1})
    token = tokens.AccessToken.for_user(user)
    token.payload["exp"] = int(time.time()) - 10
    headers = [(b"authorization", f"Bearer {token}".encode())]
    assert await get_code(node, headers) == 4100
    assert not node.gate.failures.is_limited("192.0.2.1")
    for text in ("x", "x.y.z", "a.e30.b"):
        wrong = [(b"authorization", f"Bearer {text}".encode())]
        assert await get_code(make(REST_FRAMEWORK), wrong) == 4001
    assert await get_code(node, wrong) == 4001
    assert node.gate.failures.is_limited("192.0.2.1")


def test_a_missing_rest_framework_is_an_error_of_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rest_framework.settings", None)
    (problem,) = find_backend_problems([REST_FRAMEWORK])
    assert "pip install djangorestframework" in str(problem)


def test_classes_that_cannot_be_imported_are_an_error(settings: Any) -> None:
    import_tokens()
    name = "nowhere.Authentication"
    settings.REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [name]}
    settings.WEBSOCKET = {"credential_backends": [REST_FRAMEWORK]}
    with pytest.raises(SystemCheckError, match=name):
        call_command("check")


async def test_a_user_of_no_table_ends_with_its_token_alone(
    make: Any, settings: Any
) -> None:
    import_tokens()
    name = "rest_framework_simplejwt.authentication.JWTStatelessUserAuthentication"
    settings.REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [name]}
    node, user = make(REST_FRAMEWORK), await User.objects.acreate_user("alice")
    headers = await in_database(bearer)(user)
    await user.adelete()
    communicator = shake_hands(node, headers)
    assert (await communicator.connect())[0]
    await recheck(node)
    assert [one.close_reason for one in node.hub] == [None]
    (connection,) = node.hub
    assert connection.expires_at is not None
    await communicator.disconnect()


@pytest.mark.django_db
async def test_a_token_that_knox_removed_at_its_expiry_has_expired() -> None:
    """The node ends it with 4100, or observes the expiry; 4009 is for a logout."""
    import_tokens()
    now = utc_now()
    logged_out, expired, endless = (
        Credential(client_id=f"c{number}", state=(Session, "gone"), expires_at=end)
        for number, end in enumerate((now + timedelta(hours=1), now, None))
    )
    staying = await RestFramework().may_stay([logged_out, expired, endless])
    assert staying == {expired}


async def say(communicator: Any, **content: Any) -> str:
    await communicator.send_json_to(content)
    return str((await receive_type(communicator, "done"))["user"])


@pytest.mark.parametrize("way", ["token", "anonymous", "base class"])
async def test_a_consumer_logs_in_and_out_without_a_login_backend(
    make: Any, way: str
) -> None:
    """With a token, as nobody at first, and with the base class alone."""
    await User.objects.acreate_user("bob")
    if way == "base class":
        node = get_detached_node()
        application = AuthMiddlewareStack(Seen.as_asgi())
        communicator = Communicator(application, "/ws/")
        assert (await communicator.connect())[0]
        await communicator.receive_json_from()
    elif way == "token":
        token, _ = await in_database(create_access_token)("phone")
        headers = [(b"authorization", f"Bearer {token}".encode())]
        node = make(*DEFAULT_BACKENDS)
        communicator, _ = await open_as(node, headers)
    else:
        node = make(*DEFAULT_BACKENDS, anonymous=True)
        communicator, _ = await open_as(node, [])
    clients = {one.client_id for one in node.hub}
    assert await say(communicator, type="login", name="bob") == "bob"
    assert {one.client_id for one in node.hub} == clients
    assert await say(communicator, type="logout") == "AnonymousUser"
    await communicator.disconnect()
