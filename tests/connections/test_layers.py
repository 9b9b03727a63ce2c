"""The behaviour that Channels documents for a layer, on all; and what ours adds."""

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer

from connections.layers.broadcast import BROADCAST
from connections.layers.local import LocalLayer
from connections.layers.mailbox import GAP, Mailbox
from connections.layers.postgres import PostgresLayer
from connections.layers.redis import RedisLayer
from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.connections.layer_database import LayerDatabase
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess
from tests.project import ROOT

MakeLayer = Callable[..., Any]


@pytest.fixture(scope="module")
def layer_database(postgres_server: PostgresProcess) -> LayerDatabase:
    return LayerDatabase(postgres_server, "layers")


@pytest.fixture(params=["local", "redis", "postgres"])
async def make_layer(request: pytest.FixtureRequest) -> AsyncIterator[MakeLayer]:
    made: list[Any] = []
    make_one: MakeLayer = LocalLayer
    if request.param == "redis":
        server: RedisProcess = request.getfixturevalue("redis_server")
        make_one = partial(RedisLayer, [server.url], timeout_seconds=scale(20))
    elif request.param == "postgres":
        database: LayerDatabase = request.getfixturevalue("layer_database")
        make_one = database.make_layer

    def make(**options: Any) -> Any:
        made.append(make_one(**options))
        return made[-1]

    yield make
    for layer in made:
        await layer.flush()


@pytest.fixture
def layer(make_layer: MakeLayer) -> Any:
    return make_layer()


class Reader:
    """A consumer: reads a channel for as long as it lives."""

    def __init__(self, layer: Any, channel: str) -> None:
        self.channel = channel
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._task = asyncio.create_task(self._read(layer))

    @classmethod
    async def open(cls, layer: Any, *groups: str) -> "Reader":
        reader = cls(layer, await layer.new_channel())
        for group in groups:
            await layer.group_add(group, reader.channel)
        # A message to itself: from here on the subscription carries.
        await layer.send(reader.channel, {"type": "ready"})
        while (await reader.next())["type"] != "ready":
            pass
        return reader

    async def next(self) -> Any:
        async with asyncio.timeout(scale(15)):
            return await self.messages.get()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self, layer: Any) -> None:
        while True:
            await self.may_read.wait()
            self.messages.put_nowait(await layer.receive_any(self.channel))


async def test_delivers_to_a_channel(layer: Any) -> None:
    reader = await Reader.open(layer)
    await layer.send(reader.channel, {"type": "hello", "n": 1, "of": {"a": [1, None]}})
    assert await reader.next() == {"type": "hello", "n": 1, "of": {"a": [1, None]}}
    await reader.close()


async def test_channels_have_names_of_their_own(layer: Any) -> None:
    names = {await layer.new_channel() for _ in range(100)}
    assert len(names) == 100


async def test_keeps_the_order(layer: Any) -> None:
    reader = await Reader.open(layer, "group")
    for n in range(50):
        await layer.group_send("group", {"type": "n", "n": n})
    assert [(await reader.next())["n"] for _ in range(50)] == list(range(50))
    await reader.close()


async def test_a_group_reaches_its_members_and_nobody_else(layer: Any) -> None:
    one, two = await Reader.open(layer, "g"), await Reader.open(layer, "g", "h")
    other = await Reader.open(layer, "h")
    await layer.group_send("g", {"type": "x"})
    await layer.group_send("h", {"type": "y"})
    assert [await one.next(), await two.next(), await two.next()] == [
        {"type": "x"},
        {"type": "x"},
        {"type": "y"},
    ]
    assert await other.next() == {"type": "y"}
    assert one.messages.empty()
    for reader in (one, two, other):
        await reader.close()


async def test_a_channel_that_left_gets_nothing_more(layer: Any) -> None:
    reader = await Reader.open(layer, "g")
    await layer.group_discard("g", reader.channel)
    await layer.group_discard("g", reader.channel)
    await layer.group_send("g", {"type": "x"})
    await layer.send(reader.channel, {"type": "last"})
    assert await reader.next() == {"type": "last"}
    await reader.close()


async def test_joining_twice_is_joining_once(layer: Any) -> None:
    reader = await Reader.open(layer, "g", "g")
    await layer.group_send("g", {"type": "x"})
    await layer.send(reader.channel, {"type": "last"})
    assert [await reader.next(), await reader.next()] == [
        {"type": "x"},
        {"type": "last"},
    ]
    await reader.close()


async def test_an_empty_group_is_no_error(layer: Any) -> None:
    await layer.group_send("nobody", {"type": "x"})


async def test_what_the_sender_changes_later_is_not_seen(layer: Any) -> None:
    reader = await Reader.open(layer, "g")
    message = {"type": "x", "list": [1]}
    await layer.group_send("g", message)
    message["list"].append(2)  # type: ignore[attr-defined]
    assert (await reader.next())["list"] == [1]
    await reader.close()


async def test_members_may_add_to_a_message_each(layer: Any) -> None:
    one, two = await Reader.open(layer, "g"), await Reader.open(layer, "g")
    await layer.group_send("g", {"type": "x"})
    (await one.next())["mine"] = 1
    assert await two.next() == {"type": "x"}
    for reader in (one, two):
        await reader.close()


@pytest.mark.parametrize("name", ["a b", "", "é", "x" * 100, "a!b"])
async def test_bad_group_names_are_refused(layer: Any, name: str) -> None:
    with pytest.raises(TypeError):
        await layer.group_send(name, {"type": "x"})
    with pytest.raises(TypeError):
        await layer.group_add(name, await layer.new_channel())


async def test_a_message_is_a_dict(layer: Any) -> None:
    with pytest.raises(TypeError):
        await layer.send(await layer.new_channel(), "text")
    with pytest.raises(TypeError):
        await layer.group_send("g", ["list"])


async def test_a_slow_member_is_told_what_it_missed(make_layer: MakeLayer) -> None:
    """In the place of the loss, with the number; the others miss nothing."""
    layer = make_layer(capacity=3)
    slow, fast = await Reader.open(layer, "g"), await Reader.open(layer, "g")
    slow.may_read.clear()
    await layer.send(slow.channel, {"type": "held"})
    assert await slow.next() == {"type": "held"}
    for n in range(10):
        await layer.group_send("g", {"type": "n", "n": n})
        assert (await fast.next())["n"] == n
    slow.may_read.set()
    assert [(await slow.next())["n"] for _ in range(3)] == [0, 1, 2]
    assert await slow.next() == {"type": GAP, "missed": 7}
    await layer.group_send("g", {"type": "n", "n": 10})
    assert (await slow.next())["n"] == 10
    assert layer.dropped == 7
    for reader in (slow, fast):
        await reader.close()


async def test_receive_leaves_out_what_channels_does_not_know(layer: Any) -> None:
    channel = await layer.new_channel()
    for kind in (GAP, BROADCAST, "x"):
        await layer.send(channel, {"type": kind, "version": 1, "text": "x"})
    async with asyncio.timeout(scale(5)):
        assert (await layer.receive(channel))["type"] == "x"


async def test_capacity_per_channel(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=1, channel_capacity={"*specific.*": 5})
    reader = await Reader.open(layer, "g")
    reader.may_read.clear()
    await layer.send(reader.channel, {"type": "held"})
    await reader.next()
    for n in range(6):
        await layer.group_send("g", {"type": "n", "n": n})
    await wait_until(lambda: layer.dropped == 1)
    reader.may_read.set()
    assert [(await reader.next())["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert await reader.next() == {"type": GAP, "missed": 1}
    await reader.close()


async def test_flush_forgets_and_goes_on(layer: Any) -> None:
    reader = await Reader.open(layer, "g")
    await reader.close()
    await layer.flush()
    again = await Reader.open(layer, "h")
    await layer.group_send("g", {"type": "x"})
    await layer.group_send("h", {"type": "y"})
    assert await again.next() == {"type": "y"}
    await again.close()


async def test_a_reader_that_waits_goes_on_after_a_flush(layer: Any) -> None:
    reader = await Reader.open(layer)
    await layer.flush()

    async def is_reached() -> bool:
        await layer.send(reader.channel, {"type": "x"})
        return not reader.messages.empty()

    await wait_until(is_reached)
    await reader.close()


async def test_bytes_stay_bytes(layer: Any) -> None:
    reader = await Reader.open(layer)
    await layer.send(reader.channel, {"type": "x", "bytes": b"\x00\xff"})
    assert await reader.next() == {"type": "x", "bytes": b"\x00\xff"}
    await reader.close()


async def test_a_forgotten_channel_is_in_no_group(layer: Any) -> None:
    reader = await Reader.open(layer, "g", "h")
    await reader.close()
    layer.forget_channel(reader.channel)
    layer.forget_channel(reader.channel)
    await layer.group_send("g", {"type": "x"})
    await layer.group_send("h", {"type": "x"})
    other = await Reader.open(layer, "g")
    await layer.group_send("g", {"type": "y"})
    assert await other.next() == {"type": "y"}
    assert layer.dropped == 0
    await other.close()


async def test_sync_code_sends_from_another_thread(layer: Any) -> None:
    """A reader that is already waiting wakes up, as for async_to_sync in a view."""
    reader = await Reader.open(layer, "g")
    await asyncio.sleep(0.05)

    def send() -> None:
        async_to_sync(layer.group_send)("g", {"type": "from_thread"})

    await asyncio.to_thread(send)
    assert await reader.next() == {"type": "from_thread"}
    await reader.close()


# The local one


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_send_raises_when_the_channel_is_full() -> None:
    layer = LocalLayer(capacity=2)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    await layer.send(channel, {"type": "b"})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "c"})
    assert (await layer.receive(channel))["type"] == "a"
    await layer.send(channel, {"type": "c"})


async def test_a_message_waits_for_a_reader_that_comes_later() -> None:
    layer = LocalLayer()
    channel = await layer.new_channel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.01)
    await layer.send(channel, {"type": "a"})
    assert await layer.receive(channel) == {"type": "a"}


async def test_expired_messages_are_a_gap_and_the_membership_stays() -> None:
    clock = FakeClock()
    layer = LocalLayer(expiry=60, clock=clock)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "a"})
    await layer.group_send("g", {"type": "b"})
    clock.now += 30
    await layer.group_send("g", {"type": "c"})
    clock.now += 31
    assert await layer.receive_any(channel) == {"type": GAP, "missed": 2}
    assert await layer.receive(channel) == {"type": "c"}
    await layer.group_send("g", {"type": "d"})
    assert await layer.receive(channel) == {"type": "d"}


async def test_expired_messages_make_room() -> None:
    clock = FakeClock()
    layer = LocalLayer(expiry=60, capacity=1, clock=clock)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    clock.now += 61
    await layer.send(channel, {"type": "b"})
    assert await layer.receive_any(channel) == {"type": GAP, "missed": 1}
    assert await layer.receive(channel) == {"type": "b"}


async def test_messages_behind_a_gap_expire_too() -> None:
    clock = FakeClock()
    layer = LocalLayer(expiry=60, capacity=2, clock=clock)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "a"})
    clock.now += 61
    for kind in ("b", "c"):
        await layer.group_send("g", {"type": kind})
    clock.now += 61
    await layer.group_send("g", {"type": "d"})
    await layer.group_send("g", {"type": "e"})
    assert layer.dropped == 0
    assert await layer.receive_any(channel) == {"type": GAP, "missed": 3}
    assert await layer.receive_any(channel) == {"type": "d"}


async def test_memberships_end_after_group_expiry(make_layer: MakeLayer) -> None:
    clock = FakeClock()
    layer = make_layer(group_expiry=100, clock=clock)
    early, late = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("g", early)
    clock.now += 60
    await layer.group_add("g", late)
    clock.now += 60
    await layer.group_send("g", {"type": "x"})
    assert await layer.receive(late) == {"type": "x"}
    await layer.send(early, {"type": "y"})
    assert await layer.receive(early) == {"type": "y"}


async def test_joining_again_renews_a_membership(make_layer: MakeLayer) -> None:
    clock = FakeClock()
    layer = make_layer(group_expiry=100, clock=clock)
    channel = await layer.new_channel()
    for _ in range(3):
        await layer.group_add("g", channel)
        clock.now += 60
    await layer.group_send("g", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


async def test_a_group_begins_anew_after_its_memberships_ended(
    make_layer: MakeLayer,
) -> None:
    clock = FakeClock()
    layer = make_layer(group_expiry=100, clock=clock)
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("g", channel)
    clock.now += 101
    await layer.group_send("g", {"type": "x"})
    await layer.send(channel, {"type": "y"})
    assert await layer.receive(channel) == {"type": "y"}
    await layer.group_discard("g", channel)
    await layer.group_add("g", other)
    await layer.group_send("g", {"type": "z"})
    assert await layer.receive(other) == {"type": "z"}


async def test_a_membership_of_a_shared_layer_stays_by_default(
    layer_database: LayerDatabase,
) -> None:
    clock = FakeClock()
    layer = layer_database.make_layer(clock=clock)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    clock.now += 1e6
    await layer.group_send("g", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}
    await layer.flush()


@pytest.mark.parametrize("wrong", [0, -1, "60", True])
def test_a_wrong_group_expiry_of_a_shared_layer_is_named(wrong: Any) -> None:
    for make in (RedisLayer, PostgresLayer):
        with pytest.raises(ValueError, match=f"group_expiry is {wrong!r}"):
            make(group_expiry=wrong)


def find_mailboxes() -> list[Mailbox]:
    return [one for one in gc.get_objects() if isinstance(one, Mailbox)]


@pytest.mark.parametrize("capacity", [1, 100])
async def test_mailboxes_nobody_reads_are_forgotten(capacity: int) -> None:
    """With a gap behind their message too."""
    clock = FakeClock()
    layer = LocalLayer(expiry=60, group_expiry=600, capacity=capacity, clock=clock)
    gc.collect()
    earlier = find_mailboxes()  # Of other tests; kept, so that none ends meanwhile.
    for _ in range(50):
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.send(channel, {"type": "x"})
    await layer.group_send("g", {"type": "x"})
    assert layer.dropped == (50 if capacity == 1 else 0)
    assert len(find_mailboxes()) == len(earlier) + 50
    clock.now += 700
    await layer.new_channel()
    clock.now += 700
    await layer.new_channel()
    gc.collect()
    assert len(find_mailboxes()) == len(earlier)


async def test_a_cancelled_reader_leaves_its_message_to_the_next() -> None:
    layer = LocalLayer()
    first = asyncio.create_task(layer.receive("work"))
    second = asyncio.create_task(layer.receive("work"))
    await asyncio.sleep(0)
    await layer.send("work", {"type": "x"})
    first.cancel()
    assert await asyncio.wait_for(second, scale(15)) == {"type": "x"}


async def test_each_member_of_a_group_costs_the_same_few_calls() -> None:
    """Of functions, of Python and C; the stock layer makes twice as many or more."""

    async def count_calls(layer: Any, members: int) -> int:
        channels = [await layer.new_channel() for _ in range(members)]
        for channel in channels:
            await layer.group_add("g", channel)
        readers = [asyncio.create_task(layer.receive(one)) for one in channels]
        await asyncio.sleep(0)
        events: Counter[str] = Counter()
        sys.setprofile(lambda frame, event, argument: events.update([event]))
        try:
            await layer.group_send("g", {"type": "x", "text": "hello"})
            await asyncio.gather(*readers)
        finally:
            sys.setprofile(None)
        return events["call"] + events["c_call"]

    few, many = [await count_calls(LocalLayer(), count) for count in (100, 1000)]
    assert many < 10.5 * few
    assert 2 * many < await count_calls(InMemoryChannelLayer(), 1000)


UNSERVED = """
import asyncio, logging, sys
import django
django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from connections.node.current import get_node

logging.basicConfig(format="%(message)s", force=True)
layer = get_channel_layer()

async def serve():
    if sys.argv[1] == "served":
        get_node()
    for _ in range(2):
        await layer.group_send("chat", {"type": "said"})
        await layer.send("specific.1", {"type": "said"})

async_to_sync(serve)()
"""


@pytest.mark.parametrize(("kind", "warnings"), [("served", 0), ("unserved", 1)])
def test_a_process_without_a_node_warns_once_that_nobody_is_reached(
    kind: str, warnings: int, tmp_path: Path
) -> None:
    """As a command, a shell or a worker; the messages would vanish in silence."""
    done = subprocess.run(
        [sys.executable, "-c", UNSERVED, kind],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "DEBUG": "true",
            "ORCHESTRA_VAR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=scale(60),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reaches nobody") == warnings
    assert done.stderr.count("RedisLayer") == warnings


async def test_a_message_between_a_look_and_the_wait_wakes_its_reader() -> None:
    """Another thread may put it there."""
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(10, 60)
    assert mailbox.take(0) is None
    await asyncio.to_thread(mailbox.put, {"type": "x"}, 0, loop)
    await asyncio.wait_for(mailbox.wait(), scale(15))
    assert mailbox.take(0) == {"type": "x"}


async def test_nobody_waits_at_a_mailbox_that_was_closed_meanwhile() -> None:
    mailbox = Mailbox(10, 60)
    assert mailbox.take(0) is None
    await asyncio.to_thread(mailbox.close)
    await asyncio.wait_for(mailbox.wait(), scale(15))


class YieldingCapacity(int):
    """A capacity that lets other threads run while a mailbox compares with it."""

    def __le__(self, count: int) -> bool:
        for _ in range(100):
            time.sleep(0)
        return int(self) <= count


async def test_two_threads_do_not_both_take_the_last_room() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        mailbox = Mailbox(YieldingCapacity(1), 60)
        message = {"type": "x"}
        puts = [asyncio.to_thread(mailbox.put, message, 0, loop) for _ in range(2)]
        assert sum(await asyncio.gather(*puts)) == 1


async def test_threads_that_put_and_take_at_once_lose_nothing() -> None:
    """The count of messages decides about room: it must not drift."""
    loop = asyncio.get_running_loop()
    mailbox, taken = Mailbox(100, 60), 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def fill() -> int:
        return sum(mailbox.put({"type": "x"}, 0, loop) for _ in range(5000))

    try:
        filling = [loop.run_in_executor(None, fill) for _ in range(3)]
        while not all(one.done() for one in filling):
            taken += mailbox.take(0) is not None
            await asyncio.sleep(0)
        put = sum([await one for one in filling])
    finally:
        sys.setswitchinterval(interval)
    while mailbox.take(0) is not None:
        taken += 1
    assert taken == put
    assert all(mailbox.put({"type": "x"}, 0, loop) for _ in range(100))
    assert not mailbox.put({"type": "x"}, 0, loop)
