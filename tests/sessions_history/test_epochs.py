"""A log that went back in time is another one, which clients are told."""

import asyncio
import json
from contextlib import AsyncExitStack
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command

from connections.testing.waiting import scale
from sessions_history.epochs import renew_epoch
from sessions_history.exceptions import StreamEnded
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session
from tests.sessions_history.appends import make_session
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)


@sync_to_async
def go_back(offset: int) -> None:
    """Lose the entries after an offset, as by restoring a backup."""
    HistoryEntry.objects.filter(offset__gt=offset).delete()
    Session.objects.update(last_offset=offset)


async def say_three(alice: Talk) -> dict[str, Any]:
    for text in "abc":
        await alice.say_and_wait(text)
    return {"epoch": alice.hello["epoch"], "offset": 3}


@pytest.mark.parametrize("position_seconds", [0.05, 60])
async def test_a_node_notices_that_acknowledged_entries_are_gone(
    make_node: MakeNode, position_seconds: float
) -> None:
    """By its check of positions, or by the next offset that it commits."""
    node = make_node(sessions={"position_seconds": position_seconds})
    async with talk(node) as alice:
        claim = await say_three(alice)
        await go_back(1)
        if position_seconds > 1:
            await alice.say("d")
        bye = await alice.receive_type("bye")
        assert bye["code"] == 4202
    # By the time that the client returns, the log has grown past its offset.
    for text in "efg":
        await get_log(node).append(alice.session_id, text)
    async with talk(node, alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "reset"
        assert again.hello["epoch"] != claim["epoch"]


async def test_two_nodes_renew_an_epoch_once(make_node: MakeNode) -> None:
    nodes = [make_node(sessions={"position_seconds": 0.05}) for _ in range(2)]
    async with talk(nodes[0]) as alice, AsyncExitStack() as stack:
        await say_three(alice)
        again = await stack.enter_async_context(talk(nodes[1], alice.session_id))
        await again.receive_offsets(3)
        await go_back(1)
        await asyncio.gather(alice.receive_type("bye"), again.receive_type("bye"))
    session = await Session.objects.aget()
    async with talk(nodes[0], alice.session_id) as returned:
        assert returned.hello["epoch"] == session.epoch != alice.hello["epoch"]


@pytest.mark.parametrize("names_epoch", [True, False])
async def test_a_stop_meant_for_an_entry_of_the_former_log_stops_no_other(
    make_node: MakeNode, names_epoch: bool
) -> None:
    """The node of the client has not noticed yet; clients of 0.2 name no epoch."""
    here, there = (make_node(sessions={"position_seconds": 60}) for _ in range(2))
    async with talk(here) as alice:
        claim = await say_three(alice)
        await go_back(2)
        await sync_to_async(renew_epoch)(alice.session_id, claim["epoch"])
        async with get_log(there).stream(alice.session_id) as stream:
            named = {"epoch": claim["epoch"]} if names_epoch else {}
            await alice.send(type="cancel", offset=3, **named)
            error = await alice.receive_type("error")
            assert (error["code"], error["offset"]) == ("not_found", 3)
            await stream.write("goes on")
        async with talk(there, alice.session_id) as again:
            assert (await again.receive_offsets(3))[-1] == 3
        entry = await HistoryEntry.objects.aget(offset=3)
        assert entry.state == "done"


async def test_a_stop_meant_for_a_former_log_stops_nothing_on_the_node_of_the_answer(
    make_node: MakeNode,
) -> None:
    """No connection is attached there: the stop came over HTTP."""
    node = make_node()
    async with talk(node) as alice:
        former = (await say_three(alice))["epoch"]
    await go_back(2)
    await sync_to_async(renew_epoch)(alice.session_id, former)
    log = get_log(node)
    async with log.stream(alice.session_id) as stream:
        with pytest.raises(StreamEnded):
            await log.cancel(alice.session_id, 3, former)
        await stream.write("goes on")
    entry = await HistoryEntry.objects.aget(offset=3)
    assert (entry.state, "goes on" in entry.data) == ("done", True)


async def test_a_stop_of_the_present_log_stops_a_stream_of_the_former_epoch(
    make_node: MakeNode,
) -> None:
    """The log lost other entries than that of the stream."""
    log = get_log(make_node())
    session_id = await sync_to_async(make_session)()
    with pytest.raises(StreamEnded):
        async with log.stream(session_id) as stream:
            await stream.write("so far")
            await stream.flush()
            await sync_to_async(renew_epoch)(session_id, stream.epoch)
            session = await Session.objects.aget()
            await log.cancel(session_id, 1, session.epoch)
            await stream.cancelled()
            await asyncio.sleep(0)
    entry = await HistoryEntry.objects.aget()
    assert (entry.state, "so far" in entry.data) == ("cancelled", True)


@pytest.mark.parametrize("epoch", [None, "", "own"])
async def test_a_stop_of_the_present_log_stops(
    make_node: MakeNode, epoch: str | None
) -> None:
    here, there = make_node(), make_node()
    async with talk(here) as alice:
        await alice.say_and_wait("a")
        own = alice.hello["epoch"] if epoch == "own" else epoch
        with pytest.raises(StreamEnded):
            async with get_log(there).stream(alice.session_id) as stream:
                await alice.send(type="cancel", offset=2, epoch=own)
                async with asyncio.timeout(scale(10)):
                    while True:
                        await stream.write("x")
                        await asyncio.sleep(0.02)


async def test_an_epoch_that_is_no_text_is_an_error(make_node: MakeNode) -> None:
    async with talk(make_node()) as alice:
        wrong: list[Any] = [1, ["e"], {}, True]
        for epoch in wrong:
            await alice.send(type="cancel", offset=1, epoch=epoch)
            assert (await alice.receive_type("error"))["code"] == "invalid_message"


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("sessions", "renew_epoch", *arguments, stdout=out)
    return out.getvalue()


def read_epochs() -> dict[str, str]:
    return dict(Session.objects.values_list("session_id", "epoch"))


def test_the_command_renews_the_epochs_that_are_asked_for() -> None:
    alice, more, bob = make_session(), make_session(), make_session("bob")
    before = read_epochs()
    assert run("--dry-run") == "3 sessions would get a new epoch\n"
    with pytest.raises(CommandError, match="--session is empty"):
        run("--session", "")
    assert read_epochs() == before
    assert json.loads(run("--client", "bob", "--json")) == {"sessions": 1}
    assert run("--session", alice) == "1 session got a new epoch\n"
    after = read_epochs()
    assert after[more] == before[more]
    assert after[alice] != before[alice] and after[bob] != before[bob]
    assert run() == "3 sessions got a new epoch\n"
    assert len(set(read_epochs().values())) == 3
