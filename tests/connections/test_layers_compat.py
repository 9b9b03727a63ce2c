"""The undocumented names of Channels and channels-redis: one test for each."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer
from cryptography.fernet import InvalidToken

from connections.dependencies import ForeignName
from connections.layers import compat
from connections.layers.loop_end import call_before_close
from connections.layers.redis import RedisLayer
from connections.testing import wait_until
from tests.integration.redis_process import RedisProcess


@pytest.mark.parametrize("name", compat.REQUIRED_NAMES, ids=lambda name: name.path)
def test_an_installed_package_has_the_name(name: ForeignName) -> None:
    assert name.exists(), (
        f"{name.package} no longer has {name.path}: adapt connections/layers/compat.py,"
        " or bound the version in pyproject.toml"
    )


def test_hosts_are_decoded() -> None:
    assert compat.decode_hosts(["redis://one:1", ("two", 2), {"host": "three"}]) == [
        {"address": "redis://one:1"},
        {"host": "two", "port": 2},
        {"host": "three"},
    ]


def test_a_pool_is_made_of_a_decoded_host() -> None:
    pool = compat.create_pool({"address": "redis://one:1/3", "socket_timeout": 7})
    assert pool.connection_kwargs["host"] == "one"
    assert pool.connection_kwargs["socket_timeout"] == 7


def test_a_name_is_on_the_same_shard_on_every_node() -> None:
    """Another division would part nodes of two versions."""
    names = [f"asgi__group__g{n}" for n in range(8)]
    assert [compat.choose_shard(name, 3) for name in names] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert {compat.choose_shard(name, 1) for name in names} == {0}


@pytest.mark.parametrize("format_name", ["msgpack", "json"])
@pytest.mark.parametrize("keys", [None, ["a key"]])
def test_a_serializer_reads_what_it_wrote(
    format_name: str, keys: list[str] | None
) -> None:
    serializer = compat.make_serializer(format_name, keys)
    payload = serializer.serialize({"type": "x", "n": 1})
    assert serializer.deserialize(payload) == {"type": "x", "n": 1}
    with pytest.raises(compat.find_decode_errors()):
        serializer.deserialize(b"\xc1 of another program")


def test_a_message_under_another_key_is_an_error_of_decoding() -> None:
    payload = compat.make_serializer("json", ["one"]).serialize({"type": "x"})
    with pytest.raises(InvalidToken):
        compat.make_serializer("json", ["two"]).deserialize(payload)
    assert InvalidToken in compat.find_decode_errors()


def test_an_event_loop_that_closes_is_cleaned_up_first() -> None:
    loop = asyncio.new_event_loop()
    done: list[str] = []

    async def clean_up(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    call_before_close(loop, lambda: clean_up("one"))
    call_before_close(loop, lambda: clean_up("two"))
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert done == ["two", "one"]


@pytest.fixture
async def layers(redis_server: RedisProcess) -> AsyncIterator[tuple[object, object]]:
    """Ours and the one of channels-redis, on the same Redis."""
    made = RedisLayer([redis_server.url]), RedisPubSubChannelLayer([redis_server.url])
    yield made
    for layer in made:
        await layer.flush()


@pytest.mark.parametrize("receiver", [0, 1])
async def test_nodes_with_ours_and_with_channels_redis_understand_each_other(
    layers: tuple[RedisLayer, RedisLayer], receiver: int
) -> None:
    """The names and bytes in Redis are the same."""
    receiving, sending = layers[receiver], layers[1 - receiver]
    channel = await receiving.new_channel()
    await receiving.group_add("g", channel)
    reading = asyncio.create_task(receiving.receive(channel))

    async def is_read() -> bool:
        await sending.group_send("g", {"type": "x", "of": [1, None]})
        return reading.done()

    await wait_until(is_read)
    assert await reading == {"type": "x", "of": [1, None]}
