"""Test that the page about presence shows what consumers, views and templates do."""

import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.template import Context, Template
from django.test import RequestFactory

from connections.consumers import LimitedJsonConsumer
from connections.presence import ONLINE, count, registry
from connections.testing.communicators import make_node
from tests.connections.conversations import open_connection, receive_type
from tests.pages import PRESENCE, read_blocks

BEAT: Any = {"node": {"beat_seconds": 0.05}}


class User:
    """A user as a middleware of Channels puts it into the scope."""

    is_authenticated = True

    def __init__(self, pk: int, *, may_see: bool = True) -> None:
        self.pk = pk
        self._may_see = may_see

    def __str__(self) -> str:
        return f"user{self.pk}"

    def get_username(self) -> str:
        return str(self)

    def has_perm(self, permission: str) -> bool:
        return self._may_see


class CountingReader:
    """Counts the questions that reach a store; some users are online."""

    is_shared = True

    def __init__(self, *online: str) -> None:
        self._online = set(online)
        self.questions = 0

    async def get_present(self, room: str) -> dict[str, str]:
        return {}

    async def find_present(self, room: str, members: Any) -> set[str]:
        self.questions += 1
        return self._online.intersection(members)

    async def count(self, room: str) -> int:
        return 0


def read_names() -> dict[str, Any]:
    """Return the names that the Python of the page defines."""
    names: dict[str, Any] = {"__name__": "chat.consumers"}
    for block in read_blocks(PRESENCE.read_text(), "python"):
        exec(block, names)
    return names


def read_template() -> Template:
    (source,) = read_blocks(PRESENCE.read_text(), "html")
    return Template(source)


async def test_the_page_shows_a_consumer_and_a_view() -> None:
    names, node = read_names(), make_node(**BEAT)
    scope: Any = {"url_route": {"kwargs": {"room": "lobby"}}}
    alice, bob = User(1), User(2, may_see=False)
    chat = names["ChatConsumer"]
    communicator = await open_connection(
        chat, node, client_id="user:1", user=alice, **scope
    )
    listed = await receive_type(communicator, "present")
    assert listed["members"] == [["user:1", {"name": "user1"}]]
    here, friends, in_lobby, online = await names["describe"](alice, [bob])
    assert (here, friends, in_lobby, online) == (True, {bob: False}, 1, 1)
    request: Any = RequestFactory().get("/")
    request.user = alice
    answer = await sync_to_async(names["room_view"])(request, "lobby")
    assert json.loads(answer.content) == {
        "members": [{"id": "user:1", "name": "user1"}]
    }
    request.user = bob
    with pytest.raises(PermissionDenied):
        await sync_to_async(names["room_view"])(request, "lobby")
    await communicator.disconnect()
    await node.stop()


async def test_the_consumer_of_the_page_joins_no_room_but_those_of_the_chat() -> None:
    names, node = read_names(), make_node(**BEAT)
    for room in ("session:s1", ONLINE):
        scope: Any = {"url_route": {"kwargs": {"room": room}}}
        communicator = await open_connection(
            names["ChatConsumer"], node, client_id="user:1", user=User(1), **scope
        )
        await receive_type(communicator, "present")
        assert await count(f"chat:{room}") == 1
        await communicator.disconnect()
    assert await count("session:s1") == 0
    await node.stop()


def test_a_view_without_a_node_does_not_guess() -> None:
    request: Any = RequestFactory().get("/")
    request.user = User(1)
    answer = read_names()["room_view"](request, "lobby")
    assert (answer.status_code, json.loads(answer.content)) == (503, {"members": None})


async def test_the_page_shows_a_handler() -> None:
    names, node = read_names(), make_node(**BEAT)
    quiet = names["QuietConsumer"]
    assert issubclass(quiet, LimitedJsonConsumer)
    communicator = await open_connection(quiet, node, client_id="user:1", user=User(1))
    assert await receive_type(communicator, "hello") == {
        "type": "hello",
        "names": ["somebody"],
    }
    await communicator.disconnect()
    await node.stop()


async def test_the_page_shows_the_events_as_they_are() -> None:
    (block,) = read_blocks(PRESENCE.read_text(), "json")
    joined, left, gap = map(json.loads, block.splitlines())
    node = make_node(**BEAT)

    class Room(LimitedJsonConsumer):
        presence = True

    first = await open_connection(Room, node, client_id="user:1")
    assert (await receive_type(first, "presence.joined")).keys() == joined.keys()
    other = await open_connection(Room, node, client_id="user:2")
    received = await receive_type(first, "presence.joined")
    assert received["members"][0].keys() == joined["members"][0].keys()
    await other.disconnect()
    await node.advance(16)
    received = await receive_type(first, "presence.left")
    assert received["members"][0].keys() == left["members"][0].keys()
    node.presence.expect_gap()
    assert (await receive_type(first, "presence.gap")).keys() == gap.keys()
    await first.disconnect()
    await node.stop()


async def test_a_template_reads_all_users_in_one_round_trip() -> None:
    users = [User(number) for number in range(50)]
    reader = CountingReader("user:3", "user:7")
    registry.serving.add(reader)
    template = read_template()
    html = await sync_to_async(template.render)(Context({"friends": users}))
    words = html.split()
    assert words.count("online") == 2
    assert words.count("offline") == 48
    assert words[words.index("user3") + 1] == "online"
    assert reader.questions == 1
    registry.serving.discard(reader)


def test_a_template_does_not_guess() -> None:
    html = read_template().render(Context({"friends": [User(1)]}))
    assert html.split() == ["user1", "unknown"]


async def test_the_tag_alone_tells_of_one_user() -> None:
    reader = CountingReader("user:3")
    registry.serving.add(reader)
    template = Template("{% load presence %}{% online user %}")
    context = Context({"user": User(3)})
    assert await sync_to_async(template.render)(context) == "True"
    registry.serving.discard(reader)


NOBODY: Any = (None, "", AnonymousUser(), get_user_model()())


@pytest.mark.parametrize("nobody", NOBODY, ids=lambda one: type(one).__name__)
async def test_of_nobody_the_tag_tells_nothing(nobody: Any) -> None:
    reader = CountingReader("user:3")
    registry.serving.add(reader)
    template = Template(
        "{% load presence %}{% online nobody among=all %}"
        " {% online user among=all %} {% online missing %}"
    )
    user = User(3)
    context = Context({"nobody": nobody, "user": user, "all": [nobody, user]})
    assert await sync_to_async(template.render)(context) == "None True None"
    registry.serving.discard(reader)
