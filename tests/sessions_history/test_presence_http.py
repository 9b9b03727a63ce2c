"""Test presence and typing of clients that follow a session over plain HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User

from connections.credentials.identity import name_user
from connections.exceptions import PresenceUnavailable
from connections.node.node import Node
from connections.testing import wait_until
from connections.testing.communicators import make_config
from sessions_history.session_ids import make_session_id
from tests.sessions_history.asking import add_session, ask, bearer, read_error
from tests.sessions_history.members import add_members
from tests.sessions_history.talks import Talk, talk

pytestmark = [pytest.mark.django_db(transaction=True)]
ASKED: dict[str, Any] = {"presence": 1}


@pytest.fixture
def quick(node: Node) -> Node:
    node.config = make_config(node={"beat_seconds": 0.2}, anonymous=True)
    return node


@asynccontextmanager
async def follow(
    node: Node, session_id: str = "new", **more: Any
) -> AsyncIterator[Talk]:
    """Follow a session as the response of a request does."""
    async with talk(node, session_id, carrier="sse", **ASKED, **more) as one:
        yield one


async def read_members(one: Talk) -> list[str]:
    listed = await one.receive_type("present")
    return [member["member"] for member in listed["members"]]


async def post(session_id: str, message: Mapping[str, Any], **headers: Any) -> Any:
    return await ask("POST", f"{session_id}/messages/", message, **headers)


async def test_who_is_present_comes_unasked_before_the_events(quick: Node) -> None:
    """A client of plain HTTP is in the session as that of a socket is."""
    async with talk(quick, **ASKED) as socket:
        bob = socket.hello["member"]
        await socket.receive_type("presence.joined")
        async with follow(quick, socket.session_id, client_id="alice") as one:
            assert one.hello["member"] == bob
            assert await read_members(one) == [bob]
            await socket.send(type="typing", active=True)
            event = await one.receive_type("typing")
            assert event["connection"] == socket.hello["connection"]


async def test_after_a_gap_the_list_comes_again(quick: Node) -> None:
    async with follow(quick) as one:
        await read_members(one)
        quick.presence.expect_gap()
        assert (await one.receive_type("presence.gap", "present"))["type"] == (
            "presence.gap"
        )
        assert await read_members(one) == [one.hello["member"]]


class AwayOnce:
    """A presence store that fails to answer one question."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.questions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_present(self, room: str) -> Any:
        self.questions += 1
        if self.questions == 1:
            raise PresenceUnavailable("away")
        return await self._store.get_present(room)


async def test_a_list_that_is_not_known_comes_when_it_is(quick: Node) -> None:
    quick.presence.store = away = AwayOnce(quick.presence.store)  # type: ignore[assignment]
    async with follow(quick) as one:
        assert (await one.receive_type("present"))["members"] is None
        assert await read_members(one) == [one.hello["member"]]
        assert away.questions == 2


async def test_a_posted_typing_is_that_of_the_connection(quick: Node) -> None:
    headers = await bearer()
    async with (
        talk(quick, **ASKED) as socket,
        follow(quick, socket.session_id) as one,
    ):
        own = {"connection": one.hello["connection"]}
        typing = {"type": "typing", "active": True, **own}
        live = quick.hub.get(one.hello["connection"])
        assert live is not None
        before = live.last_activity
        answer = await post(socket.session_id, typing, **headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert live.last_activity > before
        event = await socket.receive_type("typing")
        assert event == {**typing, "member": one.hello["member"]}
        # The message ends it.
        message = {"type": "message", "id": "abcdefghijkl-1", "data": 1, **own}
        assert (await post(socket.session_id, message, **headers)).status_code == 200
        assert (await socket.receive_type("typing"))["active"] is False
        # So does the end of the connection.
        await post(socket.session_id, typing, **headers)
        assert (await socket.receive_type("typing"))["active"] is True
        await one.communicator.disconnect()
        event = await socket.receive_type("typing")
        assert event == {**typing, "active": False, "member": one.hello["member"]}
        # It was sent to all others, and not to the client itself.
        async with follow(quick, socket.session_id) as other:
            await read_members(other)


async def test_nobody_types_on_the_connection_of_another(quick: Node) -> None:
    user = await User.objects.acreate(username="wanda")
    session_id = await add_members(writer=user)
    async with (
        talk(quick, session_id, **ASKED) as owner,
        follow(quick, session_id, user=user) as one,
    ):
        foreign = {"type": "typing", "active": True}
        foreign["connection"] = one.hello["connection"]
        headers = await bearer()
        assert (await post(session_id, foreign, **headers)).status_code == 204
        # A client whose connections are polls has no name for them.
        nameless = {"type": "typing", "active": True}
        assert (await post(session_id, nameless, **headers)).status_code == 204
        event = await one.receive_type("typing")
        assert event["member"] == event["connection"] == owner.hello["member"]
        own = await bearer(name_user(user), user=user)
        assert (await post(session_id, nameless, **own)).status_code == 204
        # Nothing of what alice posted was sent to her, nor under wanda's name.
        assert (await owner.receive_type("typing"))["member"] == one.hello["member"]


async def test_what_may_not_be_posted_is_refused(quick: Node) -> None:
    user = await User.objects.acreate(username="rita")
    session_id = await add_members(reader=user)
    typing: dict[str, Any] = {"type": "typing", "active": True}
    reader, stranger = await bearer(name_user(user), user=user), await bearer("mallory")
    refused = await post(session_id, typing, **reader)
    assert read_error(refused, 403) == "forbidden"
    assert read_error(await post(session_id, typing, **stranger), 404) == "not_found"
    owner = await bearer()
    for wrong in (
        {"active": None},
        {"active": 1},
        {"connection": 5},
        {"connection": "c" * 33},
    ):
        refused = await post(session_id, {**typing, **wrong}, **owner)
        assert read_error(refused, 400) == "invalid_message"
    # A session that has no entry yet is of the client whose id it is.
    new = make_session_id("alice")
    assert (await post(new, typing, **owner)).status_code == 204


async def test_typing_counts_for_the_rate_of_the_client(quick: Node) -> None:
    rates = {"messages_per_second": 0.01, "burst_messages": 3}
    quick.config = make_config(rate_limit=rates)
    session_id, headers = await add_session("eve"), await bearer("eve")
    typing = {"type": "typing", "active": True}
    for _ in range(3):
        assert (await post(session_id, typing, **headers)).status_code == 204
    refused = await post(session_id, typing, **headers)
    assert read_error(refused, 429) == "rate_limited"
    assert int(refused["Retry-After"]) >= 1


async def test_present_tells_who_is_in_the_session(quick: Node) -> None:
    headers = await bearer()
    async with follow(quick) as one:
        path = f"{one.session_id}/present/"
        await wait_until(lambda: bool(quick.presence.measure()[1]))
        refused = await ask("GET", path, **await bearer("mallory"))
        assert read_error(refused, 404) == "not_found"
        await one.say_and_wait("now it has an entry")
        answer = await ask("GET", path, **headers)
        member = {"member": one.hello["member"], "data": {}}
        assert answer.json() == {"members": [member]}
        known = {"if-none-match": answer["ETag"]}
        assert (await ask("GET", path, **headers, **known)).status_code == 304
    quick.presence.store = AwayOnce(quick.presence.store)  # type: ignore[assignment]
    assert read_error(await ask("GET", path, **headers), 503) == "unavailable"
