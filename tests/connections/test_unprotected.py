"""Test consumers that are served without protect()."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.auth.models import User
from django.db import connection
from django.urls import path

from connections import close_codes
from connections.connection.checks import check_routes, check_tables
from connections.connection.routes import find_route, find_routes
from connections.connection.scheduling import make_fair
from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.dashboard.consumers import PATH, LiveConsumer
from connections.models import Ban, Connection
from connections.node.current import get_node
from connections.node.node import Node
from connections.routing import protect
from connections.testing.communicators import Communicator
from connections.testing.waiting import scale
from tests.project import ROOT

SERVED = {"asgi": {"version": "3.0"}, "client": ["192.0.2.7", 1]}
"""The keys of a scope that servers set."""


class Echo(LimitedJsonConsumer):
    async def handle_echo(self, content: Any) -> None:
        await self.send_json(content)


@pytest.fixture
async def started() -> AsyncIterator[list[Node]]:
    """Nodes that a test has started; they are stopped after it."""
    nodes: list[Node] = []
    yield nodes
    for node in nodes:
        await node.stop()


def open_from_server(**scope: Any) -> Communicator:
    communicator = Communicator(Echo.as_asgi(), "/ws/echo/")
    communicator.scope.update(SERVED | scope)
    return communicator


async def read_record(**fields: Any) -> Connection:
    found: Connection = await Connection.objects.aget(**fields)
    return found


@pytest.mark.django_db(transaction=True)
async def test_many_first_connections_start_one_node_that_records(
    started: list[Node],
) -> None:
    communicators = [
        open_from_server(client=[f"192.0.2.{number}", 1]) for number in range(9)
    ]
    await asyncio.gather(*(one.connect() for one in communicators))
    node = get_node()
    started.append(node)
    assert node.is_running
    assert len(node.hub) == 9
    await node.beat()
    assert await Connection.objects.filter(node_id=node.node_id).acount() == 9
    await asyncio.gather(*(one.disconnect() for one in communicators))


async def test_a_scope_of_no_server_gets_a_node_in_memory() -> None:
    communicator = Communicator(Echo.as_asgi(), "/ws/echo/")
    assert (await communicator.connect())[0]
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_a_banned_client_is_refused_ahead_of_connect(
    started: list[Node],
) -> None:
    class Room(Echo):
        has_left = False

        async def disconnect(self, code: int) -> None:
            Room.has_left = True

    await Ban.objects.acreate(target="address", value="192.0.2.7")
    communicator = Communicator(Room.as_asgi(), "/ws/echo/")
    communicator.scope.update(SERVED)
    await communicator.connect()
    started.append(get_node())
    assert (await communicator.receive_json_from())["reason"] == "banned"
    await communicator.disconnect()
    # A disconnect() relies on what connect() has set.
    assert not Room.has_left


@pytest.mark.django_db(transaction=True)
async def test_the_client_is_the_user_else_the_address_behind_the_proxy(
    started: list[Node], settings: Any
) -> None:
    settings.WEBSOCKET = {"trusted_proxies": ["192.0.2.7"]}
    user = await User.objects.acreate(username="alice")
    headers = [(b"x-forwarded-for", b"198.51.100.4")]
    known = open_from_server(user=user)
    unknown = open_from_server(headers=headers)
    await known.connect()
    await unknown.connect()
    node = get_node()
    started.append(node)
    assert {(one.client_id, one.address, one.user_id) for one in node.hub} == {
        (f"user:{user.pk}", "192.0.2.7", user.pk),
        ("address:198.51.100.4", "198.51.100.4", None),
    }
    await known.disconnect()
    await unknown.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_a_user_who_is_deactivated_loses_the_connection(
    started: list[Node],
) -> None:
    user = await User.objects.acreate(username="alice")
    communicator = open_from_server(user=user)
    await communicator.connect()
    node = get_node()
    started.append(node)
    await User.objects.aupdate(is_active=False)
    (live,) = node.hub
    node.reauthoriser.ask(live)
    bye = await communicator.receive_json_from()
    assert bye["reason"] == "deactivated"
    await communicator.disconnect()


class Device:
    """What a project's own middleware found; its key is that of no user."""

    pk = 7
    is_authenticated = True


@pytest.mark.django_db(transaction=True)
async def test_the_key_of_another_kind_of_user_is_not_checked_as_a_user(
    started: list[Node],
) -> None:
    communicator = open_from_server(user=Device())
    await communicator.connect()
    node = get_node()
    started.append(node)
    (live,) = node.hub
    assert (live.client_id, live.user_id) == ("user:7", None)
    node.reauthoriser.ask(live)
    await node.reauthoriser.poll()
    assert live.close_reason is None
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_without_tables_limits_hold_and_the_log_says_so_once(
    started: list[Node],
    caplog: pytest.LogCaptureFixture,
    settings: Any,
    lacks_a_table: None,
) -> None:
    settings.WEBSOCKET = {"max_connections_per_client": 3}
    communicators = [open_from_server() for _ in range(4)]
    for communicator in communicators:
        assert (await communicator.connect())[0]
    node = get_node()
    started.append(node)
    bye = await communicators[0].receive_json_from()
    assert (bye["reason"], node.database) == ("evicted", None)
    said = [one for one in caplog.records if getattr(one, "event", "") == "no_tables"]
    assert len(said) == 1
    assert "connections_ban" in said[0].getMessage()
    await asyncio.gather(*(one.disconnect() for one in communicators))


@pytest.fixture
def lacks_a_table(transactional_db: None) -> Any:
    with connection.schema_editor() as editor:
        editor.alter_db_table(Ban, "connections_ban", "elsewhere")
    yield
    with connection.schema_editor() as editor:
        editor.alter_db_table(Ban, "elsewhere", "connections_ban")


WITHOUT_THE_APP = """
import asyncio
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "channels"],
    DATABASES={}, WEBSOCKET={"max_connections_per_client": 1}, SECRET_KEY="x" * 50,
)
import django
django.setup()
from channels.testing import WebsocketCommunicator
from connections.consumers import LimitedJsonConsumer
from connections.node.current import get_node
from connections.testing.waiting import scale

SECONDS = scale(15)

class Echo(LimitedJsonConsumer):
    pass

def connect():
    one = WebsocketCommunicator(Echo.as_asgi(), "/")
    one.scope |= {"asgi": {"version": "3.0"}, "client": ["192.0.2.7", 1]}
    return one

async def main():
    first, second = connect(), connect()
    assert (await first.connect(SECONDS))[0] and (await second.connect(SECONDS))[0]
    print((await first.receive_json_from(SECONDS))["reason"])
    await first.disconnect(timeout=SECONDS)
    await second.disconnect(timeout=SECONDS)
    await get_node().stop()

asyncio.run(main())
"""


def test_without_the_app_limits_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_APP],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(30),
    )
    assert done.stdout == "evicted\n", done.stderr
    assert done.stderr.count("connections is not in INSTALLED_APPS") == 1


DATABASE_AWAY = """
import asyncio, os, sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.contenttypes", "django.contrib.auth",
        "django.contrib.sessions", "channels", "connections",
    ],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1] + "/db.sqlite3",
    }},
    SECRET_KEY="x" * 50, USE_TZ=True,
)
import django
django.setup()
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.core.management import call_command
from connections.consumers import LimitedJsonConsumer
from connections.models import Connection
from connections.node.current import get_node
from connections.testing.waiting import scale

SECONDS = scale(15)

class Echo(LimitedJsonConsumer):
    pass

def connect():
    one = WebsocketCommunicator(Echo.as_asgi(), "/")
    one.scope |= {"asgi": {"version": "3.0"}, "client": ["192.0.2.7", 1]}
    return one

async def main():
    refused = connect()
    await refused.send_input({"type": "websocket.connect"})
    message = await refused.receive_output(SECONDS)
    while message["type"] != "websocket.close":
        message = await refused.receive_output(SECONDS)
    print(message["code"])
    os.mkdir(sys.argv[1])
    await sync_to_async(call_command)("migrate", verbosity=0)
    accepted = connect()
    print((await accepted.connect(SECONDS))[0])
    await accepted.disconnect(timeout=SECONDS)
    await get_node().stop()
    print(await Connection.objects.acount())

asyncio.run(main())
"""


def test_while_the_database_is_away_at_the_first_connection_it_is_refused(
    tmp_path: Path,
) -> None:
    """The next connection after its return starts the node, and is recorded."""
    done = subprocess.run(
        [sys.executable, "-c", DATABASE_AWAY, str(tmp_path / "later")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(30),
    )
    assert done.stdout == f"{close_codes.UNAVAILABLE.code}\nTrue\n1\n", done.stderr
    assert done.stderr.count("The database does not answer yet") == 1


class Plain(LimitedConsumer):
    pass


def make_middleware(application: Any) -> Any:
    """Return a middleware that is a function, as Channels' pages show them."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    return middleware


def test_routes_are_found_through_any_middleware() -> None:
    inner = URLRouter([path("b/", Plain.as_asgi())])
    routes = URLRouter([path("a/", Echo.as_asgi()), path("in/", inner)])
    application = ProtocolTypeRouter({"websocket": make_middleware(routes)})
    found = [(one.consumer_class, one.name) for one in find_routes(application)]
    assert found == [(Echo, "a/"), (Plain, "b/")]
    assert [one.matches("/in/b/") for one in find_routes(application)] == [False, True]


def test_the_route_is_the_pattern_that_led_to_the_consumer(settings: Any) -> None:
    inner = URLRouter([path("<str:room>/", Plain.as_asgi())])
    routes = URLRouter([path("a/", Plain.as_asgi()), path("in/", inner)])
    with served(ProtocolTypeRouter({"websocket": routes}), settings):
        paths = ("/a/", "/in/7/", "/elsewhere/")
        found = [find_route(Plain, {"path": one}) for one in paths]
        prefixed = find_route(Plain, {"path": "/app/in/7/", "root_path": "/app"})
    assert found == ["a/", "<str:room>/", ""]
    assert prefixed == "<str:room>/"


class Passing:
    """A middleware that is a class."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.application({**scope, "passed": True}, receive, send)


@pytest.mark.django_db(transaction=True)
async def test_modes_of_a_route_without_protect_name_a_known_route(
    started: list[Node], settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those of a route that no client has used before."""

    class Other(Echo):
        pass

    modes = {"first/": {"rate": "observe"}, "other/": {"rate": "observe"}}
    settings.WEBSOCKET = {"enforce": {"routes": {**modes, "typo/": {}}}}
    routes = [path("first/", Other.as_asgi()), path("other/", Plain.as_asgi())]
    communicator = Communicator(URLRouter(routes), "/first/")
    communicator.scope |= SERVED
    assert (await communicator.connect())[0]
    started.append(get_node())
    assert next(iter(get_node().hub)).observed == {"rate"}
    await communicator.disconnect()
    events = [one for one in caplog.records if hasattr(one, "event")]
    (unknown,) = [one for one in events if one.event == "unknown_routes"]
    assert "typo/" in unknown.getMessage()
    assert "first/" not in unknown.getMessage()
    assert "other/" not in unknown.getMessage()


WRAPPED: dict[str, tuple[Any, str]] = {
    "router": (lambda consumer: URLRouter([path("a/", consumer)]), "a/"),
    "nested": (
        lambda consumer: URLRouter(
            [
                path("outer/", consumer),
                path("", URLRouter([path("b/", consumer), path("a/", consumer)])),
            ]
        ),
        "a/",
    ),
    "middleware": (
        lambda consumer: ProtocolTypeRouter(
            {
                "websocket": make_middleware(
                    AuthMiddlewareStack(
                        URLRouter([path("a/", make_middleware(Passing(consumer)))])
                    )
                )
            }
        ),
        "a/",
    ),
    "no router": (lambda consumer: Passing(consumer), ""),
}
"""An application that leads to a consumer, and the route of its connections."""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WRAPPED)
async def test_the_route_is_that_of_the_application_that_is_served(
    started: list[Node], name: str
) -> None:
    """ASGI_APPLICATION names another one, as with `uvicorn project.other:app`."""

    class Own(Echo):
        pass

    wrap, route = WRAPPED[name]
    application = wrap(Own.as_asgi())
    for _ in range(2):
        communicator = Communicator(application, "/a/")
        communicator.scope |= SERVED
        assert (await communicator.connect())[0]
        started.append(get_node())
        assert [one.route for one in get_node().hub] == [route]
        await communicator.disconnect()


class Hidden(Echo):
    pass


class Hiding:
    """It keeps no reference to its consumer; it counts how often it is searched."""

    searches = 0

    @property
    def consumer_class(self) -> None:
        self.searches += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Hidden.as_asgi()(scope, receive, send)


@pytest.mark.django_db(transaction=True)
async def test_an_application_that_hides_its_consumer_is_searched_once(
    started: list[Node],
) -> None:
    hiding: Any = Hiding()
    router = URLRouter([path("a/", hiding)])
    for _ in range(3):
        communicator = Communicator(router, "/a/")
        communicator.scope |= SERVED
        assert (await communicator.connect())[0]
        started.append(get_node())
        await communicator.disconnect()
    assert hiding.searches == 1


def test_an_application_needs_neither_hash_nor_weak_references(settings: Any) -> None:
    class Bare:
        __slots__ = ("inner",)
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.inner(scope, receive, send)

    routes = URLRouter([path("a/", Plain.as_asgi())])
    with served(Bare(routes), settings):
        assert find_route(Plain, {"path": "/a/"}) == "a/"


def test_routes_of_protect_are_protected() -> None:
    application = protect(http=None, websocket=[path("a/", Echo.as_asgi())])
    assert all(one.is_protected for one in find_routes(application))


@contextlib.contextmanager
def served(application: Any, settings: Any) -> Iterator[None]:
    """Serve an application as that of the project."""
    name = "tests.connections.test_unprotected_application"
    sys.modules[name] = module = ModuleType(name)
    module.application = application  # type: ignore[attr-defined]
    settings.ASGI_APPLICATION = f"{name}.application"
    try:
        yield
    finally:
        del sys.modules[name]


def check(application: Any, settings: Any) -> list[str]:
    with served(application, settings):
        return [f"{one.id}: {one.msg}" for one in check_routes()]


def test_each_route_without_protect_is_a_warning(settings: Any) -> None:
    routes = [path("a/", Echo.as_asgi()), path("b/", Plain.as_asgi())]
    first, second = check(URLRouter(routes), settings)
    assert first.startswith("connections.W024: Echo on the route 'a/'")
    assert second.startswith("connections.W024: Plain on the route 'b/'")
    assert check(protect(http=None, websocket=routes), settings) == []


def test_an_application_that_cannot_be_imported_is_a_warning(settings: Any) -> None:
    settings.ASGI_APPLICATION = "tests.nowhere.application"
    (found,) = check_routes()
    assert found.id == "connections.W025"


@pytest.mark.django_db(transaction=True)
def test_missing_tables_are_a_warning_of_deployments(lacks_a_table: None) -> None:
    (found,) = check_tables()
    assert (found.id, "connections_ban" in found.msg) == ("connections.W026", True)


class GranianAwaitable:
    """What granian's receive() returns: no coroutine, and it takes no values."""

    def __init__(self, message: dict[str, Any]) -> None:
        self._message = message
        self._waits = True

    def __await__(self) -> "GranianAwaitable":
        return self

    def __iter__(self) -> "GranianAwaitable":
        return self

    def __next__(self) -> None:
        if self._waits:
            self._waits = False
            return
        raise StopIteration(self._message)


async def test_a_receive_that_is_no_coroutine_is_awaited() -> None:
    message = {"type": "websocket.connect"}
    receive = make_fair(lambda: cast(Any, GranianAwaitable(message)))
    assert await receive() == message


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("origin", "answer"), [(b"https://evil.example", 1000), (b"http://localhost", 4001)]
)
async def test_the_dashboard_checks_origin_and_session_itself(
    started: list[Node], settings: Any, origin: bytes, answer: int
) -> None:
    settings.ALLOWED_HOSTS = ["localhost"]
    communicator = Communicator(LiveConsumer.as_asgi(), f"/{PATH}")
    headers = [(b"host", b"localhost"), (b"origin", origin)]
    communicator.scope |= {**SERVED, "headers": headers}
    await communicator.send_input({"type": "websocket.connect"})
    started.append(get_node())
    message = await communicator.receive_output()
    while message["type"] != "websocket.close":
        message = await communicator.receive_output()
    assert message.get("code", 1000) == answer
    await communicator.send_input({"type": "websocket.disconnect", "code": answer})
    await communicator.wait()
