"""Test the presence of consumers: who is there, and the events of a room."""

import asyncio
import json
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth import get_user_model

from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.consumers import LimitedSyncConsumer as SyncConsumer
from connections.exceptions import PresenceUnavailable, ReservedName
from connections.node.node import Node
from connections.presence import (
    ONLINE,
    Presence,
    Present,
    are_online,
    count,
    get_present,
    is_online,
)
from connections.presence.base import Delta
from connections.testing.communicators import Communicator, VirtualNode, make_node
from connections.testing.waiting import wait_until
from connections.views.presence import describe_presence
from tests.connections.conversations import open_connection, receive_close

BEAT: Any = {"node": {"beat_seconds": 0.05}}


class User:
    """A user as a middleware of Channels puts it into the scope."""

    is_authenticated = True

    def __init__(self, pk: int) -> None:
        self.pk = pk


class Plain(LimitedJsonConsumer):
    presence = True


class PlainSync(SyncConsumer):
    presence = True


class Chat(LimitedJsonConsumer):
    """Names its room in connect(), as consumers of Channels do."""

    async def connect(self) -> None:
        self.room = self.scope.get("room", "lobby")
        await self.accept()

    async def presence(self) -> Any:
        return Presence(self.room, {"name": self.scope["user"].pk})


class SyncChat(SyncConsumer):
    def presence(self) -> Any:
        return ["lobby", "attic"]


class Overriding(Chat):
    async def connect(self) -> None:
        self.scope["channel_name"] = self.channel_name
        await super().connect()

    async def presence_joined(self, event: Any) -> None:
        await self.send_json({"type": "mine", "event": event})


def open_user(
    consumer: Any, node: Node, number: int, **scope: Any
) -> "asyncio.Future[Communicator]":
    return asyncio.ensure_future(
        open_connection(
            consumer, node, user=User(number), client_id=f"user:{number}", **scope
        )
    )


async def receive_event(communicator: Communicator) -> Any:
    return json.loads((await communicator.receive_output())["text"])


async def test_true_makes_the_client_online_and_present_at_its_path() -> None:
    node = make_node()
    communicator = await open_user(Plain, node, 5)
    assert await is_online(User(5))
    assert await is_online("user:5")
    assert not await is_online(User(6))
    assert await get_present("/ws/test/") == [Present(member="user:5", data={})]
    assert await count("/ws/test/") == await count() == 1
    await node.presence.beat()
    await communicator.disconnect()
    assert await count() == 1
    await node.advance(16)
    assert await count() == 0
    await node.stop()


async def test_a_consumer_without_presence_makes_nobody_online() -> None:
    node = make_node()
    communicator = await open_user(LimitedJsonConsumer, node, 5)
    node.presence.start()
    assert not await is_online(User(5))
    await communicator.disconnect()
    await node.stop()


async def test_a_method_names_room_and_public_data() -> None:
    node = make_node()
    communicator = await open_user(Chat, node, 5, room="attic")
    assert await get_present("attic") == [Present(member="user:5", data={"name": 5})]
    assert await get_present("lobby") == []
    await communicator.disconnect()
    await node.stop()


async def test_a_synchronous_consumer_is_present_in_several_rooms() -> None:
    node = make_node()
    communicator = await open_user(SyncChat, node, 5)
    assert [await count(room) for room in ("lobby", "attic", ONLINE)] == [1, 1, 1]
    await communicator.disconnect()
    await node.stop()


async def test_joined_and_left_are_sent_to_the_room_once_for_all_tabs() -> None:
    node = make_node(**BEAT)
    first = await open_user(Chat, node, 1)
    assert await receive_event(first) == {
        "type": "presence.joined",
        "room": "lobby",
        "members": [{"member": "user:1", "data": {"name": 1}}],
    }
    elsewhere = await open_user(Chat, node, 3, room="attic")
    tabs = [await open_user(Chat, node, 2) for _ in range(3)]
    joined = await receive_event(first)
    assert [one["member"] for one in joined["members"]] == ["user:2"]
    for tab in tabs:
        await tab.disconnect()
    await node.advance(16)
    assert await receive_event(first) == {
        "type": "presence.left",
        "room": "lobby",
        "members": [{"member": "user:2"}],
    }
    assert node.presence.events == {"joined": 3, "left": 1}
    await first.disconnect()
    await elsewhere.disconnect()
    await node.stop()


async def test_a_reload_is_no_leave() -> None:
    node = make_node(**BEAT)
    first = await open_user(Chat, node, 1)
    await receive_event(first)
    reloaded = await open_user(Chat, node, 2)
    assert (await receive_event(first))["type"] == "presence.joined"
    await reloaded.disconnect()
    await node.advance(10)
    reloaded = await open_user(Chat, node, 2)
    await node.presence.beat()
    await node.advance(20)
    third = await open_user(Chat, node, 3)
    (member,) = (await receive_event(first))["members"]
    assert member["member"] == "user:3"
    for one in (first, reloaded, third):
        await one.disconnect()
    await node.stop()


async def test_a_consumer_may_handle_events_itself() -> None:
    node = make_node(**BEAT)
    communicator = await open_user(Overriding, node, 1)
    received = await receive_event(communicator)
    assert received["type"] == "mine"
    assert received["event"]["type"] == "presence.joined"
    await communicator.disconnect()
    await node.stop()


async def test_a_slow_handler_ends_its_connection_alone() -> None:
    released = asyncio.Event()

    class Stuck(Chat):
        async def presence_joined(self, event: Any) -> None:
            await released.wait()

    node = make_node(**BEAT)
    stuck = await open_user(Stuck, node, 1)
    many = {f"user:{number}": "{}" for number in range(22_000)}
    node.presence.store.on_delta("lobby", Delta(joined=many))
    assert (await receive_close(stuck))["code"] == 4208
    released.set()
    await stuck.disconnect()
    await node.stop()


async def test_events_of_presence_are_no_activity() -> None:
    node = make_node(**BEAT, idle_timeout_seconds=300)
    communicator = await open_user(Chat, node, 1)
    await receive_event(communicator)
    await node.advance(200)
    other = await open_user(Chat, node, 2)
    await receive_event(communicator)
    await node.advance(150)
    assert (await receive_close(communicator))["code"] == 4300
    await other.disconnect()
    await communicator.disconnect()
    await node.stop()


async def test_an_address_is_not_shown_to_others() -> None:
    node = make_node()
    communicator = await open_connection(Plain, node, client_id="address:192.0.2.7")
    ((present),) = await get_present("/ws/test/")
    assert present.member.startswith("guest:")
    assert "192.0.2.7" not in present.member
    assert await is_online("address:192.0.2.7")
    await communicator.disconnect()
    await node.stop()


async def test_a_users_own_token_makes_the_user_online() -> None:
    """An access token gives the client a name of its own."""
    node = make_node()
    here, away = get_user_model()(pk=5), get_user_model()(pk=6)
    communicator = await open_connection(Plain, node, client_id="laptop", user=here)
    assert await are_online([here, away]) == {here: True, away: False}
    await communicator.disconnect()
    await node.stop()


WRONG = (5, "", "a\nb", "x" * 201, [5], ONLINE, Presence("r", ["list"]))  # type: ignore[arg-type]
OF_SESSIONS = ("session:1", "session:", ["lobby", Presence("session:1")])


@pytest.mark.parametrize(
    "named",
    [
        *WRONG,
        *OF_SESSIONS,
        [f"r{number}" for number in range(21)],
        Presence("r", {"text": "x" * 2000}),
        Presence("r", {"set": {1}}),
        Presence("r", {"score": float("nan")}),
    ],
    ids=lambda named: repr(named)[:30],
)
async def test_a_wrong_presence_refuses_the_connection(named: Any) -> None:
    class Wrong(LimitedJsonConsumer):
        def presence(self) -> Any:
            return named

    node = make_node()
    communicator = await open_connection(Wrong, node)
    assert (await receive_close(communicator))["code"] == 4500
    assert node.counters.errors == {"internal": 1}
    await communicator.disconnect()
    await node.stop()


@pytest.mark.parametrize("path", [f"/ws/{'x' * 200}/", "/ws/a\u200b/"])
@pytest.mark.parametrize("consumer", [Plain, PlainSync])
async def test_a_path_that_is_no_room_is_the_clients_error(
    consumer: Any, path: str
) -> None:
    node = make_node()
    communicator = await open_connection(consumer, node, path=path)
    assert (await receive_close(communicator))["code"] == 4004
    assert not node.counters.errors
    await communicator.disconnect()
    await node.stop()


async def test_a_synchronous_presence_runs_in_the_thread_of_its_handlers() -> None:
    """On the event loop it could not read the database, and would stop the node."""
    threads: list[int] = []

    class Recording(SyncConsumer):
        def connect(self) -> None:
            threads.append(threading.get_ident())
            self.accept()

        def presence(self) -> str:
            threads.append(threading.get_ident())
            return "lobby"

    node = make_node()
    communicator = await open_user(Recording, node, 5)
    assert await count("lobby") == 1
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads
    await communicator.disconnect()
    await node.stop()


async def test_a_synchronous_consumer_may_name_its_rooms_in_a_coroutine() -> None:
    class Mixed(SyncConsumer):
        async def presence(self) -> str:
            return "lobby"

    node = make_node()
    communicator = await open_user(Mixed, node, 5)
    assert await count("lobby") == 1
    await communicator.disconnect()
    await node.stop()


@pytest.mark.parametrize("nobody", [None, False])
async def test_a_method_may_decide_against_presence(nobody: Any) -> None:
    class Hidden(LimitedJsonConsumer):
        def presence(self) -> Any:
            return nobody

    node = make_node()
    node.presence.start()
    communicator = await open_user(Hidden, node, 5)
    assert await count() == 0
    await communicator.disconnect()
    await node.stop()


def test_a_handler_that_is_called_presence_is_named_at_once() -> None:
    """A project may have a method for layer messages of this type."""
    with pytest.raises(ReservedName, match="as True, False, or a method"):

        class Old(LimitedConsumer):
            async def presence(self, event: Any) -> None: ...


async def test_no_layer_message_speaks_for_presence() -> None:
    node = make_node(**BEAT)
    communicator = await open_user(Overriding, node, 1)
    await receive_event(communicator)
    forged = {"type": "presence.joined", "room": "lobby", "members": []}
    layer = get_channel_layer()
    assert layer is not None
    await layer.send(communicator.scope["channel_name"], forged)
    other = await open_user(Chat, node, 2)
    received = await receive_event(communicator)
    assert [one["member"] for one in received["event"]["members"]] == ["user:2"]
    await other.disconnect()
    await communicator.disconnect()
    await node.stop()


def test_another_process_than_the_nodes_gets_no_false_offline() -> None:
    with pytest.raises(PresenceUnavailable):
        async_to_sync(is_online)("user:5")


async def test_threads_of_the_process_may_ask() -> None:
    node = make_node()
    communicator = await open_user(Plain, node, 5)
    assert await sync_to_async(async_to_sync(is_online))("user:5")
    answers: list[bool] = []
    thread = threading.Thread(
        target=lambda: answers.append(asyncio.run(is_online("user:5")))
    )
    thread.start()
    await wait_until(lambda: answers == [True])
    thread.join()
    await communicator.disconnect()
    await node.stop()


async def test_a_full_room_shows_no_more() -> None:
    node: VirtualNode = make_node(**BEAT, presence={"max_members_per_room": 1})
    first = await open_user(Chat, node, 1)
    await receive_event(first)
    second = await open_user(Chat, node, 2)
    await wait_until(lambda: node.presence.refused >= 1)
    assert [one.member for one in await get_present("lobby")] == ["user:1"]
    await first.disconnect()
    await node.advance(16)
    await wait_until(lambda: node.presence.events["joined"] == 2)
    assert [one.member for one in await get_present("lobby")] == ["user:2"]
    await second.disconnect()
    await node.stop()


def read_metrics(node: Node) -> dict[str, float]:
    """Return the metrics of presence, by name and label."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for metric in describe_presence(node.presence)
        for sample in metric.samples
    }


async def test_metrics_and_the_nodes_row_count_presence() -> None:
    node = make_node(**BEAT)
    assert node.presence.describe() == {}
    first = await open_user(Chat, node, 1)
    second = await open_user(Chat, node, 2, room="attic")
    await wait_until(lambda: node.presence.store.online == 2)
    await wait_until(lambda: node.presence.events["joined"] == 2)
    assert node.presence.describe() == {"online": 2}
    assert read_metrics(node) == {
        "websocket_presence_rooms": 2,
        "websocket_presence_members": 2,
        "websocket_presence_online": 2,
        "websocket_presence_events_total joined": 2,
        "websocket_presence_events_total left": 0,
        "websocket_presence_refused_total": 0,
        "websocket_presence_degraded": 0,
    }
    await first.disconnect()
    await second.disconnect()
    await node.stop()
