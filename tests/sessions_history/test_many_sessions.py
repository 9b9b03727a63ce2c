"""Many sessions on one connection: each has its own order, resume, role and end."""

import asyncio
import gc
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User

from connections.credentials.identity import Credential
from connections.credentials.tokens import create_access_token
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.passes import Passes
from connections.storage.database import Database
from connections.testing.communicators import connect_to
from connections.testing.waiting import wait_until
from sessions_history import members
from sessions_history.attached import Attached, AttachedConnections
from sessions_history.commits import commit
from sessions_history.consumers import SessionConsumer
from sessions_history.fan_out import FanOut
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session
from sessions_history.reads import Claim
from sessions_history.turns import Turns
from tests.connections.conversations import receive_close
from tests.connections.live_connections import make_connection
from tests.connections.switchable_database import SwitchableDatabase
from tests.sessions_history.appends import LIMITS, make_append, make_session
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, start_talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

V2 = ("orchestra.v2", "orchestra.v1")
QUICK: dict[str, Any] = {"node": {"beat_seconds": 0.2}}


class ManyTalk(Talk):
    """A client's side of a connection with many sessions."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        super().__init__(communicator)
        self.kept: deque[dict[str, Any]] = deque()

    async def attach(self, session: str = "new", **keys: Any) -> dict[str, Any]:
        """Attach to a session, and return its hello or the error."""
        await self.send(type="attach", session=session, id="a1", **keys)
        return await self.find(lambda one: one.get("id") == "a1")

    async def find_type(self, session: str, *kinds: str) -> dict[str, Any]:
        """Return the next message of a session of some types; others are kept."""
        return await self.find(
            lambda one: one.get("session") == session and one["type"] in kinds
        )

    async def find(self, fits: Any) -> dict[str, Any]:
        for one in list(self.kept):
            if fits(one):
                self.kept.remove(one)
                return one
        while True:
            message = await self.receive()
            if fits(message):
                return message
            self.kept.append(message)

    async def say_in(self, session: str, payload: Any) -> int:
        """Send a message to a session, and return its offset."""
        self._sent += 1
        message_id = f"{self._page}-{self._sent}"
        content = {"id": message_id, "data": payload, "session": session}
        await self.send(type="message", **content)
        ack = await self.find_type(session, "ack")
        assert ack["id"] == message_id
        offset: int = ack["offset"]
        return offset

    async def read_offsets(self, session: str, last: int) -> list[int]:
        """Return the offsets of the entries of a session, up to the one named."""
        offsets: list[int] = []
        while not offsets or offsets[-1] != last:
            offsets.append((await self.find_type(session, "entry"))["offset"])
        return offsets


@asynccontextmanager
async def talk_to_many(
    node: Node, path: str = "many", **options: Any
) -> AsyncIterator[ManyTalk]:
    async with talk(node, path, subprotocols=V2, **options) as one:
        many = ManyTalk(one.communicator)
        many.hello = one.hello
        yield many


@pytest.fixture
def bob() -> User:
    return User.objects.create(username="bob")


async def test_six_sessions_are_one_connection_and_each_has_its_own_order(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk_to_many(node) as page:
        assert page.hello["limits"]["max_sessions"] == 20
        assert "session" not in page.hello
        hellos = [await page.attach() for _ in range(6)]
        sessions = [hello["session"] for hello in hellos]
        assert len(set(sessions)) == 6
        assert {hello["outcome"] for hello in hellos} == {"new"}
        for n in range(3):
            for session in sessions:
                assert await page.say_in(session, {"n": n}) == n + 1
        for session in sessions:
            assert await page.read_offsets(session, 3) == [1, 2, 3]
        await page.send(type="ping", t=7)
        pong = await page.find(lambda one: one["type"] == "pong")
        assert pong == {"type": "pong", "t": 7, "offsets": dict.fromkeys(sessions, 3)}
        assert len(node.hub) == 1
        assert node.counters.attached_sessions == 6
        assert node.counters.resumes == {"new": 6}
    assert node.counters.attached_sessions == 0


async def test_messages_beyond_those_under_way_wait_and_are_all_acked(
    make_node: MakeNode,
) -> None:
    """The sessions of a connection share the 32 messages that may be under way."""
    node = make_node(max_session_history=100)
    async with talk_to_many(node) as page:
        sessions = [(await page.attach())["session"] for _ in range(2)]
        for n in range(80):
            sent = {"id": "w" * 16 + f"-{n}", "data": n, "session": sessions[n % 2]}
            await page.send(type="message", **sent)
        for session in sessions:
            offsets = [
                (await page.find_type(session, "ack"))["offset"] for _ in range(40)
            ]
            assert offsets == list(range(1, 41))


async def test_each_session_resumes_at_its_own_position(make_node: MakeNode) -> None:
    node = make_node(max_session_history=3)
    async with talk_to_many(node) as page:
        hellos = [await page.attach() for _ in range(4)]
        for hello in hellos:
            for n in range(5):
                await page.say_in(hello["session"], n)
    first, second, third, fourth = hellos
    async with talk_to_many(node) as page:
        claims = [
            (first, {"epoch": first["epoch"], "offset": 4}, "resumed", None, [5]),
            (second, {"epoch": second["epoch"], "offset": 0}, "gap", [1, 2], [3, 4, 5]),
            (third, {"epoch": "another", "offset": 5}, "reset", None, [3, 4, 5]),
        ]
        for hello, claim, outcome, gap, offsets in claims:
            again = await page.attach(hello["session"], **claim)
            assert (again["outcome"], again["gap"]) == (outcome, gap)
            assert await page.read_offsets(hello["session"], 5) == offsets
        claim = {"epoch": fourth["epoch"], "offset": 5}
        again = await page.attach(fourth["session"], **claim)
        assert again["outcome"] == "nothing_missed"


async def test_an_unfinished_entry_is_sent_again_to_its_session(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk_to_many(node) as page:
        hello = await page.attach()
        session = hello["session"]
        async with get_log(node).stream(session) as stream:
            await stream.write("Hel")
            assert (await page.find_type(session, "entry"))["offset"] == 1
            async with talk_to_many(node) as other:
                again = await other.attach(
                    session, epoch=hello["epoch"], offset=1, open=[1], chain=None
                )
                assert again["outcome"] == "resumed"
                entry = await other.find_type(session, "entry")
                assert entry["data"]["text"] == "Hel"
                await stream.write("lo")
                delta = await other.find_type(session, "delta")
                assert (delta["at_char"], delta["text"]) == (3, "lo")


@pytest.mark.parametrize(
    ("session", "keys", "code"),
    [
        ("0" * 32, {}, "not_found"),
        ("no id", {}, "not_found"),
        ("another's", {}, "not_found"),
        ("held", {}, "already_attached"),
        ("own", {"open": [-1]}, "invalid_message"),
        ("own", {"offset": 1}, "invalid_message"),
        ("own", {"epoch": 5, "offset": 1}, "invalid_message"),
        ("own", {"epoch": "e", "offset": True}, "invalid_message"),
        ("own", {"presence": 1}, "invalid_message"),
        (7, {}, "invalid_message"),
    ],
)
async def test_a_refused_attach_ends_nothing_else(
    make_node: MakeNode, session: Any, keys: dict[str, Any], code: str
) -> None:
    node = make_node()
    async with talk_to_many(node) as page:
        held = (await page.attach())["session"]
        known = {
            "held": held,
            "own": await sync_to_async(make_session)("alice"),
            "another's": await sync_to_async(make_session)("bob"),
        }
        wanted = known.get(session, session)
        await page.send(type="attach", session=wanted, id="a2", **keys)
        error = await page.find(lambda one: one["type"] == "error")
        assert error["code"] == code
        if code != "invalid_message":
            assert (error["session"], error["id"]) == (wanted, "a2")
        assert await page.say_in(held, "still here") == 1


async def test_a_connection_attaches_no_more_sessions_than_allowed(
    make_node: MakeNode,
) -> None:
    node = make_node(sessions={"max_sessions_per_connection": 2})
    async with talk_to_many(node) as page:
        first, second = [(await page.attach())["session"] for _ in range(2)]
        error = await page.attach()
        assert error["code"] == "too_many_sessions"
        assert "at most 2" in error["message"]
        await page.send(type="detach", session=first)
        assert (await page.find_type(first, "detached"))["code"] == 1000
        assert (await page.attach())["type"] == "hello"
        assert await page.say_in(second, "hi") == 1


async def test_a_session_that_the_credential_does_not_cover_is_refused(
    make_node: MakeNode,
) -> None:
    node = make_node()
    allowed, other = [await sync_to_async(make_session)("alice") for _ in range(2)]
    scopes = ("/ws/sessions/many/", f"/ws/sessions/{allowed}/")
    communicator = connect_to(
        SessionConsumer,
        node,
        credential=Credential(client_id="alice", scopes=scopes),
        subprotocols=list(V2),
        path="/ws/sessions/many/",
        url_route={"kwargs": {"session_id": "many"}},
    )
    assert await communicator.connect() == (True, "orchestra.v2")
    page = ManyTalk(communicator)
    await page.receive()
    assert (await page.attach(other))["code"] == "forbidden"
    assert (await page.attach())["code"] == "forbidden"
    assert (await page.attach(allowed))["type"] == "hello"
    await communicator.disconnect()


async def test_a_refresh_ends_the_sessions_that_it_does_not_cover(
    make_node: MakeNode,
) -> None:
    node = make_node()
    log = get_log(node)
    kept, lost = [await sync_to_async(make_session)("alice") for _ in range(2)]
    path = "/ws/sessions/many/"
    token, _ = await sync_to_async(create_access_token)(
        "alice", scopes=(path, "/ws/sessions/new/", f"/ws/sessions/{kept}/")
    )
    communicator = connect_to(
        SessionConsumer,
        node,
        subprotocols=list(V2),
        path=path,
        url_route={"kwargs": {"session_id": "many"}},
    )
    assert await communicator.connect() == (True, "orchestra.v2")
    page = ManyTalk(communicator)
    await page.receive()
    for session in (kept, lost):
        assert (await page.attach(session))["type"] == "hello"
    begun = (await page.attach("new"))["session"]
    await page.send(type="refresh", token=token)
    detached = await page.find_type(lost, "detached")
    assert (detached["code"], detached["reason"]) == (4003, "forbidden")
    for session in (lost, kept):
        await log.append(session, {"text": "for those who may read it"})
    assert (await page.find_type(kept, "entry"))["offset"] == 1
    assert not [
        one for one in page.kept if one.get("offset") and one["session"] == lost
    ]
    await page.send(type="message", id="x" * 16 + "-1", data=1, session=lost)
    assert (await page.find_type(lost, "error"))["code"] == "not_attached"
    assert await page.say_in(kept, "mine") == 2
    assert await page.say_in(begun, "mine too") == 1
    await communicator.disconnect()


async def test_an_attach_during_an_outage_is_refused_for_the_moment(
    make_node: MakeNode,
) -> None:
    database = SwitchableDatabase()
    node = make_node(database)
    session = await sync_to_async(make_session)("alice")
    async with talk_to_many(node) as page:
        database.is_away = True
        error = await page.attach(session)
        assert (error["code"], error["retry_after_seconds"]) == ("unavailable", 1)
        database.is_away = False
        assert (await page.attach(session))["outcome"] == "nothing_missed"


async def test_a_member_that_is_removed_loses_one_session_and_keeps_the_others(
    make_node: MakeNode, bob: User
) -> None:
    node = make_node()
    async with talk(node) as alice, talk_to_many(node, user=bob) as page:
        await alice.say_and_wait("welcome")
        await sync_to_async(members.add)(alice.session_id, bob, "writer")
        own = (await page.attach())["session"]
        hello = await page.attach(alice.session_id)
        assert hello["role"] == "writer"
        await sync_to_async(members.remove)(alice.session_id, bob)
        get_log(node).attached.memberships.announce(alice.session_id)
        detached = await page.find_type(alice.session_id, "detached")
        assert (detached["code"], detached["reason"]) == (4003, "forbidden")
        assert detached["reconnect"] == "never"
        await alice.say_and_wait("secret")
        assert await page.say_in(own, "mine") == 1
        message_id = "x" * 16 + "-1"
        sent = {"id": message_id, "data": 1, "session": alice.session_id}
        await page.send(type="message", **sent)
        error = await page.find(lambda one: one["type"] == "error")
        assert (error["code"], error["id"]) == ("not_attached", message_id)
        assert (await page.attach(alice.session_id))["code"] == "not_found"
        assert "secret" not in [one.get("data") for one in page.kept]


class HeldDatabase(Database):
    """A database whose commits wait until a test releases them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_released = asyncio.Event()
        self.is_released.set()

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        await self.is_released.wait()
        return await super().write_urgently(work, *args, **kwargs)


@pytest.mark.parametrize("role", ["reader", None])
async def test_a_message_that_waits_while_the_role_is_lost_is_not_appended(
    make_node: MakeNode, bob: User, role: str | None
) -> None:
    database = HeldDatabase()
    node = make_node(database, sessions={"position_seconds": 0.05})
    async with talk(node) as alice, talk_to_many(node, user=bob) as page:
        await alice.say_and_wait("welcome")
        session_id = alice.session_id
        await sync_to_async(members.add)(session_id, bob, "writer")
        own = (await page.attach())["session"]
        await page.attach(session_id)
        (live,) = [one for one in node.hub if one.client_id != "alice"]
        before = live.messages_in
        database.is_released.clear()
        for n in range(33):
            sent = {"id": "w" * 16 + f"-{n}", "data": n, "session": session_id}
            await page.send(type="message", **sent)
        await wait_until(lambda: live.messages_in == before + 33)
        if role is None:
            await sync_to_async(members.remove)(session_id, bob)
        else:
            await sync_to_async(members.change_role)(session_id, bob, role)
        await get_log(node).check_positions()
        database.is_released.set()
        assert await page.say_in(own, "mine") == 1
    assert await HistoryEntry.objects.filter(session=session_id).acount() == 33


async def test_a_reader_may_not_write_in_one_session_and_writes_in_its_own(
    make_node: MakeNode, bob: User
) -> None:
    node = make_node()
    async with talk(node) as alice, talk_to_many(node, user=bob) as page:
        await alice.say_and_wait("welcome")
        await sync_to_async(members.add)(alice.session_id, bob, "reader")
        own = (await page.attach())["session"]
        assert (await page.attach(alice.session_id))["role"] == "reader"
        message_id = "y" * 16 + "-1"
        sent = {"id": message_id, "data": 1, "session": alice.session_id}
        await page.send(type="message", **sent)
        error = await page.find_type(alice.session_id, "error")
        assert (error["code"], error["id"]) == ("forbidden", message_id)
        assert await page.say_in(own, "mine") == 1


async def test_a_deleted_session_ends_its_attaches_alone(make_node: MakeNode) -> None:
    node = make_node()
    async with talk_to_many(node) as page, talk_to_many(node) as other:
        doomed, kept = [(await page.attach())["session"] for _ in range(2)]
        for session in (doomed, kept):
            await page.say_in(session, "hi")
            await other.attach(session)
        await page.send(type="delete", session=doomed)
        assert (await page.find_type(doomed, "deleted"))["session"] == doomed
        detached = await page.find_type(doomed, "detached")
        assert (detached["code"], detached["reconnect"]) == (4004, "never")
        detached = await other.find_type(doomed, "detached")
        assert (detached["code"], detached["reconnect"]) == (4202, "now")
        assert (await other.attach(doomed))["code"] == "not_found"
        for one in (page, other):
            assert await one.say_in(kept, "still here") in (2, 3)
        assert node.counters.attached_sessions == 2


async def test_a_detached_session_sends_nothing_and_can_be_attached_again(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk_to_many(node) as page, talk_to_many(node) as other:
        hello = await page.attach()
        session = hello["session"]
        await page.say_in(session, 1)
        assert await page.read_offsets(session, 1) == [1]
        await page.send(type="detach", session=session)
        detached = await page.find_type(session, "detached")
        assert (detached["code"], detached["reason"]) == (1000, "closed")
        await other.attach(session)
        await other.say_in(session, 2)
        again = await page.attach(session, epoch=hello["epoch"], offset=1)
        assert again["outcome"] == "resumed"
        assert await page.read_offsets(session, 2) == [2]
        await page.send(type="detach", session="0" * 32)
        assert (await page.find(lambda one: one["type"] == "error"))["code"] == (
            "not_attached"
        )


async def test_the_session_of_the_path_needs_no_name_and_ends_the_connection(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk_to_many(node, "new") as page:
        more = (await page.attach())["session"]
        assert await page.say_in(more, "named") == 1
        await page.say("unnamed")
        ack = await page.find(lambda one: one["type"] == "ack")
        assert "session" not in ack
        assert (await page.find_type(more, "entry"))["data"] == "named"
        entry = await page.find(lambda one: one["type"] == "entry")
        assert (entry["data"], "session" in entry) == ("unnamed", False)
        await page.send(type="detach", session=page.session_id)
        error = await page.find(lambda one: one["type"] == "error")
        assert error["code"] == "invalid_message"
        await page.send(type="delete")
        await page.find(lambda one: one["type"] == "deleted")
        await page.find(lambda one: one["type"] == "bye")
        assert (await receive_close(page.communicator))["code"] == 4004


async def test_the_first_version_knows_one_session(make_node: MakeNode) -> None:
    node = make_node()
    async with talk(node) as alice:
        assert "max_sessions" not in alice.hello["limits"]
        await alice.send(type="attach", session="new")
        assert (await alice.receive_type("error"))["code"] == "unknown_type"
        # As before: a key that the first version does not know is ignored.
        message_id = "z" * 16 + "-1"
        await alice.send(type="message", id=message_id, data=1, session="0" * 32)
        assert (await alice.receive_type("ack"))["id"] == message_id
    refused = start_talk(node, "many")
    await refused.connect()
    assert (await receive_close(refused))["code"] == 4002


async def test_presence_and_typing_belong_to_their_session(make_node: MakeNode) -> None:
    node = make_node(**QUICK)
    async with talk_to_many(node) as page, talk_to_many(node) as other:
        first, second = [
            (await page.attach(presence=True))["session"] for _ in range(2)
        ]
        hello = await other.attach(first, presence=True)
        joined = await other.find_type(first, "presence.joined")
        assert joined["members"] == [{"member": hello["member"], "data": {}}]
        await other.send(type="present", session=first)
        listed = await other.find_type(first, "present")
        assert [one["member"] for one in listed["members"]] == [hello["member"]]
        await page.send(type="typing", active=True, session=second)
        await page.send(type="typing", active=True, session=first)
        typing = await other.find_type(first, "typing")
        assert typing["active"] is True
        assert typing["connection"] == page.hello["connection"]
        assert not [one for one in other.kept if one.get("session") == second]
        await page.send(type="detach", session=first)
        ended = await other.find_type(first, "typing")
        assert ended["active"] is False
        plain = (await page.attach())["session"]
        await page.send(type="present", session=plain)
        error = await page.find(lambda one: one["type"] == "error")
        assert (error["code"], "presence" in error["message"]) == (
            "invalid_message",
            True,
        )
    await node.stop()


async def test_one_connection_is_busy_while_any_of_its_sessions_streams(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk_to_many(node) as page:
        first, second = [(await page.attach())["session"] for _ in range(2)]
        (live,) = node.hub
        log = get_log(node)
        async with log.stream(first) as one, log.stream(second) as other:
            await one.write("a")
            await other.write("b")
            await page.find_type(first, "entry")
            await page.find_type(second, "entry")
            await wait_until(lambda: live.busy_count == 2)
            await page.send(type="detach", session=second)
            await page.find_type(second, "detached")
            await wait_until(lambda: live.busy_count == 1)
            await page.say_in(first, "more")
            assert live.busy_count == 1
        await page.find_type(first, "state")
        await wait_until(lambda: live.busy_count == 0)


async def test_a_slow_reader_holds_one_message_of_all_its_sessions() -> None:
    """The sessions of one connection take turns to read, make and send entries."""
    database = Database()
    fan_out = FanOut(database, node_id="n", redis_url=None, passes=Passes())
    attached = AttachedConnections(database, fan_out, touch=lambda session_id: None)
    connection = make_connection("c1", client_id="alice")
    turns, room = Turns(), asyncio.Semaphore(0)
    sent: list[str] = []
    waiting = 0

    async def send(text: str) -> None:
        nonlocal waiting
        waiting += 1
        await room.acquire()
        waiting -= 1
        sent.append(text)

    subscribers = []
    for _ in range(5):
        session = await sync_to_async(make_session)("alice")
        await sync_to_async(commit)([make_append(session, count=3)], LIMITS)
        one = await attached.attach(
            session, Claim(), connection=connection, send=send, turns=turns
        )
        await one.subscriber.start(one.resumption.position)
        subscribers.append(one.subscriber)
    most = 0
    while len(sent) < 15:
        await wait_until(lambda: waiting > 0)
        most = max(most, waiting)
        room.release()
        await asyncio.sleep(0)
    assert most == 1
    for subscriber in subscribers:
        attached.detach(subscriber)
    await fan_out.close()
    await database.close()


async def test_replies_that_nobody_reads_are_bounded_over_all_sessions() -> None:
    database = Database()
    fan_out = FanOut(database, node_id="n", redis_url=None, passes=Passes())
    attached = AttachedConnections(database, fan_out, touch=lambda session_id: None)
    connection = make_connection("c1", client_id="alice")
    turns = Turns()
    subscribers = []

    async def send(text: str) -> None:
        await asyncio.Event().wait()

    for _ in range(5):
        one = await attached.attach(
            None, Claim(), connection=connection, send=send, turns=turns
        )
        await one.subscriber.start(0)
        subscribers.append(one.subscriber)
    for number in range(1000):
        subscribers[number % 5].reply("{}")
    assert connection.close_reason is None
    subscribers[0].reply("{}")
    assert connection.close_reason is not None
    assert connection.close_reason.reason == "slow_consumer"
    for subscriber in subscribers:
        attached.detach(subscriber)
    assert turns.waiting_replies == 0
    await fan_out.close()
    await database.close()


async def test_a_session_that_another_log_replaces_is_attached_again(
    make_node: MakeNode,
) -> None:
    node = make_node(sessions={"position_seconds": 0.05})
    async with talk_to_many(node) as page:
        lost, kept = [(await page.attach())["session"] for _ in range(2)]
        for session in (lost, kept):
            await page.say_in(session, "hi")
        await Session.objects.filter(pk=lost).aupdate(epoch="another")
        detached = await page.find_type(lost, "detached")
        assert (detached["code"], detached["resume"]) == (4202, True)
        again = await page.attach(lost, epoch="gone", offset=1)
        assert again["outcome"] == "reset"
        assert await page.say_in(kept, "still here") == 2


async def test_a_connection_of_many_sessions_is_freed_without_the_collector(
    make_node: MakeNode,
) -> None:
    node = make_node(**QUICK)
    gc.collect()
    gc.disable()

    def find() -> list[SessionConsumer | LiveConnection]:
        kinds = (SessionConsumer, LiveConnection)
        return [one for one in gc.get_objects() if isinstance(one, kinds)]

    # Kept, so that no new one gets the id of one that has ended.
    earlier = find()
    try:
        async with talk_to_many(node) as page:
            for _ in range(3):
                await page.attach(presence=True)
            session = (await page.attach())["session"]
            await page.say_in(session, 1)
            await page.send(type="detach", session=session)
            await page.find_type(session, "detached")
            known = {*map(id, earlier)}
            left = [weakref.ref(one) for one in find() if id(one) not in known]
        assert len(left) == 2
        del page

        def are_freed() -> bool:
            return [one() for one in left] == [None, None]

        await wait_until(are_freed)
    finally:
        gc.enable()


class SilentFanOut(FanOut):
    """The fan-out of a node whose Redis confirms no subscription."""

    is_asked = False

    async def listen(self, session_id: str) -> None:
        self.is_asked = True
        await asyncio.Event().wait()


async def test_an_attach_that_is_cancelled_while_it_subscribes_leaves_nothing() -> None:
    database = Database()
    fan_out = SilentFanOut(database, node_id="n", redis_url=None, passes=Passes())
    attached = AttachedConnections(database, fan_out, touch=lambda session_id: None)
    session_id = await sync_to_async(make_session)()
    tail = fan_out.find_or_make(session_id)

    async def send(text: str) -> None:
        raise AssertionError(text)

    def start() -> tuple[asyncio.Task[Attached], weakref.ref[LiveConnection]]:
        connection = make_connection("c1")
        attaching = attached.attach(
            session_id, Claim(), connection=connection, send=send
        )
        return asyncio.create_task(attaching), weakref.ref(connection)

    attaching, connection = start()
    await wait_until(lambda: fan_out.is_asked)
    assert len(tail.subscribers) == 1
    attaching.cancel()
    await asyncio.wait([attaching])
    assert attaching.cancelled()
    del attaching
    gc.collect()
    assert not tail.subscribers
    assert connection() is None
    assert fan_out.find_or_make(session_id) is not tail
    await fan_out.close()
    await database.close()
