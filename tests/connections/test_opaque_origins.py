"""Test that a page of an opaque origin uses a token or ticket, and nothing else."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path

from connections.consumers import LimitedJsonConsumer
from connections.credentials import SignedCookie
from connections.credentials.handshake import remove_ambient
from connections.credentials.tokens import create_access_token
from connections.middleware import OriginMiddleware
from connections.node.node import Node
from connections.routing import WebSocketRouter
from connections.storage.database import Database
from connections.testing import FakeClock
from connections.testing.communicators import Communicator, make_config
from tests.connections.conversations import receive_close
from tests.connections.login import log_in

pytestmark = pytest.mark.django_db(transaction=True)

in_database = database_sync_to_async

Headers = list[tuple[bytes, bytes]]

LISTS: dict[str, tuple[list[str], Any]] = {
    "no tickets": (["AccessTokens", "Sessions"], None),
    "scope user": (["ScopeUser"], AuthMiddlewareStack),
    "sessions first": (["Sessions", "Tickets"], None),
    "signed cookie": (["SignedCookie"], None),
}


class Seen(LimitedJsonConsumer):
    """Sends the user of its scope, and whether it has a session with values."""

    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"].get_username()
        kept = bool(self.scope["session"].session_key)
        await self.send_json({"user": user, "session": kept})


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Node]]:
    databases = []

    def make(*names: str, **values: Any) -> Node:
        databases.append(database := Database())
        backends = [f"connections.credentials.{name}" for name in names]
        config = make_config(
            allowed_origins=["null"], credential_backends=backends, **values
        )
        return Node(config, database=database, clock=FakeClock())

    yield make
    for database in databases:
        await database.close()


def shake_hands(
    node: Node,
    headers: Headers,
    origin: bytes = b"null",
    query: str = "?ticket=x",
    middleware: Any = None,
) -> Communicator:
    router = WebSocketRouter([path("ws/", Seen.as_asgi())], middleware)
    sent = [(b"host", b"testserver"), (b"origin", origin), *headers]
    communicator = Communicator(OriginMiddleware(router), f"/ws/{query}", sent)
    communicator.scope.update(node=node, client=["192.0.2.1", 1])
    return communicator


def make_cookies() -> Headers:
    """Return every cookie that the browser of a signed-in user has."""
    user = User.objects.create_user("alice")
    response = HttpResponse()
    SignedCookie().set_cookie(response, user)
    response.set_cookie(settings.SESSION_COOKIE_NAME, log_in(user))
    pairs = [f"{name}={one.value}" for name, one in response.cookies.items()]
    return [(b"cookie", "; ".join(pairs).encode())]


@pytest.mark.parametrize("name", LISTS)
async def test_a_ticket_of_no_worth_does_not_let_a_sandboxed_page_use_the_cookie(
    make: Any, name: str
) -> None:
    backends, middleware = LISTS[name]
    node, cookies = make(*backends), await in_database(make_cookies)()
    communicator = shake_hands(node, cookies, middleware=middleware)
    await communicator.connect()
    assert (await receive_close(communicator))["code"] == 4001
    own = b"http://testserver"
    communicator = shake_hands(node, cookies, own, middleware=middleware)
    assert (await communicator.connect())[0]
    assert (await communicator.receive_json_from())["user"] == "alice"
    await communicator.disconnect()


async def test_an_anonymous_client_of_a_sandboxed_page_has_no_cookie_either(
    make: Any,
) -> None:
    node, cookies = (
        make("AccessTokens", anonymous=True),
        await in_database(make_cookies)(),
    )
    communicator = shake_hands(node, cookies, middleware=AuthMiddlewareStack)
    assert (await communicator.connect())[0]
    assert await communicator.receive_json_from() == {"user": "", "session": False}
    await communicator.disconnect()


async def test_a_sandboxed_page_connects_with_a_token(make: Any) -> None:
    bob = await User.objects.acreate_user("bob")
    token, _ = await in_database(create_access_token)("phone", user=bob)
    bearer = (b"authorization", f"Bearer {token}".encode())
    headers = [*await in_database(make_cookies)(), bearer]
    communicator = shake_hands(make("AccessTokens", "Sessions"), headers, query="")
    assert (await communicator.connect())[0]
    assert await communicator.receive_json_from() == {"user": "bob", "session": False}
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("value", "stays"),
    [(b"Basic eDp5", False), (b"Negotiate x", False), (b"Bearer x", True)],
)
def test_what_a_browser_adds_as_authorization_goes_too(
    value: bytes, stays: bool
) -> None:
    header = (b"authorization", value)
    scope = {"headers": [(b"origin", b"null"), header]}
    assert (header in remove_ambient(scope)["headers"]) is stays
    own = {"headers": [(b"origin", b"https://app.example.com"), header]}
    assert remove_ambient(own) is own
