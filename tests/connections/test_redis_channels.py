"""Test the channels of consumers over Redis; two layers stand for two processes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from connections.consumers import LimitedConsumer
from connections.layers.redis import RedisLayer
from connections.redis.bus import RedisBus
from connections.redis.pubsub import Subscriptions
from connections.testing.communicators import connect_to, make_node
from connections.testing.waiting import scale, wait_until
from tests.integration.redis_process import RedisProcess


def make_layer(server: RedisProcess) -> RedisLayer:
    """Return a layer that gives a busy machine time to answer."""
    return RedisLayer([server.url], timeout_seconds=scale(5))


@pytest.fixture
async def layers(redis_server: RedisProcess) -> AsyncIterator[list[RedisLayer]]:
    made = [make_layer(redis_server) for _ in range(2)]
    yield made
    for layer in made:
        await layer.flush()


@pytest.fixture
async def elsewhere(redis_server: RedisProcess, settings: Any) -> Any:
    """The layer of another process than that of the consumers."""
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "connections.layers.redis.RedisLayer",
            "CONFIG": {"hosts": [redis_server.url], "timeout_seconds": scale(5)},
        }
    }
    layer = make_layer(redis_server)
    yield layer
    await layer.flush()


async def test_a_new_channel_misses_nothing_before_its_first_receive(
    layers: list[RedisLayer],
) -> None:
    """Another process may answer before the one that asked begins to wait."""
    here, elsewhere = layers
    channel = await here.new_channel()
    for n in range(3):
        await elsewhere.send(channel, {"type": "answer", "n": n})
    async with asyncio.timeout(scale(5)):
        assert [(await here.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]


async def test_a_handler_that_hands_out_its_channel_name_gets_the_answer(
    elsewhere: RedisLayer,
) -> None:
    class Asking(LimitedConsumer):
        async def connect(self) -> None:
            await self.accept()
            await elsewhere.send(self.channel_name or "", {"type": "answer"})

        async def answer(self, event: Any) -> None:
            await self.send(text_data="answered")

    communicator = connect_to(Asking, make_node())
    assert (await communicator.connect())[0]
    assert await communicator.receive_from() == "answered"
    await communicator.disconnect()


async def test_a_channel_of_a_connection_that_has_ended_is_unsubscribed(
    redis_server: RedisProcess, elsewhere: RedisLayer
) -> None:
    """Also that of a consumer that never used it."""
    communicators = [connect_to(LimitedConsumer, make_node()) for _ in range(3)]
    with redis_server.connect() as client:

        def count() -> int:
            return len(client.pubsub_channels("asgispecific.*"))

        for communicator in communicators:
            assert (await communicator.connect())[0]
        assert count() == 3
        for communicator in communicators:
            await communicator.disconnect()
        await wait_until(lambda: count() == 0)


async def test_an_outage_holds_up_no_new_channel() -> None:
    """The first waits for the timeout and reports the outage; the others do not."""
    layer = RedisLayer(["redis://127.0.0.1:1"], timeout_seconds=0.2)
    async with asyncio.timeout(scale(5)):
        names = {await layer.new_channel() for _ in range(100)}
    assert len(names) == 100
    await layer.flush()


async def test_a_message_that_cannot_be_handed_on_ends_no_subscription(
    redis_server: RedisProcess,
) -> None:
    """The other messages of a node, and later ones, still arrive."""
    arrived: list[bytes] = []

    def take(channel: str, payload: bytes) -> None:
        arrived.append(payload)
        if payload == b"1":
            raise KeyError("an error that nobody expected")

    async with Redis.from_url(redis_server.url) as client:
        subscriptions = Subscriptions(
            client,
            prober=client,
            name="The subscription",
            on_message=take,
            on_return=lambda: None,
            probe_prefix="",
            probe_seconds=30,
            timeout_seconds=scale(5),
        )
        assert await subscriptions.add("news")
        for payload in (b"1", b"2"):
            await client.publish("news", payload)
        await wait_until(lambda: arrived == [b"1", b"2"])
        assert subscriptions.is_subscribed
        await subscriptions.close()


async def test_a_callback_that_fails_at_a_return_stops_no_other(
    redis_server: RedisProcess,
) -> None:
    """Neither the others' callbacks nor the subscription itself."""
    returned: list[int] = []
    bus = RedisBus(redis_server.url, node_id="a", timeout_seconds=scale(5))

    def fail() -> None:
        returned.append(1)
        raise KeyError("an error that nobody expected")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    bus.on_return(fail)
    bus.on_return(lambda: returned.append(2))
    await bus.start()
    with redis_server.connect() as client:
        client.client_kill_filter(_type="pubsub")
    await wait_until(lambda: returned == [1, 2] and bus.is_subscribed)
    await bus.close()


@pytest.fixture
def limited_url(redis_server: RedisProcess) -> Iterator[str]:
    """The URL of a user that may use the channels of this project alone."""
    allowed = ("on", ">word", "+@all", "~*", "&asgi*", "&orchestra:*")
    with redis_server.connect() as client:
        client.execute_command("ACL", "SETUSER", "limited", "resetchannels", *allowed)
        yield redis_server.url.replace("//", "//limited:word@", 1)
        client.acl_deluser("limited")


async def test_the_bus_needs_no_channel_but_its_own(limited_url: str) -> None:
    """One name that is not allowed refuses the whole SUBSCRIBE."""
    bus = RedisBus(limited_url, node_id="a", timeout_seconds=scale(1))
    await bus.start()
    assert bus.is_subscribed
    await bus.close()


async def test_a_name_that_is_not_allowed_costs_its_message_alone(
    limited_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It looked like an outage that never ends: its gap was refused too."""
    layer = RedisLayer([limited_url], timeout_seconds=scale(1))
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.send("thumbnails", {"type": "make"})
    assert layer.dropped == 1
    assert "Redis refuses a message of the channel layer" in caplog.text
    await layer.group_send("g", {"type": "x"})
    assert layer.dropped == 1
    async with asyncio.timeout(scale(5)):
        assert await layer.receive(channel) == {"type": "x"}
    await layer.flush()


async def test_a_named_channel_is_no_queue_and_says_so_once(
    layers: list[RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    own = await layers[0].new_channel()
    await layers[0].send(own, {"type": "x"})
    assert await layers[0].receive(own) == {"type": "x"}
    assert "is no queue" not in caplog.text
    readers = [
        asyncio.create_task(layers[index].receive("thumbnails")) for index in (0, 0, 1)
    ]

    async def has_reached_all() -> bool:
        await layers[0].send("thumbnails", {"type": "make"})
        return all(reader.done() for reader in readers)

    await wait_until(has_reached_all)
    assert [await reader for reader in readers] == [{"type": "make"}] * 3
    assert caplog.text.count("The channel thumbnails is no queue") == 2
