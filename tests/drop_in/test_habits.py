"""Test habits of libraries for Channels on both editions of the base classes."""

import gc
import weakref
from types import ModuleType
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

from connections.layers.local import LocalLayer
from connections.testing.communicators import Communicator
from tests.drop_in.editions import EDITIONS, load

pytestmark = pytest.mark.django_db


class Remembering:
    """Remembers the names of the channels that a layer made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.named: list[str] = []

    async def new_channel(self, prefix: str = "specific.") -> str:
        name: str = await super().new_channel(prefix)  # type: ignore[misc]
        self.named.append(name)
        return name


class RememberingLayer(Remembering, InMemoryChannelLayer):
    """A layer of Channels that remembers the names it gave."""


class RememberingLocalLayer(Remembering, LocalLayer):
    """Our own layer that remembers the names it gave."""


@pytest.fixture(params=EDITIONS)
def habits(request: pytest.FixtureRequest) -> ModuleType:
    return load("habits", request.param)


LAYERS = (
    "channels.layers.InMemoryChannelLayer",
    "connections.layers.local.LocalLayer",
)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest, settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": request.param}}
    return get_channel_layer()


async def open_connection(consumer: Any) -> Communicator:
    communicator = Communicator(consumer.as_asgi(), "/ws/")
    assert (await communicator.connect())[0]
    return communicator


async def receive(communicator: Communicator) -> str:
    text: str = await communicator.receive_from()
    return text


@pytest.mark.parametrize("name", ["Switchboard", "SyncSwitchboard"])
async def test_a_dispatch_of_its_own_gets_every_layer_message(
    habits: ModuleType, layer: Any, name: str
) -> None:
    communicator = await open_connection(getattr(habits, name))
    for kind in ("no.method", "another one", "_private", "close", "send"):
        await layer.group_send("everyone", {"type": kind, "text": kind})
        assert await receive(communicator) == kind
    await communicator.disconnect()


async def test_a_handler_may_be_called_end(habits: ModuleType, layer: Any) -> None:
    communicator = await open_connection(habits.Game)
    await layer.group_send("everyone", {"type": "end", "text": "game over"})
    assert await receive(communicator) == "game over"
    await communicator.disconnect()


async def test_a_task_has_begun_before_the_next_message_is_handled(
    habits: ModuleType, layer: Any
) -> None:
    communicator = await open_connection(habits.Delegating)
    for text in ("a", "b", "c"):
        await communicator.send_input({"type": "websocket.receive", "text": text})
    answers = [await receive(communicator) for _ in range(3)]
    assert answers == ["a: ", "b: a", "c: a,b"]
    await communicator.disconnect()


async def test_a_task_has_begun_before_the_next_layer_message_is_handled(
    habits: ModuleType, layer: Any
) -> None:
    communicator = await open_connection(habits.Delegating)
    for text in ("a", "b", "c"):
        await layer.group_send("everyone", {"type": "note.arrived", "text": text})
    answers = [await receive(communicator) for _ in range(3)]
    assert answers == ["a: ", "b: a", "c: a,b"]
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("arriving", "expected"),
    [
        # Both have arrived: the client's message is handled first.
        (["note 0 n", "0 a"], "a n"),
        (["note 5 n", "5 a"], "a n"),
        (["note 0 n", "note 0 m", "0 a", "0 b"], "a n b m"),
        (["note 3 n", "note 3 m", "3 a", "3 b", "3 c"], "a n b m c"),
        # A note that arrives during a handler comes after the client's next message
        # if the handler ends at once, and before it if the note is ready by then.
        (["0 a+", "0 b", "0 c"], "a+ b note c"),
        (["3 a+", "0 b", "0 c"], "a+ note b c"),
        (["0 a+"], "a+ note"),
    ],
)
@pytest.mark.parametrize("send", ["first", "later", "by group"])
@pytest.mark.parametrize("backend", ["RememberingLayer", "RememberingLocalLayer"])
async def test_messages_of_client_and_layer_are_handled_in_turn(
    habits: ModuleType,
    settings: Any,
    arriving: list[str],
    expected: str,
    backend: str,
    send: str,
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.{backend}"}}
    layer = get_channel_layer()
    communicator = await open_connection(habits.Ordered)
    if send == "by group" and backend == "RememberingLayer":
        pytest.skip("its group_send() lets other tasks run before it sends")
    await layer.group_add("ordered", layer.named[-1])
    if send != "first":
        await layer.group_send("ordered", {"type": "note.arrived", "text": "0 before"})
        assert await receive(communicator) == "before"
    for text in arriving:
        if text.startswith("note "):
            note = {"type": "note.arrived", "text": text.removeprefix("note ")}
            if send == "by group":
                await layer.group_send("ordered", note)
            else:
                await layer.send(layer.named[-1], note)
        else:
            event = {"type": "websocket.receive", "text": text}
            communicator.input_queue.put_nowait(event)
    handled = [await receive(communicator) for _ in expected.split()]
    assert " ".join(handled) == expected
    await communicator.disconnect()


@pytest.mark.parametrize("name", ["Speaking", "SyncSpeaking"])
async def test_all_handlers_share_one_context(
    habits: ModuleType, layer: Any, name: str
) -> None:
    communicator = await open_connection(getattr(habits, name))
    note = {"type": "note.arrived"}
    heard = []
    for event in (None, note, None, note, note):
        if event is None:
            await communicator.send_to(text_data="x")
        else:
            await layer.group_send("everyone", event)
        heard.append(await receive(communicator))
    expected = ["connect", "receive", "note", "receive", "note"]
    assert heard == [f"de {one}" for one in expected]
    await communicator.disconnect()


async def test_a_consumer_may_assign_its_channel_name(
    habits: ModuleType, layer: Any
) -> None:
    communicator = await open_connection(habits.Renamed)
    assert await receive(communicator) == "renamed.True"
    await communicator.disconnect()


async def test_a_channel_receives_though_its_consumer_never_reads_the_name(
    habits: ModuleType, settings: Any
) -> None:
    backend = f"{__name__}.RememberingLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    layer = get_channel_layer()
    communicator = await open_connection(habits.Unnamed)
    [name] = layer.named
    await layer.send(name, {"type": "note.arrived", "text": "hello"})
    assert await receive(communicator) == "hello"
    await communicator.disconnect()


async def test_a_test_need_not_offer_a_subprotocol(habits: ModuleType) -> None:
    consumer = habits.Choosing.as_asgi()
    communicator = Communicator(consumer, "/ws/", spec_version="2.3")
    assert await communicator.connect() == (True, "chat")
    assert communicator.response_headers == [[b"x-chosen", b"yes"]]
    await communicator.disconnect()


async def test_a_consumer_class_is_freed(habits: ModuleType, layer: Any) -> None:
    """A library connects signals to a class; they end with it, as in its own tests."""

    class Brief(habits.Delegating):  # type: ignore[name-defined]
        pass

    communicator = await open_connection(Brief)
    await layer.group_send("everyone", {"type": "note.arrived", "text": "a"})
    assert await receive(communicator) == "a: "
    await communicator.disconnect()
    is_there = weakref.ref(Brief)
    del Brief, communicator
    gc.collect()
    assert is_there() is None
