"""Test that consumers written for Channels behave the same on this project's bases."""

import asyncio
import json
from types import ModuleType
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.contrib.auth.models import User
from django.test import Client
from django.urls import path

from connections.testing.communicators import Communicator
from connections.testing.waiting import scale
from tests.drop_in.editions import EDITIONS, load

# Channels' consumers close old database connections for each event.
pytestmark = pytest.mark.django_db


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["asynchronous", "synchronous"])
def sample(request: pytest.FixtureRequest, edition: str) -> ModuleType:
    """The sample of each flavour, in each edition."""
    return load(request.param, edition)


@pytest.fixture(autouse=True)
def memory_layer(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    }


def reach(consumer: Any, url: str = "/ws/", **options: Any) -> Communicator:
    return Communicator(consumer.as_asgi(), url, **options)


async def open_connection(
    consumer: Any, url: str = "/ws/", **options: Any
) -> Communicator:
    communicator = reach(consumer, url, **options)
    is_accepted, _ = await communicator.connect()
    assert is_accepted
    return communicator


async def receive_close(communicator: Communicator) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = await communicator.receive_output()
        if event["type"] == "websocket.close":
            return event


def test_only_the_base_classes_differ(edition: str) -> None:
    """Otherwise both editions would be the same, and the tests meaningless."""
    bases = {one.__module__ for one in load("tutorial", edition).ChatConsumer.__mro__}
    assert ("connections.consumers" in bases) is (edition == "limited")


@pytest.mark.parametrize("message", ["", "héllo", "x" * 100_000])
async def test_text_comes_back(sample: ModuleType, message: str) -> None:
    communicator = await open_connection(sample.Echo)
    await communicator.send_input({"type": "websocket.receive", "text": message})
    assert await communicator.receive_from() == message
    await communicator.disconnect()


@pytest.mark.parametrize("message", [b"", b"\x00\xff", b"x" * 100_000])
async def test_bytes_come_back(sample: ModuleType, message: bytes) -> None:
    communicator = await open_connection(sample.Echo)
    await communicator.send_input({"type": "websocket.receive", "bytes": message})
    assert await communicator.receive_from() == message
    await communicator.disconnect()


async def test_json_both_ways(sample: ModuleType) -> None:
    communicator = await open_connection(sample.JsonEcho, "/ws/json/")
    assert await communicator.receive_json_from() == {"hello": "/ws/json/"}
    contents: tuple[Any, ...] = (
        {"type": "anything", "n": [1, None, "é"]},
        [],
        7,
        "text",
        None,
    )
    for content in contents:
        await communicator.send_json_to(content)
        assert await communicator.receive_json_from() == {"echo": content}
    await communicator.disconnect()


async def test_a_notation_of_its_own(edition: str) -> None:
    communicator = await open_connection(load("asynchronous", edition).Dates)
    await communicator.send_json_to({"day": "2026-02-28"})
    assert await communicator.receive_json_from() == {"day": "2026-03-01"}
    await communicator.disconnect()


async def test_groups_and_the_own_channel(sample: ModuleType) -> None:
    first = await open_connection(sample.Member)
    second = await open_connection(sample.Member)
    await first.send_to(text_data="hello all")
    assert await first.receive_from() == "hello all"
    assert await second.receive_from() == "hello all"
    await first.send_to(text_data="me")
    assert await first.receive_from() == "only me"
    assert await second.receive_nothing()
    await first.disconnect()
    await second.send_to(text_data="who is left")
    assert await second.receive_from() == "who is left"
    await second.disconnect()
    assert not get_channel_layer().groups.get("everyone")


@pytest.mark.parametrize("name", ["ChatConsumer", "AsyncChatConsumer"])
async def test_the_rooms_of_the_tutorial(edition: str, name: str) -> None:
    consumer = getattr(load("tutorial", edition), name)
    rooms = URLRouter([path("ws/chat/<str:room_name>/", consumer.as_asgi())])
    lobby = [Communicator(rooms, "/ws/chat/lobby/") for _ in range(2)]
    other = Communicator(rooms, "/ws/chat/other/")
    for communicator in (*lobby, other):
        assert (await communicator.connect())[0]
    await lobby[0].send_to(text_data=json.dumps({"message": "hello"}))
    for communicator in lobby:
        answer = await communicator.receive_from()
        assert json.loads(answer) == {"message": "hello"}
    assert await other.receive_nothing()
    for communicator in (*lobby, other):
        await communicator.disconnect()
    assert not any(get_channel_layer().groups.values())


@pytest.mark.parametrize(
    ("offered", "selected"), [(["v1"], "v1"), (["v0", "v1", "v2"], "v2")]
)
async def test_subprotocol_and_headers(
    sample: ModuleType, offered: list[str], selected: str
) -> None:
    communicator = reach(sample.Subprotocols, subprotocols=offered)
    await communicator.send_input({"type": "websocket.connect"})
    assert await communicator.receive_output() == {
        "type": "websocket.accept",
        "subprotocol": selected,
        "headers": [(b"x-chosen", b"yes")],
    }
    await communicator.disconnect()


@pytest.mark.parametrize("offered", [None, ["v0"]])
async def test_a_subprotocol_that_is_missing_is_refused(
    sample: ModuleType, offered: list[str] | None
) -> None:
    communicator = reach(sample.Subprotocols, subprotocols=offered)
    assert await communicator.connect() == (False, 1000)
    await communicator.disconnect()


def reach_door(sample: ModuleType, manner: str) -> Communicator:
    door = URLRouter([path("door/<slug:manner>/", sample.Doorkeeper.as_asgi())])
    return Communicator(door, f"/door/{manner}/")


@pytest.mark.parametrize(
    ("manner", "answer"),
    [
        ("close", (False, 1000)),
        ("close-code", (False, 4401)),
        ("deny", (False, 1000)),
        ("accept", (True, None)),
        ("anything", (True, None)),
    ],
)
async def test_admission_and_refusal(
    sample: ModuleType, manner: str, answer: tuple[bool, int | None]
) -> None:
    communicator = reach_door(sample, manner)
    assert await communicator.connect() == answer
    await communicator.disconnect()


async def test_a_close_right_after_the_accept(sample: ModuleType) -> None:
    communicator = reach_door(sample, "accept-then-close")
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4401
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("asked", "closed"),
    [
        ("close", {}),
        ("close 4123", {"code": 4123}),
        ("close 1000", {"code": 1000}),
        ("reason 3001", {"code": 3001, "reason": "because"}),
        ("send-and-close", {}),
        ("send-and-close 4007", {"code": 4007}),
    ],
)
async def test_a_close_has_the_code_and_reason_of_the_consumer(
    sample: ModuleType, asked: str, closed: dict[str, Any]
) -> None:
    communicator = await open_connection(sample.Farewell)
    await communicator.send_to(text_data=asked)
    if asked.startswith("send"):
        assert await communicator.receive_from() == "bye"
    assert await receive_close(communicator) == {"type": "websocket.close", **closed}
    await communicator.disconnect()


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4123])
async def test_disconnect_gets_the_code(sample: ModuleType, code: int) -> None:
    sample.Farewell.ended.clear()
    communicator = await open_connection(sample.Farewell)
    await communicator.disconnect(code=code)
    assert sample.Farewell.ended == [code]


async def test_a_consumer_stops_when_it_wants_to(sample: ModuleType) -> None:
    """An exception in the message handler stops it."""
    sample.Farewell.ended.clear()
    communicator = await open_connection(sample.Farewell)
    await communicator.send_to(text_data="stop")
    await communicator.wait()
    assert sample.Farewell.ended == []


async def test_a_consumer_is_stopped_over_the_layer(sample: ModuleType) -> None:
    communicator = await open_connection(sample.Stopping)
    await get_channel_layer().group_send("stopping", {"type": "stop.please"})
    assert await communicator.receive_from() == "stopping"
    await communicator.wait()


@pytest.mark.django_db(transaction=True)
async def test_the_database_without_a_user(sample: ModuleType) -> None:
    await User.objects.acreate(username="alice")
    communicator = await open_connection(sample.Users)
    await communicator.send_to(text_data="?")
    assert await communicator.receive_from() == "None of 1"
    await communicator.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_the_user_of_channels_own_stack(sample: ModuleType) -> None:
    """AuthMiddlewareStack reads the session cookie of the handshake."""
    user = await User.objects.acreate(username="alice")
    client = Client()
    await client.aforce_login(user)
    cookie = client.cookies["sessionid"].OutputString().encode()
    application = AuthMiddlewareStack(sample.Users.as_asgi())
    communicator = Communicator(application, "/ws/", headers=[(b"cookie", cookie)])
    assert (await communicator.connect())[0]
    await communicator.send_to(text_data="?")
    assert await communicator.receive_from() == "alice of 1"
    await communicator.disconnect()


async def test_arguments_of_as_asgi_and_state_of_its_own(sample: ModuleType) -> None:
    application = sample.Configured.as_asgi(greeting="good morning")
    for _ in range(2):
        communicator = Communicator(application, "/ws/")
        assert (await communicator.connect())[0]
        for number in (1, 2):
            await communicator.send_to(text_data="x")
            answer = await communicator.receive_from()
            assert answer == f"good morning {number}"
        await communicator.disconnect()


async def test_events_answered_without_the_generic_methods(sample: ModuleType) -> None:
    communicator = await open_connection(sample.Low)
    assert await communicator.receive_from() == "websocket.connect"
    await communicator.send_to(text_data="twice")
    assert await communicator.receive_from() == "twicetwice"
    await communicator.disconnect()


async def test_a_task_beside_the_messages(edition: str) -> None:
    consumer = load("asynchronous", edition).Ticker
    consumer.running.clear()
    communicator = await open_connection(consumer)
    for number in range(1, 4):
        assert await communicator.receive_from() == f"tick {number}"
    await communicator.disconnect()
    (task,) = consumer.running
    await asyncio.wait([task], timeout=scale(15))
    assert task.cancelled()


async def test_a_mixin_around_every_event(edition: str) -> None:
    communicator = await open_connection(load("asynchronous", edition).Traced)
    await communicator.send_json_to({})
    expected = [True, ["websocket.connect", "websocket.receive"]]
    assert await communicator.receive_json_from() == expected
    await communicator.disconnect()
