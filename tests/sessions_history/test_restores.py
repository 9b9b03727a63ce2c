"""Nodes notice that the database went back in time, though nobody said so."""

import json
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from connections.passes import Passes
from sessions_history.chain import Mark
from sessions_history.entries import Entry, Request, dump_stream
from sessions_history.hints import pack
from sessions_history.known_commits import KnownCommits
from sessions_history.models import Session
from sessions_history.tails import Tail
from tests.sessions_history.appends import make_append, make_session
from tests.sessions_history.backups import make_backup, restore
from tests.sessions_history.sites import (
    Screen,
    Site,
    make_sites,
    wait_for,
    wait_for_reset,
)

in_database = pytest.mark.django_db(transaction=True)


def appends(session_id: str, texts: str) -> list[Request]:
    """Return requests to append a text each."""
    return [make_append(session_id, data=json.dumps(text)) for text in texts]


async def lose(
    writer: Site, reader: Site, session_id: str, kept: str = "a"
) -> tuple[Screen, Screen]:
    """
    Let one site write "abc" and both show it, then restore what there was before.

    Returns the clients of both.
    """
    wrote, read = await writer.attach(session_id), await reader.attach(session_id)
    await writer.append(*appends(session_id, kept))
    backup = await make_backup()
    await writer.append(*appends(session_id, "abc"[len(kept) :]))
    for screen in (wrote, read):
        await wait_for(screen, list("abc"))
    await restore(backup)
    return wrote, read


async def read_epoch() -> str:
    return (await Session.objects.aget()).epoch


@in_database
@pytest.mark.parametrize("kept", ["", "a", "ab"])
@pytest.mark.parametrize("regrown", ["x", "xy", "xyz"])
async def test_a_node_notices_that_commits_of_another_are_gone_when_it_commits(
    kept: str, regrown: str
) -> None:
    """It knew them from hints alone. Its clients are sent nothing of the other log."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (writer, reader):
        _, screen = await lose(writer, reader, session_id, kept)
        await reader.append(*appends(session_id, regrown))
        await reader.fan_out.check()
        await wait_for_reset(screen)
        assert screen.shown == list("abc")
        assert await read_epoch() != screen.epoch


@in_database
@pytest.mark.parametrize("kept", ["", "a", "ab"])
@pytest.mark.parametrize("regrown", ["x", "xy", "xyz"])
async def test_a_node_that_only_reads_notices_it_by_a_hint(
    kept: str, regrown: str
) -> None:
    session_id = await sync_to_async(make_session)()
    async with make_sites(3) as (writer, reader, third):
        clients = await lose(writer, reader, session_id, kept)
        await third.append(*appends(session_id, regrown))
        for screen in clients:
            await wait_for_reset(screen)
            assert screen.shown == list("abc")
        assert await read_epoch() != screen.epoch


@in_database
async def test_the_node_that_wrote_them_notices_it_when_it_commits_again() -> None:
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (writer, reader):
        screen, _ = await lose(writer, reader, session_id)
        await writer.append(*appends(session_id, "xyz"))
        await wait_for_reset(screen)
        assert screen.shown == list("abc")


@in_database
@pytest.mark.parametrize("regrown", ["", "x", "xy", "xyz"])
async def test_a_check_notices_it_without_a_hint(regrown: str) -> None:
    session_id = await sync_to_async(make_session)()
    async with make_sites(3) as (writer, reader, third):
        clients = await lose(writer, reader, session_id)
        third.bus.is_cut = True
        await third.append(*appends(session_id, regrown))
        await reader.fan_out.check()
        assert clients[1].subscriber.tail.is_reset
        assert not clients[0].subscriber.tail.is_reset
        await writer.fan_out.check()
        assert clients[0].subscriber.tail.is_reset


@in_database
async def test_a_node_notices_it_behind_commits_of_which_no_hint_came() -> None:
    """It commits the last of three, and knows none of the two before."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(3) as (writer, reader, third):
        _, screen = await lose(writer, reader, session_id)
        third.bus.is_cut = True
        await third.append(*appends(session_id, "xy"))
        await reader.append(*appends(session_id, "z"))
        await wait_for_reset(screen)
        assert screen.shown == list("abc")


@in_database
@pytest.mark.parametrize("regrown", ["", "x", "xy", "xyz"])
async def test_a_client_that_left_at_once_gets_a_reset_anywhere(regrown: str) -> None:
    """No check has run. The nodes that it returns to knew nothing of the session."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(3) as (writer, reader, other):
        clients = await lose(writer, reader, session_id)
        await reader.append(*appends(session_id, regrown))
        for site, screen in zip((writer, reader), clients, strict=True):
            site.detach(screen)
        await other.append(*appends(session_id, "q"))
        for screen in clients:
            again = await other.attach(session_id, screen.claim)
            assert again.outcome == "reset"


@in_database
@pytest.mark.parametrize("is_repeated", [False, True])
@pytest.mark.parametrize("regrown", ["", "x", "xy"])
async def test_an_ack_whose_entry_never_came_is_missed_after_a_restore(
    regrown: str, is_repeated: bool
) -> None:
    """What the client has of the log is in the restored one too."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (writer, other):
        screen = await writer.attach(session_id)
        await writer.append(*appends(session_id, "a"))
        await wait_for(screen, ["a"])
        backup = await make_backup()
        writer.detach(screen)
        request = make_append(session_id, key="k", data='"b"')
        committed = await writer.commit(request)
        if is_repeated:
            committed = await writer.commit(request)
            assert not committed.entries
        mark = Mark.parse(committed.mark)
        assert mark is not None
        claim = replace(screen.claim, acked=(mark,))
        assert (await other.attach(session_id, claim)).outcome == "resumed"
        await restore(backup)
        await other.append(*appends(session_id, regrown))
        assert (await other.attach(session_id, claim)).outcome == "reset"


@in_database
async def test_a_node_learns_at_an_attach_that_its_commits_are_gone() -> None:
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (writer, reader):
        _, screen = await lose(writer, reader, session_id)
        late = await reader.attach(session_id)
        await wait_for_reset(screen)
        assert late.subscriber.tail.is_reset
        assert late.shown == []


@in_database
async def test_a_hint_that_was_lost_is_made_good_at_the_next_commit() -> None:
    """The log is in doubt for a moment, and turns out to be the same."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (here, there):
        screen = await here.attach(session_id)
        await here.append(*appends(session_id, "a"))
        there.bus.is_cut = True
        await there.append(*appends(session_id, "b"))
        await here.append(*appends(session_id, "c"))
        await wait_for(screen, list("abc"))
        assert await here.fan_out.check()
        assert not screen.subscriber.tail.is_reset
        assert await read_epoch() == screen.epoch


@in_database
async def test_hints_that_overtake_a_commit_are_no_loss() -> None:
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (here, there):
        screen = await here.attach(session_id)
        await here.append(*appends(session_id, "a"))
        (slow,) = appends(session_id, "b")
        committed = await here.commit(slow)
        await there.append(*appends(session_id, "c"))
        here.fan_out.send_appended(session_id, committed)
        await wait_for(screen, list("abc"))
        assert not screen.subscriber.tail.is_reset


@in_database
async def test_hints_of_the_previous_release_are_no_loss() -> None:
    """They name no commits; the log is read instead."""
    session_id = await sync_to_async(make_session)()
    async with make_sites(2) as (here, there):
        screen = await here.attach(session_id)
        await here.append(*appends(session_id, "a"))
        for text in "bc":
            committed = await there.commit(*appends(session_id, text))
            last = committed.entries[-1].offset
            hint: dict[str, Any] = {"node": "old", "epoch": "e", "last": last}
            message = {"session": session_id, "hint": hint | pack(committed.entries)}
            await there.bus.publish("session", message)
        await wait_for(screen, list("abc"))
        assert not screen.subscriber.tail.is_reset


def mark(number: int, tag: str = "a") -> Mark:
    return Mark(number, number, tag * 12)


def test_commits_in_a_row_are_no_doubt() -> None:
    known = KnownCommits()
    known.learn(mark(4), None)
    known.learn(mark(6), mark(5))
    assert known.is_doubted
    known.learn(mark(5), mark(4))
    assert not known.is_doubted
    assert [newest for _, newest in known.get()] == [mark(6)]
    known.learn(mark(7), mark(6, "b"))
    assert known.is_doubted


def test_a_commit_at_a_known_offset_is_a_doubt() -> None:
    known = KnownCommits()
    known.learn(mark(4), None)
    known.learn(mark(5), mark(4), is_repeated=True)
    assert known.is_doubted


def test_what_came_while_the_log_was_read_is_compared_again() -> None:
    known = KnownCommits()
    known.learn(mark(4), None)
    known.learn(mark(6), mark(5))
    compared = known.get()
    known.learn(mark(7), mark(6))
    known.learn(mark(5, "b"), mark(4))
    known.confirm(compared, mark(6))
    assert known.is_doubted
    assert {newest for _, newest in known.get()} == {mark(5, "b"), mark(7)}
    known.confirm(known.get(), mark(8))
    assert not known.is_doubted
    assert [newest for _, newest in known.get()] == [mark(8)]


def test_an_old_entry_that_is_read_is_no_doubt() -> None:
    known = KnownCommits()
    known.learn(mark(4), None)
    for read in (mark(3), mark(4), None):
        known.learn_newer(read)
    assert not known.is_doubted
    known.learn_newer(mark(4, "b"))
    assert known.is_doubted


def make_growing(chain: str, text: str = "") -> Entry:
    return Entry(
        offset=2,
        kind="message",
        sender="server",
        at=timezone.now(),
        data=dump_stream(text),
        state="streaming",
        chain=chain,
    )


LOST, PRESENT = make_growing("3-aaaaaaaaaaaa"), make_growing("3-bbbbbbbbbbbb", "n")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_stream_of_a_lost_log_grows_no_entry_of_the_present_one(
    is_first: bool,
) -> None:
    """Whether it grows before the node has read the present entry, or after it."""
    tail = Tail("s", Passes(), on_doubt=lambda tail: None)
    if is_first:
        tail.grow_unwritten(LOST, "of a lost log", "")
    tail.take(PRESENT)
    tail.grow_unwritten(LOST, "of a lost log", "")
    assert tail.growing[2].text == "n"
    tail.grow_unwritten(PRESENT, "new", "")
    assert tail.growing[2].text == "new"
