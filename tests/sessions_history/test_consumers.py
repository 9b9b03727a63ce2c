"""The session protocol, spoken to a consumer on a node with a database."""

import asyncio
import gc
import weakref
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.hub.connection import LiveConnection
from sessions_history.consumers import SessionConsumer
from sessions_history.models import HistoryEntry, Session
from tests.connections.conversations import receive_close
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
        assert by_type["ack"] == {"type": "ack", "id": message_id, "offset": 1}
        entry = by_type["entry"]
        assert (entry["offset"], entry["from"], entry["state"]) == (1, "client", "done")
        assert entry["data"] == {"text": "héllo 👩‍👩‍👧"}


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
        connected, _ = await communicator.connect(timeout=5)
        assert connected
        bye = await communicator.receive_json_from(timeout=5)
        assert (bye["type"], bye["code"], bye["reason"]) == ("bye", 4004, "not_found")
        assert (await receive_close(communicator))["code"] == 4004
        assert len(node.hub) == 1


async def test_one_session_more_than_allowed_is_refused(make_node: MakeNode) -> None:
    """However many are asked for at once, on several nodes; another's count not."""
    nodes = [make_node(sessions={"max_sessions_per_client": 3}) for _ in range(2)]
    async with talk(nodes[0], client_id="bob"), talk(nodes[0]) as kept:
        asked = [start_talk(nodes[number % 2]) for number in range(6)]
        await asyncio.gather(*(one.connect(timeout=5) for one in asked))
        first = [await one.receive_json_from(timeout=5) for one in asked]
        assert sorted(one["type"] for one in first) == ["bye"] * 4 + ["hello"] * 2
        refused = [one for one in first if one["type"] == "bye"]
        assert {(one["code"], one["reason"]) for one in refused} == {
            (1008, "sessions_full")
        }
        assert {one["reconnect"] for one in refused} == {"never"}
        # Those that there are are open to the client as before.
        async with talk(nodes[1], kept.session_id) as again:
            assert again.hello["outcome"] == "nothing_missed"
        for one in asked:
            await one.disconnect()


async def test_a_refused_connection_leaves_no_session(make_node: MakeNode) -> None:
    node = make_node(max_total_connections=1)
    async with talk(node):
        for _ in range(10):
            communicator = start_talk(node)
            await communicator.connect(timeout=5)
            bye = await communicator.receive_json_from(timeout=5)
            assert bye["reason"] == "pool_full"
            await communicator.disconnect()
        assert await Session.objects.acount() == 1


@pytest.mark.parametrize("when_full", ["refuse", "delete_unused"])
async def test_an_unused_session_makes_room_at_the_limit(
    make_node: MakeNode, when_full: str
) -> None:
    """An empty one always, another by configuration; none that was just seen."""
    limits = {"max_sessions_per_client": 2, "when_full": when_full}
    node = make_node(sessions=limits)
    async with talk(node) as used, talk(node):
        await used.say_and_wait("x")
    hour_ago = timezone.now() - timedelta(hours=1)
    await Session.objects.aupdate(last_seen_at=hour_ago)
    async with talk(node) as third:
        await third.say_and_wait("y")
    left = {row.session_id async for row in Session.objects.all()}
    assert left == {used.session_id, third.session_id}
    await Session.objects.filter(pk=used.session_id).aupdate(last_seen_at=hour_ago)
    communicator = start_talk(node)
    await communicator.connect(timeout=5)
    first = await communicator.receive_json_from(timeout=5)
    await communicator.disconnect()
    if when_full == "refuse":
        assert (first["type"], first["reason"]) == ("bye", "sessions_full")
    else:
        assert first["type"] == "hello"
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
    try:
        async with talk(node) as alice:
            await alice.say_and_wait({"n": 1})
            left = [
                weakref.ref(one)
                for one in gc.get_objects()
                if isinstance(one, SessionConsumer | LiveConnection)
            ]
        assert len(left) == 2
        del alice
        # The cancelled task of the subscriber ends.
        for _ in range(3):
            await asyncio.sleep(0)
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()
