"""Test the Redis layer through outages; two layers stand for two nodes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connections.layers.redis import RedisLayer
from connections.redis.encryption import make_cipher
from connections.testing import Proxy, wait_until
from connections.testing.waiting import scale
from sessions_history.redis_relay import Relay
from tests.integration.layer_member import Member, send_until_heard
from tests.integration.redis_process import RedisProcess


@pytest.fixture
async def layers(redis_process: RedisProcess) -> AsyncIterator[list[RedisLayer]]:
    """The layers of two nodes."""
    made = [
        RedisLayer([redis_process.url], timeout_seconds=scale(1), probe_seconds=0.3)
        for _ in range(2)
    ]
    yield made
    redis_process.resume()
    for layer in made:
        await layer.flush()


async def test_a_thousand_members_on_two_nodes_and_a_restart(
    redis_process: RedisProcess, layers: list[RedisLayer]
) -> None:
    """Members get each message once; after the restart they get a gap, and continue."""
    members = [await Member(layers[index % 2]).open("g") for index in range(1000)]
    for n in range(5):
        await layers[0].group_send("g", {"type": "n", "n": n})
    await wait_until(lambda: all(len(one.numbers) == 5 for one in members))
    redis_process.kill()
    await layers[0].group_send("g", {"type": "n", "n": 5})
    redis_process.start()
    await send_until_heard(layers[1], "g", *members)
    probe = await Member(layers[1]).open("probe")
    await send_until_heard(layers[0], "probe", probe)
    await probe.close()
    await layers[0].group_send("g", {"type": "n", "n": 6})
    await wait_until(lambda: all(one.numbers[-1] == 6 for one in members))
    assert all(one.numbers == [0, 1, 2, 3, 4, 6] for one in members)
    assert all(one.gaps and one.is_alive for one in members)
    for one in members:
        await one.close()


async def test_the_sender_reports_a_pause_shorter_than_a_probe(
    redis_process: RedisProcess,
) -> None:
    """The subscription survives; the sender reports its dropped messages afterwards."""
    async with Proxy(redis_process.port) as proxy:
        receiving = RedisLayer([redis_process.url], probe_seconds=60)
        sending = RedisLayer([proxy.url], timeout_seconds=scale(1), probe_seconds=60)
        member = await Member(receiving).open("g")
        await sending.group_send("g", {"type": "n", "n": 0})
        await wait_until(lambda: member.numbers == [0])
        proxy.loses_requests = True
        for n in range(1, 4):
            await sending.group_send("g", {"type": "n", "n": n})
        proxy.loses_requests = False
        proxy.reset()
        await wait_until(lambda: member.gaps == [3])
        assert sending.dropped == 3
        await sending.group_send("g", {"type": "n", "n": 4})
        await wait_until(lambda: member.numbers == [0, 4])
        await member.close()
        await receiving.flush()
        await sending.flush()


async def test_sending_while_redis_is_away_is_quick_and_logged_once(
    redis_process: RedisProcess,
    layers: list[RedisLayer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = layers[0]
    await layer.group_send("g", {"type": "x"})
    redis_process.pause()
    with caplog.at_level(logging.WARNING):
        # Only the first send waits for Redis, for a second.
        async with asyncio.timeout(scale(20)):
            for _ in range(50):
                await layer.group_send("g", {"type": "x"})
    assert layer.dropped == 50
    downs = [one for one in caplog.records if "is down" in one.getMessage()]
    assert len(downs) == 1


async def test_joining_and_leaving_while_redis_is_away(
    redis_process: RedisProcess, layers: list[RedisLayer]
) -> None:
    """Joins and leaves during the outage take effect on Redis's return."""
    stays, leaves = await Member(layers[0]).open("g"), await Member(layers[0]).open("g")
    redis_process.kill()
    joins = await Member(layers[1]).open("g")
    await layers[0].group_discard("g", leaves.channel)
    redis_process.start()
    await send_until_heard(layers[0], "g", stays, joins)
    assert {"type": "marker"} not in leaves.messages
    for one in (stays, leaves, joins):
        assert one.is_alive
        await one.close()


async def test_a_consumer_reaches_its_own_channel_without_redis(
    redis_process: RedisProcess, layers: list[RedisLayer]
) -> None:
    redis_process.kill()
    member = await Member(layers[0]).open()
    await layers[0].send(member.channel, {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    await member.close()


async def test_a_channel_of_another_node_is_reached(layers: list[RedisLayer]) -> None:
    member = await Member(layers[0]).open("g")
    await send_until_heard(layers[1], "g", member)
    await layers[1].send(member.channel, {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    await member.close()


async def test_no_subscription_outlives_its_consumer(
    redis_process: RedisProcess, layers: list[RedisLayer]
) -> None:
    members = [await Member(layers[0]).open("g", f"g{n}") for n in range(20)]
    with redis_process.connect() as client:
        await wait_until(lambda: len(client.pubsub_channels("asgi[_s]*")) == 41)
        for one in members:
            await one.close()
        await wait_until(lambda: client.pubsub_channels("asgi[_s]*") == [])


FORGED_GAP = b"\x82\xa4type\xabchannel.gap\xa6missed\xa1x"
"""{"type": "channel.gap", "missed": "x"} in MessagePack."""


@pytest.mark.parametrize(
    "payload", [b"\xc1 not msgpack", b"\x91\x01", b"\x81\xc0", FORGED_GAP]
)
async def test_a_foreign_payload_stops_no_member(
    redis_process: RedisProcess, layers: list[RedisLayer], payload: bytes
) -> None:
    member = await Member(layers[0]).open("g")
    with redis_process.connect() as client:
        for _ in range(2):
            client.publish("asgi__group__g", payload)
    await layers[1].group_send("g", {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    await member.close()


OLD, NEW, FOREIGN = ("old" * 11, "new" * 11, "foreign" * 6)


async def test_keys_are_rotated_without_losing_a_message(
    redis_process: RedisProcess, settings: Any
) -> None:
    """The steps: the new key is added, then comes first; the old one is removed."""
    made = []

    def make(*keys: str) -> RedisLayer:
        settings.REDIS_ENCRYPTION_KEYS = list(keys)
        made.append(RedisLayer([redis_process.url]))
        return made[-1]

    with redis_process.connect() as client, client.pubsub() as spy:
        spy.subscribe("asgi__group__g")
        for before, after in (
            (make(OLD), make(OLD, NEW)),
            (make(OLD, NEW), make(NEW, OLD)),
            (make(NEW, OLD), make(NEW)),
        ):
            for sending, receiving in ((before, after), (after, before)):
                member = await Member(receiving).open("g")
                await sending.group_send("g", {"type": "n", "n": 1, "text": "secret"})
                await wait_until(lambda one=member: one.numbers == [1])
                assert member.gaps == []
                await member.close()
        seen = list(iter(lambda: spy.get_message(timeout=0.1), None))
        assert len([one for one in seen if one["type"] == "message"]) == 6
        assert "secret" not in str(seen)
    for layer in made:
        await layer.flush()


async def test_a_message_under_a_foreign_key_is_a_gap(
    redis_process: RedisProcess, layers: list[RedisLayer]
) -> None:
    own = RedisLayer([redis_process.url], symmetric_encryption_keys=[NEW])
    foreign = RedisLayer([redis_process.url], symmetric_encryption_keys=[FOREIGN])
    member = await Member(own).open("g")
    for layer in (foreign, layers[0]):  # The last one has no key at all.
        await layer.group_send("g", {"type": "n", "n": 7})
    await own.group_send("g", {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    assert member.gaps and set(member.gaps) == {None}
    await member.close()
    for layer in (own, foreign):
        await layer.flush()


async def test_hints_about_sessions_are_encrypted(redis_process: RedisProcess) -> None:
    received: dict[str, list[Any]] = {OLD: [], NEW: [], FOREIGN: []}

    def make(*keys: str) -> Relay:
        return Relay(
            redis_process.url,
            on_message=lambda session_id, hint: received[keys[0]].append(hint),
            on_return=lambda: None,
            cipher=make_cipher(keys),
        )

    relays = [make(OLD, NEW), make(NEW, OLD), make(FOREIGN)]
    with redis_process.connect() as client, client.pubsub() as spy:
        spy.subscribe("orchestra:session:s")
        for relay in relays:
            await relay.join("s")

        def is_everywhere() -> bool:
            relays[0].publish("s", {"text": "secret"})
            return bool(received[OLD] and received[NEW])

        await wait_until(is_everywhere)
        relays[1].publish("s", {"text": "secret of new"})
        await wait_until(lambda: {"text": "secret of new"} in received[OLD])
        seen = list(iter(lambda: spy.get_message(timeout=0.1), None))
    assert len(seen) > 1
    assert "secret" not in str(seen)
    assert received[FOREIGN] == []
    for relay in relays:
        await relay.close()


@pytest.mark.slow
async def test_an_idle_consumer_is_still_there_after_half_a_minute(
    redis_process: RedisProcess,
) -> None:
    """redis-py 8 ends a read after 5 s by default, which ends stock consumers."""
    layer = RedisLayer([redis_process.url])
    member = await Member(layer).open("g")
    with redis_process.connect() as client:
        before = {one["id"] for one in client.client_list(_type="pubsub")}
        await asyncio.sleep(30)
        assert {one["id"] for one in client.client_list(_type="pubsub")} == before
    await layer.group_send("g", {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    assert member.gaps == []
    await member.close()
    await layer.flush()


async def test_several_redis_share_the_channels(redis_process: RedisProcess) -> None:
    other = RedisProcess().start()
    try:
        layer = RedisLayer([redis_process.url, other.url], probe_seconds=0.3)
        groups = [f"g{n}" for n in range(20)]
        member = await Member(layer).open(*groups)
        for n, group in enumerate(groups):
            await layer.group_send(group, {"type": "n", "n": n})
        await wait_until(lambda: sorted(member.numbers) == list(range(20)))
        other.kill()
        other.start()
        await wait_until(lambda: member.gaps, 10)
        await member.close()
        await layer.flush()
    finally:
        other.remove()
