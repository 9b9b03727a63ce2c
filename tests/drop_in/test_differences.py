"""Test the documented differences from Channels (docs/topics/differences.md)."""

from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from connections.layers.redis import RedisLayer
from tests.drop_in.editions import load

pytestmark = pytest.mark.django_db

STOCK = load("asynchronous", "stock")
LIMITED = load("asynchronous", "limited")


@pytest.fixture(autouse=True)
def memory_layer(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    }


async def open_connection(consumer: Any, url: str = "/ws/") -> WebsocketCommunicator:
    communicator = WebsocketCommunicator(consumer.as_asgi(), url)
    assert (await communicator.connect(timeout=15))[0]
    return communicator


async def assert_alive(communicator: WebsocketCommunicator) -> None:
    await communicator.send_json_to("alive?")
    assert await communicator.receive_json_from(timeout=15) == "alive?"
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
        await communicator.wait(timeout=15)

    communicator = await open_connection(LIMITED.Careless)
    await communicator.send_input(event)
    error = await communicator.receive_json_from(timeout=15)
    assert (error["type"], error["code"]) == ("error", code)
    await assert_alive(communicator)


async def test_an_event_without_a_handler_closes_nothing() -> None:
    """On Channels, one wrong group_send() ends every member."""
    stock = await open_connection(STOCK.Careless)
    limited = await open_connection(LIMITED.Careless)
    await get_channel_layer().group_send("careless", {"type": "nobody.takes"})
    with pytest.raises(ValueError, match="No handler for message type"):
        await stock.wait(timeout=15)
    await assert_alive(limited)


async def test_the_layer_does_not_speak_for_the_client() -> None:
    """On Channels, everybody in the group receives what no client has sent."""
    stock = await open_connection(STOCK.Careless)
    limited = await open_connection(LIMITED.Careless)
    forged = {"type": "websocket.receive", "text": "[", "bytes": None}
    await get_channel_layer().group_send("careless", forged)
    with pytest.raises(ValueError, match="Expecting value"):
        await stock.wait(timeout=15)
    await assert_alive(limited)


async def test_connect_that_raises_is_accepted_and_closed_4500() -> None:
    """A refusal before the accept tells a browser nothing, and it retries for ever."""
    communicator = WebsocketCommunicator(STOCK.Careless.as_asgi(), "/ws/connect/")
    await communicator.send_input({"type": "websocket.connect"})
    with pytest.raises(ArithmeticError):
        await communicator.wait(timeout=15)

    communicator = await open_connection(LIMITED.Careless, "/ws/connect/")
    bye = await communicator.receive_json_from(timeout=15)
    assert (bye["type"], bye["reason"]) == ("bye", "internal_error")
    assert (await communicator.receive_output(15))["code"] == 4500
    await communicator.disconnect()


async def test_messages_after_the_close_are_dropped() -> None:
    """Channels passes it to the server, which raises or drops it."""
    outcomes = []
    for edition in (STOCK, LIMITED):
        communicator = await open_connection(edition.Careless)
        await communicator.send_json_to("send after close")
        assert (await communicator.receive_output(15))["type"] == "websocket.close"
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
    error = await communicator.receive_json_from(timeout=15)
    assert error["code"] == "unknown_type"
    await communicator.disconnect()


async def test_messages_over_the_rate_are_answered_with_an_error() -> None:
    refused = []
    for edition in (STOCK, LIMITED):
        communicator = await open_connection(edition.Careless)
        for number in range(150):
            await communicator.send_json_to(number)
        answers = [await communicator.receive_json_from(timeout=15) for _ in range(150)]
        refused.append([one for one in answers if isinstance(one, dict)])
        await communicator.disconnect()
    stock, limited = refused
    assert stock == []
    assert {one["code"] for one in limited} == {"rate_limited"}


async def test_a_message_of_the_layer_is_a_dict() -> None:
    with pytest.raises(TypeError, match="a message is a dict, not str"):
        await RedisLayer().send("somewhere", "text")  # type: ignore[arg-type]
