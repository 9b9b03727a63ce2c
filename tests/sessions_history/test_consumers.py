"""The session protocol, spoken to a consumer on a node with a database."""

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from unittest.mock import create_autospec

import pytest
from django.db import OperationalError
from django.utils import timezone

from connections.asgi import TRANSPORT, Message
from connections.hub.connection import LiveConnection, Transport
from connections.server.websocket.receive_queue import ReceiveQueue
from connections.testing.waiting import wait_until
from sessions_history.consumers import SessionConsumer
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session
from sessions_history.reads import read_entries_at
from tests.connections.conversations import receive_close
from tests.connections.switchable_database import (
    SwitchableDatabase as ReadableDatabase,
)
from tests.sessions_history.conftest import MakeNode, SwitchableDatabase
from tests.sessions_history.talks import start_talk, talk

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_new_session_greets(make_node: MakeNode) -> None:
    async with talk(make_node()) as alice:
        hello = alice.hello
        assert (hello["type"], hello["outcome"], hello["offset"]) == ("hello", "new", 0)
        assert (hello["gap"], hello["history_limit"]) == (None, 100)
        assert hello["limits"]["max_open_streams"] == 4


async def test_a_message_is_acked_and_comes_back_as_an_entry(
    make_node: MakeNode,
) -> None:
    async with talk(make_node()) as alice:
        message_id = await alice.say({"text": "héllo 👩‍👩‍👧"})
        received = [await alice.receive(), await alice.receive()]
        by_type = {one["type"]: one for one in received}
        entry = by_type["entry"]
        ack = {"type": "ack", "id": message_id, "offset": 1, "chain": entry["chain"]}
        assert by_type["ack"] == ack
        assert (entry["offset"], entry["from"], entry["state"]) == (1, "client", "done")
        assert entry["data"] == {"text": "héllo 👩‍👩‍👧"}


class Room:
    """The producer of a queue that is never full."""

    def resume(self) -> None:
        """Put nothing more."""


async def test_the_queue_of_a_session_takes_turns(make_node: MakeNode) -> None:
    """A switch of tasks for each message takes a quarter of the time of an ack."""
    queue = ReceiveQueue(100, 1_000_000, Room())
    sent: list[str] = []

    async def send(event: Message) -> None:
        sent.append(event["type"])

    scope = start_talk(make_node()).scope
    transport = create_autospec(
        Transport, instance=True, has_left=False, close_reason=None
    )
    scope["extensions"][TRANSPORT] = transport
    queue.put({"type": "websocket.connect"})
    consumer = SessionConsumer.as_asgi()
    talking = asyncio.create_task(consumer(scope, queue.get, send))
    await wait_until(lambda: "websocket.send" in sent)
    assert queue.turn_seconds > 0
    queue.finish({"type": "websocket.disconnect", "code": 1000})
    await talking


async def test_all_connections_of_a_session_see_the_same(make_node: MakeNode) -> None:
    node = make_node()
    async with talk(node) as first, talk(node, first.session_id) as second:
        for n in range(5):
            await first.say_and_wait({"n": n})
            await second.say_and_wait({"n": n})
        await first.say("last")
        assert (await second.receive_offsets(11))[-1] == 11


@pytest.mark.parametrize(
    ("claim", "outcome", "gap", "replayed"),
    [
        ({}, "resumed", None, [1, 2, 3]),
        ({"offset": 1}, "resumed", None, [2, 3]),
        ({"offset": 3}, "nothing_missed", None, []),
        ({"offset": 4}, "reset", None, [1, 2, 3]),
        ({"offset": 3, "epoch": "another"}, "reset", None, [1, 2, 3]),
    ],
)
async def test_outcomes(
    make_node: MakeNode,
    claim: dict[str, Any],
    outcome: str,
    gap: Any,
    replayed: list[int],
) -> None:
    node = make_node()
    async with talk(node) as alice:
        for n in range(3):
            await alice.say_and_wait(n)
    if claim:
        claim = {"epoch": alice.hello["epoch"], **claim}
    async with talk(node, alice.session_id, **claim) as again:
        assert (again.hello["outcome"], again.hello["gap"]) == (outcome, gap)
        assert again.hello["offset"] == 3
        if replayed:
            assert await again.receive_offsets(3) == replayed
        await again.say("more")
        assert await again.receive_offsets(4) == [4]


async def test_outcomes_and_the_time_of_acks_are_counted(make_node: MakeNode) -> None:
    node = make_node()
    async with talk(node) as alice:
        for n in range(3):
            await alice.say_and_wait(n)
    claim = {"epoch": alice.hello["epoch"], "offset": 3}
    async with talk(node, alice.session_id, **claim):
        assert node.counters.resumes == {"new": 1, "nothing_missed": 1}
        assert sum(node.counters.acks.counts) == 3


async def test_what_was_trimmed_is_named(make_node: MakeNode) -> None:
    node = make_node(max_session_history=3)
    async with talk(node) as alice:
        for n in range(9):
            await alice.say_and_wait(n)
    claim = {"epoch": alice.hello["epoch"], "offset": 2}
    async with talk(node, alice.session_id, **claim) as again:
        assert (again.hello["outcome"], again.hello["gap"]) == ("gap", [3, 6])
        assert await again.receive_offsets(9) == [7, 8, 9]
    async with talk(node, alice.session_id) as again:
        assert (again.hello["outcome"], again.hello["gap"]) == ("resumed", None)
        assert await again.receive_offsets(9) == [7, 8, 9]


@pytest.mark.parametrize("session_id", ["0" * 32, "no id", "another's"])
async def test_anothers_session_is_refused_like_none(
    make_node: MakeNode, session_id: str
) -> None:
    node = make_node()
    async with talk(node, client_id="bob") as bob:
        if session_id == "another's":
            session_id = bob.session_id
        communicator = start_talk(node, session_id)
        connected, _ = await communicator.connect()
        assert connected
        bye = await communicator.receive_json_from()
        assert (bye["type"], bye["code"], bye["reason"]) == ("bye", 4004, "not_found")
        assert (await receive_close(communicator))["code"] == 4004
        assert len(node.hub) == 1


async def test_one_session_more_than_allowed_is_refused(make_node: MakeNode) -> None:
    """At its first message, on any node; another client's sessions count not."""
    nodes = [make_node(sessions={"max_sessions_per_client": 3}) for _ in range(2)]
    async with talk(nodes[0], client_id="bob") as bob, AsyncExitStack() as stack:
        await bob.say_and_wait("x")
        asked = [
            await stack.enter_async_context(talk(nodes[number % 2]))
            for number in range(5)
        ]
        ids = await asyncio.gather(*(one.say("x") for one in asked))
        answers = [await one.receive_type("ack", "error") for one in asked]
        assert sorted(one["type"] for one in answers) == ["ack"] * 3 + ["error"] * 2
        for one, message_id, answer in zip(asked, ids, answers, strict=True):
            assert answer["id"] == message_id
            if answer["type"] == "error":
                assert answer["code"] == "sessions_full"
                bye = await one.receive_type("bye")
                assert (bye["code"], bye["reason"]) == (1008, "sessions_full")
                assert bye["reconnect"] == "never"
            else:
                # Those that there are are open to the client as before.
                await one.say_and_wait("y")
    assert await Session.objects.acount() == 4


async def test_a_page_load_leaves_no_session(make_node: MakeNode) -> None:
    """Nor does a reconnect, a ping or a check of positions."""
    node = make_node(sessions={"position_seconds": 0.05, "max_sessions_per_client": 3})
    for _ in range(100):
        async with talk(node) as alice:
            assert alice.hello["outcome"] == "new"
    claim = {"epoch": alice.hello["epoch"], "offset": 0}
    async with talk(node, alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "nothing_missed"
        await again.send(type="ping", t=1)
        assert (await again.receive_type("pong"))["offset"] == 0
        assert await get_log(node).check_positions()
        assert await Session.objects.acount() == 0
        assert await again.say_and_wait("x") == 1
    assert (await Session.objects.aget()).session_id == alice.session_id


async def test_a_refused_connection_leaves_no_session(make_node: MakeNode) -> None:
    node = make_node(max_total_connections=1)
    async with talk(node):
        for _ in range(10):
            communicator = start_talk(node)
            await communicator.connect()
            bye = await communicator.receive_json_from()
            assert bye["reason"] == "pool_full"
            await communicator.disconnect()
        assert await Session.objects.acount() == 0


async def test_a_session_without_an_entry_is_known_to_every_node(
    make_node: MakeNode,
) -> None:
    """Its id and its epoch stay the same; it is nobody else's."""
    first, second = make_node(), make_node()
    async with talk(first) as alice:
        session_id, epoch = alice.session_id, alice.hello["epoch"]
    async with talk(second, session_id, epoch=epoch, offset=0) as again:
        assert again.hello["epoch"] == epoch
        await again.say_and_wait("x")
        (row,) = [one async for one in Session.objects.all()]
        assert (row.session_id, row.epoch, row.client_id) == (
            session_id,
            epoch,
            "alice",
        )
    async with talk(first, session_id, epoch=epoch, offset=0) as back:
        assert back.hello["outcome"] == "resumed"
        assert await back.receive_offsets(1) == [1]
    async with talk(first) as other:
        pass
    claims: list[tuple[str, dict[str, Any]]] = [
        ("bob", {}),
        ("bob", {"epoch": other.hello["epoch"], "offset": 0}),
        ("alice", {"epoch": other.hello["epoch"], "offset": 1}),
    ]
    for client_id, claim in claims:
        communicator = start_talk(
            second, other.session_id, client_id=client_id, **claim
        )
        await communicator.connect()
        bye = await communicator.receive_json_from()
        assert (bye["code"], bye["reason"]) == (4004, "not_found")
        await communicator.disconnect()


async def test_two_pages_of_a_session_without_an_entry_see_its_first(
    make_node: MakeNode,
) -> None:
    """On one node at once; on another after the next check of positions."""
    node, elsewhere = make_node(), make_node(sessions={"position_seconds": 0.05})
    async with (
        talk(node) as first,
        talk(node, first.session_id) as second,
        talk(elsewhere, first.session_id) as third,
    ):
        assert second.hello["outcome"] == third.hello["outcome"] == "new"
        assert second.hello["epoch"] == third.hello["epoch"] == first.hello["epoch"]
        await first.say_and_wait("x")
        assert await second.receive_offsets(1) == [1]
        await get_log(elsewhere).check_positions()
        assert await third.receive_offsets(1) == [1]


async def test_the_application_begins_a_session_too(make_node: MakeNode) -> None:
    node = make_node()
    async with talk(node) as alice:
        assert await get_log(node).append(alice.session_id, "welcome") == 1
        assert (await alice.receive_type("entry"))["data"] == "welcome"
    async with talk(node) as alice:
        async with get_log(node).stream(alice.session_id) as stream:
            await stream.write("x")
        assert await alice.receive_offsets(1) == [1]
    assert await Session.objects.acount() == 2


async def test_a_lost_reply_to_the_first_commit_begins_one_session(
    make_node: MakeNode,
) -> None:
    database = SwitchableDatabase()
    node = make_node(database, sessions={"position_seconds": 0.05})
    async with talk(node) as alice:
        database.loses_reply = True
        message_id = await alice.say("x")
        assert (await alice.receive_type("error"))["code"] == "unavailable"
        await alice.say("x", message_id)
        # A check of positions may send the entry before the ack.
        told = [await alice.receive_type("ack", "entry") for _ in range(2)]
        assert {(one["type"], one["offset"]) for one in told} == {
            ("ack", 1),
            ("entry", 1),
        }
    assert await HistoryEntry.objects.acount() == 1


@pytest.mark.parametrize("when_full", ["refuse", "delete_unused"])
async def test_an_unused_session_makes_room_at_the_limit(
    make_node: MakeNode, when_full: str
) -> None:
    """An empty one of an older version always, another by configuration."""
    limits = {"max_sessions_per_client": 2, "when_full": when_full}
    node = make_node(sessions=limits)
    async with talk(node) as used:
        await used.say_and_wait("x")
    hour_ago = timezone.now() - timedelta(hours=1)
    await Session.objects.acreate(session_id="e", client_id="alice", epoch="e")
    await Session.objects.aupdate(last_seen_at=hour_ago)
    async with talk(node) as third:
        await third.say_and_wait("y")
    left = {row.session_id async for row in Session.objects.all()}
    assert left == {used.session_id, third.session_id}
    await Session.objects.filter(pk=used.session_id).aupdate(last_seen_at=hour_ago)
    async with talk(node) as fourth:
        await fourth.say("z")
        answer = await fourth.receive_type("ack", "error")
    if when_full == "refuse":
        assert answer["code"] == "sessions_full"
    else:
        assert answer["offset"] == 1
        assert not await Session.objects.filter(pk=used.session_id).aexists()


@pytest.mark.parametrize(
    "limit", [{"max_bytes_per_client": 1000}, {"max_entries_per_client": 2}]
)
async def test_a_client_stores_only_so_much(
    make_node: MakeNode, limit: dict[str, int]
) -> None:
    """In all its sessions; what is recorded already is acknowledged again."""
    node = make_node(sessions=limit)
    async with talk(node) as bob, talk(node, client_id="bob") as other:
        first = await bob.say("é" * 200)
        await bob.receive_type("ack")
        async with talk(node) as more:
            await more.say_and_wait("é" * 200)
            refused = await more.say("é" * 200)
            error = await more.receive_type("error")
            assert (error["id"], error["code"]) == (refused, "storage_full")
        await bob.say("é" * 200, first)
        assert (await bob.receive_type("ack"))["offset"] == 1
        await other.say_and_wait("é" * 200)


async def test_a_client_deletes_its_session(make_node: MakeNode) -> None:
    """The other connections of the session learn that it is gone."""
    node = make_node()
    async with talk(node) as alice, talk(node, alice.session_id) as again:
        await alice.say_and_wait("x")
        await alice.send(type="delete")
        deleted = await alice.receive_type("deleted")
        assert deleted["session"] == alice.session_id
        assert (await alice.receive_type("bye"))["reason"] == "not_found"
        assert (await again.receive_type("bye"))["code"] == 4202
        assert not await Session.objects.aexists()
        assert not await HistoryEntry.objects.aexists()


async def test_a_message_to_a_session_that_is_gone_is_answered(
    make_node: MakeNode,
) -> None:
    """The error of the message comes before the close."""
    async with talk(make_node()) as alice:
        await alice.say_and_wait("x")
        await Session.objects.all().adelete()
        message_id = await alice.say("y")
        error = await alice.receive_type("error", "bye")
        assert (error["id"], error.get("code")) == (message_id, "not_found")
        assert (await alice.receive_type("bye"))["code"] == 4004


async def test_a_client_deletes_a_session_without_an_entry(make_node: MakeNode) -> None:
    """As one with entries: it does not come back, and its id can be deleted again."""
    node = make_node()
    async with talk(node) as alice, talk(node, alice.session_id) as again:
        await alice.send(type="delete")
        deleted = await alice.receive_type("deleted")
        assert deleted["session"] == alice.session_id
        assert (await alice.receive_type("bye"))["reason"] == "not_found"
        assert (await again.receive_type("bye"))["code"] == 4202
    communicator = start_talk(node, alice.session_id)
    await communicator.connect()
    assert (await communicator.receive_json_from())["reason"] == "not_found"
    await communicator.disconnect()
    assert not await Session.objects.aexists()


async def test_no_ack_while_the_database_is_away(make_node: MakeNode) -> None:
    """The same message is taken once it is back, and appended once."""
    database = SwitchableDatabase()
    async with talk(make_node(database)) as alice:
        database.is_away = True
        message_id = await alice.say({"text": "hello"})
        error = await alice.receive_type("error", "ack")
        assert (error["type"], error["code"]) == ("error", "unavailable")
        assert (error["id"], error["retry_after_seconds"]) == (message_id, 1)
        database.is_away = False
        for _ in range(2):
            await alice.say({"text": "hello"}, message_id)
            assert (await alice.receive_type("ack"))["offset"] == 1
        assert await alice.say_and_wait("more") == 2


async def test_what_is_wrong_with_a_message_is_said_under_its_id(
    make_node: MakeNode,
) -> None:
    async with talk(make_node()) as alice:
        for message, said in (
            ({"id": "short-1", "data": 1}, "id:"),
            ({"id": "0123456789ab-1"}, "no data"),
            ({"id": "0123456789ab-1", "data": "\x00"}, "NUL"),
        ):
            await alice.send(type="message", **message)
            error = await alice.receive_type("error")
            assert error["code"] == "invalid_message"
            assert said in error["message"]
            assert error["id"] in (None, "0123456789ab-1")
        await alice.send(type="message", id="0123456789ab-1", data=1)
        assert (await alice.receive_type("ack"))["offset"] == 1


async def test_a_heartbeat_is_answered_and_is_no_activity(make_node: MakeNode) -> None:
    node = make_node()
    async with talk(node) as alice:
        await alice.say_and_wait(1)
        (connection,) = node.hub
        before = connection.last_activity
        await alice.send(type="ping", t=12.5)
        pong = await alice.receive_type("pong")
        assert (pong["t"], pong["offset"]) == (12.5, 1)
        assert connection.last_activity == before


async def test_whatever_a_commit_raises_nobody_waits_for_ever(
    make_node: MakeNode,
) -> None:
    database = SwitchableDatabase()
    async with talk(make_node(database)) as alice:
        database.trouble = RuntimeError("planted")
        message_id = await alice.say("lost")
        error = await alice.receive_type("error")
        assert (error["id"], error["code"]) == (message_id, "unavailable")
        await alice.say_and_wait("kept")


@pytest.mark.parametrize("offset", [0, -1, 2**63, 2**70, True, "1", 1.0])
async def test_an_offset_that_is_none_is_said(make_node: MakeNode, offset: Any) -> None:
    async with talk(make_node()) as alice:
        await alice.send(type="cancel", offset=offset)
        assert (await alice.receive_type("error"))["code"] == "invalid_message"
        await alice.send(type="cancel", offset=2**63 - 1)
        error = await alice.receive_type("error")
        assert (error["code"], error["offset"]) == ("not_found", 2**63 - 1)
        await alice.say_and_wait("kept")


async def test_a_connection_that_ends_needs_no_collection(make_node: MakeNode) -> None:
    """The subscriber of a session and its consumer refer to each other until then."""
    node = make_node()
    gc.collect()
    gc.disable()

    def find() -> list[SessionConsumer | LiveConnection]:
        kinds = (SessionConsumer, LiveConnection)
        return [one for one in gc.get_objects() if isinstance(one, kinds)]

    # Of other tests; kept, so that no new one gets the id of one that has ended.
    earlier = find()
    try:
        async with talk(node) as alice:
            await alice.say_and_wait({"n": 1})
            known = {*map(id, earlier)}
            left = [weakref.ref(one) for one in find() if id(one) not in known]
        assert len(left) == 2
        del alice

        def are_freed() -> bool:
            return [one() for one in left] == [None, None]

        # The cancelled task of the subscriber may wait for a thread.
        await wait_until(are_freed)
    finally:
        gc.enable()


async def test_a_database_that_leaves_during_an_attach_makes_the_client_return(
    make_node: MakeNode,
) -> None:
    """An entry that the client holds unfinished could not be read: 4104, not 4500."""
    database = ReadableDatabase()
    # A check of positions may read the same entry, and would take the failure.
    node = make_node(database, sessions={"position_seconds": 3000})
    async with talk(node) as alice, get_log(node).stream(alice.session_id) as stream:
        await stream.write("half")
        await alice.receive_type("entry")
        failing = iter([read_entries_at])

        def fail_once(work: Any) -> Any:
            if work is read_entries_at and next(failing, None):
                return refuse
            return work

        database.around_read = fail_once
        claim = {"epoch": alice.hello["epoch"], "offset": "1", "open": "1"}
        async with talk(node, alice.session_id, **claim) as again:
            assert (await again.receive_type("bye"))["code"] == 4104
        assert next(failing, None) is None


def refuse(*args: Any) -> None:
    raise OperationalError("away")
