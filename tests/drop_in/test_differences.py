"""Test the documented differences from Channels (docs/topics/differences.md)."""

from pkgutil import resolve_name
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack, login, logout
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.conf import settings
from django.contrib.auth.models import User
from django.urls import path

from connections.consumers import LimitedConsumer
from connections.credentials.identity import Credential
from connections.exceptions import ReservedName
from connections.layers.redis import RedisLayer
from connections.middleware import OriginMiddleware
from connections.node.node import Node
from connections.routing import WebSocketRouter
from connections.testing.communicators import (
    Communicator,
    VirtualNode,
    connect_to,
    make_node,
)
from tests.connections import own_backends
from tests.connections.conversations import receive_close
from tests.drop_in.editions import load
from tests.project import ROOT

pytestmark = pytest.mark.django_db

STOCK = load("asynchronous", "stock")
LIMITED = load("asynchronous", "limited")


@pytest.fixture(autouse=True)
def memory_layer(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    }


async def open_connection(consumer: Any, url: str = "/ws/") -> Communicator:
    communicator = Communicator(consumer.as_asgi(), url)
    assert (await communicator.connect())[0]
    return communicator


async def assert_alive(communicator: Communicator) -> None:
    await communicator.send_json_to("alive?")
    assert await communicator.receive_json_from() == "alive?"
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("sent", "raised", "code"),
    [
        ({"text": '"fail"'}, ArithmeticError, "internal"),
        ({"text": "{nonsense"}, ValueError, "invalid_json"),
        ({"bytes": b"[]"}, ValueError, "invalid_message"),
    ],
)
async def test_an_error_in_a_message_is_answered_and_closes_nothing(
    sent: dict[str, Any], raised: type[Exception], code: str
) -> None:
    event = {"type": "websocket.receive", **sent}
    communicator = await open_connection(STOCK.Careless)
    await communicator.send_input(event)
    with pytest.raises(raised):
        await communicator.wait()

    communicator = await open_connection(LIMITED.Careless)
    await communicator.send_input(event)
    error = await communicator.receive_json_from()
    assert (error["type"], error["code"]) == ("error", code)
    await assert_alive(communicator)


async def test_an_event_without_a_handler_closes_nothing() -> None:
    """On Channels, one wrong group_send() ends every member."""
    stock = await open_connection(STOCK.Careless)
    limited = await open_connection(LIMITED.Careless)
    await get_channel_layer().group_send("careless", {"type": "nobody.takes"})
    with pytest.raises(ValueError, match="No handler for message type"):
        await stock.wait()
    await assert_alive(limited)


async def test_the_layer_does_not_speak_for_the_client() -> None:
    """On Channels, everybody in the group receives what no client has sent."""
    stock = await open_connection(STOCK.Careless)
    limited = await open_connection(LIMITED.Careless)
    forged = {"type": "websocket.receive", "text": "[", "bytes": None}
    await get_channel_layer().group_send("careless", forged)
    with pytest.raises(ValueError, match="Expecting value"):
        await stock.wait()
    await assert_alive(limited)


async def test_connect_that_raises_is_accepted_and_closed_4500() -> None:
    """A refusal before the accept tells a browser nothing, and it retries for ever."""
    communicator = Communicator(STOCK.Careless.as_asgi(), "/ws/connect/")
    await communicator.send_input({"type": "websocket.connect"})
    with pytest.raises(ArithmeticError):
        await communicator.wait()

    communicator = await open_connection(LIMITED.Careless, "/ws/connect/")
    bye = await communicator.receive_json_from()
    assert (bye["type"], bye["reason"]) == ("bye", "internal_error")
    assert (await communicator.receive_output())["code"] == 4500
    await communicator.disconnect()


async def test_messages_after_the_close_are_dropped() -> None:
    """Channels passes it to the server, which raises or drops it."""
    outcomes = []
    for edition in (STOCK, LIMITED):
        communicator = await open_connection(edition.Careless)
        await communicator.send_json_to("send after close")
        assert (await communicator.receive_output())["type"] == "websocket.close"
        outcomes.append(await communicator.receive_nothing())
        await communicator.disconnect()
    assert outcomes == [False, True]


async def test_json_that_nothing_takes_is_answered() -> None:
    """Without receive_json() a message goes to handle_<type>()."""
    communicator = await open_connection(STOCK.Silent)
    await communicator.send_json_to({"type": "ping"})
    assert await communicator.receive_nothing()
    await communicator.disconnect()

    communicator = await open_connection(LIMITED.Silent)
    await communicator.send_json_to({"type": "ping"})
    error = await communicator.receive_json_from()
    assert error["code"] == "unknown_type"
    await communicator.disconnect()


async def test_messages_over_the_rate_are_answered_with_an_error() -> None:
    refused = []
    # No time passes on the node, so that none of the rate comes back meanwhile.
    limited = await open_limited(make_node())
    for communicator in (await open_connection(STOCK.Careless), limited):
        for number in range(150):
            await communicator.send_json_to(number)
        answers = [await communicator.receive_json_from() for _ in range(150)]
        refused.append([one for one in answers if isinstance(one, dict)])
        await communicator.disconnect()
    assert refused[0] == []
    assert {one["code"] for one in refused[1]} == {"rate_limited"}


async def test_a_message_of_the_layer_is_a_dict() -> None:
    with pytest.raises(TypeError, match="a message is a dict, not str"):
        await RedisLayer().send("somewhere", "text")  # type: ignore[arg-type]


# Behind protect()

CHANNELS = AuthMiddlewareStack(
    URLRouter([path("ws/", STOCK.Careless.as_asgi())]),
)
ROUTES: list[Any] = [path("ws/", LIMITED.Careless.as_asgi())]


def shake_hands(application: Any, where: str = "/ws/", **scope: Any) -> Any:
    headers = [(b"host", b"testserver"), *scope.pop("headers", [])]
    communicator = Communicator(application, where, headers)
    communicator.scope.update(
        scheme="ws",
        client=["192.0.2.1", 1],
        extensions={"websocket.http.response": {}},
        **scope,
    )
    return communicator


async def get_status(communicator: Communicator) -> int:
    await communicator.send_input({"type": "websocket.connect"})
    answer = await communicator.receive_output()
    assert answer["type"] == "websocket.http.response.start"
    status: int = answer["status"]
    return status


async def test_credentials_are_mandatory() -> None:
    """Channels leaves it to each consumer what an AnonymousUser may do."""
    communicator = shake_hands(CHANNELS)
    assert (await communicator.connect())[0]
    await assert_alive(communicator)

    ours = WebSocketRouter(ROUTES)
    communicator = shake_hands(ours, node=make_node())
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4001
    await communicator.disconnect()

    communicator = shake_hands(ours, node=make_node(anonymous=True))
    assert (await communicator.connect())[0]
    await assert_alive(communicator)


async def test_an_unknown_path_is_404() -> None:
    communicator = shake_hands(CHANNELS, "/nowhere/")
    await communicator.send_input({"type": "websocket.connect"})
    with pytest.raises(ValueError, match="No route found"):
        await communicator.wait()
    ours = shake_hands(WebSocketRouter(ROUTES), "/nowhere/", node=make_node())
    assert await get_status(ours) == 404


@pytest.mark.parametrize("origin", [[], [(b"origin", b"https://elsewhere.example")]])
async def test_a_cookie_of_a_foreign_page_is_403(origin: Any) -> None:
    """Channels checks origins where a project asks it to, and admits those without."""
    headers = [*origin, (b"cookie", b"sessionid=x")]
    communicator = shake_hands(CHANNELS, headers=headers)
    assert (await communicator.connect())[0]
    await assert_alive(communicator)
    ours = OriginMiddleware(WebSocketRouter(ROUTES))
    node = make_node(anonymous=True)
    assert await get_status(shake_hands(ours, headers=headers, node=node)) == 403


async def test_a_consumer_sees_no_bearer_token_and_no_ticket() -> None:
    seen = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["subprotocols"], scope["query_string"]))
        await send({"type": "websocket.accept"})

    routes: list[Any] = [path("ws/", answer)]  # type: ignore[arg-type]
    stock, ours = URLRouter(routes), WebSocketRouter(routes)
    # A backend that takes neither, so that nothing asks a database.
    backends = ["tests.connections.own_backends.Guests"]
    node = make_node(credential_backends=backends)
    for application in (stock, ours):
        communicator = shake_hands(
            application,
            "/ws/?ticket=T&a=1",
            subprotocols=["chat", "bearer.secret"],
            node=node,
        )
        assert (await communicator.connect())[0]
        await communicator.disconnect()
    assert seen == [
        (["chat", "bearer.secret"], b"ticket=T&a=1"),
        (["chat"], b"a=1"),
    ]


async def test_a_stack_around_a_consumer_changes_no_user() -> None:
    """The user is that of the credential; protect() takes the stack beside it."""
    seen: list[Any] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["user"])
        await send({"type": "websocket.accept"})

    routes: list[Any] = [path("ws/", AuthMiddlewareStack(answer))]
    user = User(pk=7, username="alice")

    class WithUser:
        def __init__(self, application: Any) -> None:
            self.application = application

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.application({**scope, "user": user}, receive, send)

    node = make_node(credential_backends=["connections.credentials.ScopeUser"])
    communicator = shake_hands(WebSocketRouter(routes, WithUser), node=node)
    assert (await communicator.connect())[0]
    assert seen == [user]
    await communicator.disconnect()


# Limits


async def open_limited(node: Node) -> Any:
    communicator = connect_to(LIMITED.Careless, node)
    assert (await communicator.connect())[0]
    return communicator


async def test_a_client_has_so_many_connections() -> None:
    node = make_node(max_connections_per_client=1)
    first, second = await open_limited(node), await open_limited(node)
    assert (await receive_close(first))["code"] == 4005
    await first.disconnect()
    await assert_alive(second)


async def test_an_idle_connection_ends() -> None:
    node: VirtualNode = make_node(idle_timeout_seconds=300)
    communicator = await open_limited(node)
    await node.advance(301)
    assert (await receive_close(communicator))["code"] == 4300
    await communicator.disconnect()


async def test_a_message_has_a_largest_size() -> None:
    text = "x" * 2000
    stock = await open_connection(STOCK.Careless)
    await stock.send_json_to(text)
    assert await stock.receive_json_from() == text
    await stock.disconnect()
    communicator = await open_limited(make_node(max_message_size=1000))
    await communicator.send_json_to(text)
    assert (await receive_close(communicator))["code"] == 4013
    await communicator.disconnect()


async def test_a_connection_ends_with_its_authorisation() -> None:
    """Channels asks once, at the handshake."""
    node = make_node()
    communicator = await open_limited(node)
    (connection,) = node.hub
    connection.renew(
        Credential(client_id="alice", backend="tests.connections.own_backends.Valid")
    )
    own_backends.Valid.revoked.add("alice")
    node.reauthoriser.ask(connection)
    await node.reauthoriser.poll()
    own_backends.Valid.revoked.clear()
    assert (await receive_close(communicator))["code"] == 4009
    await communicator.disconnect()


async def test_a_drain_ends_connections() -> None:
    node = make_node(drain={"delay_seconds": 0, "grace_seconds": 1})
    communicator = await open_limited(node)
    await node.drain()
    assert (await receive_close(communicator))["code"] == 4200
    await communicator.disconnect()


def test_some_names_of_a_consumer_are_reserved() -> None:
    with pytest.raises(ReservedName):

        class Clashing(LimitedConsumer):
            is_activity = True  # type: ignore[assignment]


async def test_a_refusal_ahead_of_connect_calls_no_method() -> None:
    """A disconnect() relies on what connect() has set."""
    calls: list[str] = []

    class Guarded(LimitedConsumer):
        permission_required = "auth.view_user"

        async def connect(self) -> None:
            calls.append("connect")

        async def disconnect(self, code: int) -> None:
            calls.append("disconnect")

    communicator = Communicator(Guarded.as_asgi(), "/ws/")
    await communicator.connect()
    assert (await communicator.receive_output())["code"] == 4003
    await communicator.disconnect()
    assert calls == []


# What else the page names


async def test_a_refresh_is_a_credential_before_it_is_json() -> None:
    """On Channels it is JSON as any other."""
    message = {"type": "refresh", "token": "wrong"}
    stock = await open_connection(STOCK.Careless)
    await stock.send_json_to(message)
    assert await stock.receive_json_from() == message
    await stock.disconnect()
    limited = await open_connection(LIMITED.Careless)
    await limited.send_json_to(message)
    assert (await limited.receive_json_from())["type"] == "error"
    await limited.disconnect()


async def test_the_first_subprotocol_is_selected_where_a_consumer_names_none() -> None:
    selected = []
    for edition in (STOCK, LIMITED):
        communicator = Communicator(
            edition.Careless.as_asgi(), "/ws/", subprotocols=["b", "a"]
        )
        communicator.scope["node"] = make_node()  # As behind protect().
        selected.append((await communicator.connect())[1])
        await communicator.disconnect()
    assert selected == [None, "b"]


@pytest.mark.django_db(transaction=True)
async def test_a_login_in_a_consumer_changes_the_scope_and_not_the_client() -> None:
    """Channels knows no client; what the next message sees is the same on both."""
    user = await User.objects.acreate_user("alice")

    async def answer(consumer: Any, text_data: str, **kwargs: Any) -> None:
        if text_data == "login":
            await login(consumer.scope, user, settings.AUTHENTICATION_BACKENDS[0])
        else:
            await logout(consumer.scope)
        await consumer.send(text_data=consumer.scope["user"].get_username())

    for base in (AsyncWebsocketConsumer, LimitedConsumer):
        consumer: Any = type("Greeting", (base,), {"receive": answer})
        application = AuthMiddlewareStack(consumer.as_asgi())
        communicator = Communicator(application, "/ws/")
        node = make_node()
        communicator.scope["node"] = node
        assert (await communicator.connect())[0]
        clients = {one.client_id for one in node.hub}
        for text, name in (("login", "alice"), ("logout", "")):
            await communicator.send_to(text_data=text)
            assert await communicator.receive_from() == name
        assert {one.client_id for one in node.hub} == clients
        await communicator.disconnect()


async def test_a_refused_credential_is_accepted_and_closed_with_its_code() -> None:
    headers = [(b"x-key", b"wrong")]
    communicator = shake_hands(CHANNELS, headers=headers)
    assert (await communicator.connect())[0]
    await assert_alive(communicator)
    node = make_node(credential_backends=["tests.connections.own_backends.Keys"])
    ours = shake_hands(WebSocketRouter(ROUTES), headers=headers, node=node)
    assert (await ours.connect())[0]
    assert (await receive_close(ours))["code"] == 4001
    await ours.disconnect()


PAGE = ROOT / "docs/topics/differences.md"
EVENTS = "tests.connections.test_connection_events:"
FAILURES = "tests.connections.test_handler_failures:"
HERE = f"{__name__}:"
TESTS: dict[str, list[str]] = {
    "a handler raises": [
        HERE + "test_an_error_in_a_message_is_answered_and_closes_nothing",
    ],
    "a JSON consumer gets invalid JSON or a binary frame": [
        HERE + "test_an_error_in_a_message_is_answered_and_closes_nothing",
    ],
    "a handler raises `SystemExit`, or the `CancelledError` of "
    "something that it awaited": [
        FAILURES + "test_it_costs_an_error_not_the_connection",
    ],
    "`connect()` raises": [
        HERE + "test_connect_that_raises_is_accepted_and_closed_4500",
    ],
    "no method takes an event of the channel layer": [
        HERE + "test_an_event_without_a_handler_closes_nothing",
    ],
    "an event of the channel layer has a type of the server "
    "(`websocket.receive`, `lifespan.startup`) or of a method "
    "that every consumer has (`close`, `send`, `receive`)": [
        HERE + "test_the_layer_does_not_speak_for_the_client",
    ],
    "`close()` with a code that may not be sent (401, 1006, "
    '`"4000"`), or a reason that is no text': [
        EVENTS + "test_a_close_that_may_not_be_sent_ends_with_4500",
        EVENTS + "test_before_the_accept_every_close_denies",
        EVENTS + "test_a_long_reason_is_cut",
    ],
    "`accept()` with a subprotocol that was not offered, or a "
    "header that is no pair of bytes, belongs to the handshake "
    "(`Sec-WebSocket-*`, `Connection`, `Upgrade`, "
    "`Content-Length`, `Transfer-Encoding`) or has control "
    "characters, or more than 64 headers or 8,000 bytes of them": [
        EVENTS + "test_an_accept_that_cannot_be_sent_evicts_nobody",
    ],
    "`get_limits()`, `get_client_id()` or `groups` of the wrong kind": [
        EVENTS + "test_a_wrong_hook_refuses_the_connection",
        EVENTS + "test_groups_that_are_no_list_of_names_refuse_the_connection",
    ],
    "`send()` after `close()`": [
        HERE + "test_messages_after_the_close_are_dropped",
    ],
    "JSON arrives and the consumer has no `receive_json()`": [
        HERE + "test_json_that_nothing_takes_is_answered",
    ],
    '`{"type": "refresh", "token": …}` arrives': [
        HERE + "test_a_refresh_is_a_credential_before_it_is_json",
    ],
    "`login()` and `logout()` of `channels.auth`": [
        HERE + "test_a_login_in_a_consumer_changes_the_scope_and_not_the_client",
    ],
    "a refusal ahead of `connect()` (a ban, a drain, a missing permission)": [
        HERE + "test_a_refusal_ahead_of_connect_calls_no_method",
    ],
    "`accept()` without a subprotocol when several are offered": [
        HERE + "test_the_first_subprotocol_is_selected_where_a_consumer_names_none",
    ],
    "messages exceed `rate_limit`": [
        HERE + "test_messages_over_the_rate_are_answered_with_an_error",
    ],
    "a client opens more than `max_connections_per_client` connections": [
        HERE + "test_a_client_has_so_many_connections",
    ],
    "a connection is idle for `idle_timeout_seconds`": [
        HERE + "test_an_idle_connection_ends",
    ],
    "a message is larger than `max_message_size`": [
        HERE + "test_a_message_has_a_largest_size",
    ],
    "the server stops": [
        HERE + "test_a_drain_ends_connections",
    ],
    "a consumer uses `is_activity`, `is_json`, `presence`, `get_client_id`, "
    "`get_limits`, `permission_required` or `groups_required` for "
    "something else": [
        HERE + "test_some_names_of_a_consumer_are_reserved",
    ],
    "a message for the channel layer is no dict, over Redis pub/sub": [
        HERE + "test_a_message_of_the_layer_is_a_dict",
    ],
    "a handshake brings no credentials": [
        HERE + "test_credentials_are_mandatory",
    ],
    "credentials are refused": [
        HERE + "test_a_refused_credential_is_accepted_and_closed_with_its_code",
    ],
    "no route takes the path": [
        HERE + "test_an_unknown_path_is_404",
    ],
    "`Host` or `Origin` is foreign": [
        HERE + "test_a_cookie_of_a_foreign_page_is_403",
    ],
    "no `Origin` and only a cookie, or no credentials": [
        HERE + "test_a_cookie_of_a_foreign_page_is_403",
    ],
    "a handshake brings `bearer.*` subprotocols, or `ticket` in its query": [
        HERE + "test_a_consumer_sees_no_bearer_token_and_no_ticket",
    ],
    "`AuthMiddlewareStack` stands around a consumer": [
        HERE + "test_a_stack_around_a_consumer_changes_no_user",
    ],
    "the credential ends: logout, password, deactivation, "
    "revocation, permission, expiry": [
        HERE + "test_a_connection_ends_with_its_authorisation",
    ],
}
"""The tests of each row of the page, by its first cell."""


def test_each_difference_of_the_page_has_tests() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line[:2] == "| "]
    cells = [row[2:].partition(" | ")[0] for row in rows]
    assert [one for one in cells if one not in ("---", "situation")] == list(TESTS)
    for tests in TESTS.values():
        for one in tests:
            assert callable(resolve_name(one))
