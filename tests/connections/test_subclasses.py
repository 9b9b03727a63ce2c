"""Test the classes that projects and libraries derive from limited consumers."""

import json
from typing import Any

import pytest
from asgiref.compatibility import is_double_callable
from asgiref.sync import iscoroutinefunction
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth.models import AnonymousUser

from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
    LimitedSyncJsonConsumer,
)
from connections.exceptions import ReservedName
from connections.testing.communicators import Communicator, connect_to, make_node
from tests.connections.conversations import receive_close

KINDS = (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
    LimitedSyncJsonConsumer,
)


class Library(AsyncJsonWebsocketConsumer):
    """A consumer of a library, which knows nothing of Orchestra."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        self.steps = ["called"]
        return await super().__call__(scope, receive, send)

    async def dispatch(self, message: Any) -> None:
        if message["type"] != "websocket.disconnect":
            self.steps.append(message["type"])
        await super().dispatch(message)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"library": content, "steps": self.steps})


class Base(LimitedJsonConsumer):
    """A base class of a project."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await super().receive_json({"base": content})


class LibraryFirst(Library, LimitedJsonConsumer):
    pass


class LibraryLast(LimitedJsonConsumer, Library):
    pass


class BehindBase(Base, Library):
    pass


class Derived(LibraryLast):
    pass


@pytest.mark.parametrize("consumer", [LibraryFirst, LibraryLast, Derived, BehindBase])
@pytest.mark.django_db
async def test_a_library_is_used_in_any_order_of_bases(consumer: Any) -> None:
    """Its methods come before Orchestra's, as they come before those of Channels."""
    communicator = connect_to(consumer, make_node(max_connections_per_client=1))
    assert (await communicator.connect())[0]
    await communicator.send_json_to(1)
    assert await communicator.receive_json_from() == {
        "library": {"base": 1} if consumer is BehindBase else 1,
        "steps": ["called", "websocket.connect", "websocket.receive"],
    }
    await communicator.send_to(text_data="{")
    assert (await communicator.receive_json_from())["code"] == "invalid_json"
    await communicator.disconnect()


@pytest.mark.parametrize("consumer", [LibraryFirst, LibraryLast, Derived, BehindBase])
@pytest.mark.django_db
async def test_the_limits_hold_in_any_order_of_bases(consumer: Any) -> None:
    node = make_node(max_connections_per_client=1)
    first, second = connect_to(consumer, node), connect_to(consumer, node)
    for communicator in (first, second):
        assert (await communicator.connect())[0]
    assert (await receive_close(first))["code"] == 4005
    for communicator in (first, second):
        await communicator.disconnect()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("get_limits", lambda self: 5),
        ("get_limits", lambda self, page, size: 5),
        ("get_limits", 5),
        ("get_client_id", lambda self: "me"),
        ("get_client_id", property(lambda self: "me")),
        ("get_client_id", staticmethod(lambda: "me")),
        ("is_activity", True),
        ("is_json", lambda self, text: True),
        ("permission_required", lambda self: True),
        ("permission_required", True),
        ("permission_required", {"see": 1}.items()),
        ("groups_required", (1, 2)),
    ],
)
def test_a_reserved_name_for_something_else_is_an_error(
    kind: Any, name: str, value: Any
) -> None:
    with pytest.raises(ReservedName, match=rf"Own\.{name} .* consumer Own:") as raised:
        type("Own", (kind,), {name: value})
    assert isinstance(raised.value, TypeError)


def test_the_error_names_the_class_that_has_the_reserved_name() -> None:
    class Paginated:
        def get_limits(self, page: int, size: int) -> int:
            return page * size

    with pytest.raises(ReservedName, match=r"Paginated\.get_limits .* consumer Own:"):
        type("Own", (Paginated, LimitedConsumer), {})


@pytest.mark.parametrize(
    "body",
    [
        {"get_limits": lambda self, scope: None},
        {"get_limits": lambda self, *args, **kwargs: None},
        {"get_client_id": staticmethod(lambda scope: "me")},
        {"get_client_id": classmethod(lambda cls, scope: "me")},
        {"permission_required": ("a.b", "c.d"), "groups_required": ["staff"]},
        {"permission_required": property(lambda self: "a.b")},
        {"is_activity": lambda self, message, more=None: True},
    ],
)
def test_a_reserved_name_as_it_is_meant_is_none(body: dict[str, Any]) -> None:
    for kind in KINDS:
        type("Own", (kind,), body)


PRIVATE = ("_refresh", "_runner", "_connection", "_find_method", "_require_channel")


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [LimitedJsonConsumer, LimitedSyncJsonConsumer])
async def test_private_and_free_names_are_a_projects_own(kind: Any) -> None:
    """A project's attributes may have any other name, `end` and `connection` too."""
    own: Any = type(
        "Own", (kind,), dict.fromkeys((*PRIVATE, "end", "connection"), "mine")
    )
    communicator = Communicator(own.as_asgi(), "/ws/")
    communicator.scope["user"] = AnonymousUser()
    assert (await communicator.connect())[0]
    for content, code in (
        ({"type": "unknown"}, "unknown_type"),
        ({"type": "refresh", "token": "wrong"}, "unavailable"),
    ):
        await communicator.send_to(text_data=json.dumps(content))
        assert (await communicator.receive_json_from())["code"] == code
    await communicator.disconnect()


@pytest.mark.parametrize("kind", KINDS)
def test_the_application_of_a_consumer_is_described_as_in_channels(kind: Any) -> None:
    class Own(kind):
        """A consumer of a project."""

    application = Own.as_asgi(flavour="plain")
    assert application.consumer_class is Own
    assert application.consumer_initkwargs == {"flavour": "plain"}
    assert (application.__name__, application.__doc__) == ("Own", Own.__doc__)
    assert iscoroutinefunction(application)
    assert not is_double_callable(application)  # type: ignore[no-untyped-call]
