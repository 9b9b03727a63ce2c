"""Answers that are due: not forgotten, not given twice, and stopped when asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from connections.exceptions import DatabaseUnavailable
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing import wait_until
from connections.testing.waiting import scale
from sessions_history import work
from sessions_history.entries import Committed
from sessions_history.exceptions import StreamEnded
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Work
from sessions_history.pruning import interrupt_abandoned
from sessions_history.responders import HistoryMessage
from sessions_history.work import take_over
from tests.sessions_history.appends import make_session
from tests.sessions_history.backups import make_backup, restore
from tests.sessions_history.conftest import (
    DyingDatabase,
    MakeNode,
    SwitchableDatabase,
)
from tests.sessions_history.entry_states import read_state, wait_for_state
from tests.sessions_history.responding import Scripted
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"node": {"node_timeout_seconds": 1}}


@pytest.fixture
def database() -> SwitchableDatabase:
    return SwitchableDatabase()


def start(node: Node, responder: Any) -> Node:
    get_log(node).responder = responder
    return node


async def test_an_answer_survives_the_lost_reply_to_its_commit(
    make_node: MakeNode, database: SwitchableDatabase
) -> None:
    """The client sends the message again; the responder is asked once."""
    responder = Scripted()
    node = start(make_node(database, **QUICK), responder)
    async with talk(node) as alice:
        database.loses_reply = True
        message_id = await alice.say({"text": "hi"})
        error = await alice.receive_type("error")
        assert (error["id"], error["code"]) == (message_id, "unavailable")
        await alice.say({"text": "hi"}, message_id)
        assert (await alice.receive_type("ack"))["offset"] == 1
        responder.play("hello", None)
        await wait_for_state(alice.session_id, 2, "done")
        assert len(responder.asked) == 1
        # Further messages find their slots free.
        for _ in range(5):
            responder.play(None)
            offset = await alice.say_and_wait({"text": "more"})
            await wait_for_state(alice.session_id, offset + 1, "done")
    await wait_until(lambda: len(responder.asked) == 6)


class HalfLost(SwitchableDatabase):
    """A database that leaves between the halves of a batch that was bisected."""

    leaves_between = False

    async def write_urgently(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.leaves_between:
            return await super().write_urgently(work, *args, **kwargs)
        self.leaves_between = False
        requests, *others = args
        await super().write_urgently(work, requests[:1], *others, **kwargs)
        raise DatabaseUnavailable("the second half was not committed")


async def test_both_halves_of_a_batch_are_answered_once(make_node: MakeNode) -> None:
    responder, database = Scripted(), HalfLost()
    node = start(make_node(database, **QUICK), responder)
    log = get_log(node)
    async with talk(node) as alice:

        def say() -> list[asyncio.Future[Committed]]:
            return [log.say(alice.session_id, key, {"text": key}) for key in "ab"]

        database.leaves_between = True
        failed = await asyncio.gather(*say(), return_exceptions=True)
        assert [type(one) for one in failed] == [DatabaseUnavailable] * 2
        acked = await asyncio.gather(*say())
        assert [one.offset for one in acked] == [1, 3]
        for offset, text in ((2, "one"), (4, "two")):
            responder.play(text, None)
            await wait_for_state(alice.session_id, offset, "done")
        assert len(responder.asked) == 2


async def test_a_stream_that_is_cancelled_at_its_end_is_interrupted(
    make_node: MakeNode, database: SwitchableDatabase
) -> None:
    """Nobody here knows of it any more, but for its work in the database."""
    node = make_node(database, **QUICK)
    async with talk(node) as alice:
        await alice.say_and_wait("x")

        async def write() -> None:
            async with get_log(node).stream(alice.session_id) as stream:
                await stream.write("kept")
                await stream.flush()
                database.is_away = True

        writing = asyncio.create_task(write())
        await wait_until(lambda: database.is_away)
        writing.cancel()
        await asyncio.wait([writing])
        assert await read_state(alice.session_id, 2) == "streaming"
        database.is_away = False
        await wait_for_state(alice.session_id, 2, "interrupted")
        row = await HistoryEntry.objects.aget(session=alice.session_id, offset=2)
        assert row.data == '{"text":"kept"}'


async def test_a_stream_whose_opening_was_lost_is_interrupted(
    make_node: MakeNode, database: SwitchableDatabase
) -> None:
    node = start(make_node(database, **QUICK), None)
    async with talk(node) as alice:
        database.loses_reply = True
        with pytest.raises(Exception, match="lost"):
            async with get_log(node).stream(alice.session_id):
                pass
        await wait_for_state(alice.session_id, 1, "interrupted")


async def test_a_stream_ends_when_its_offset_is_given_to_another_after_a_restore(
    make_node: MakeNode,
) -> None:
    log = get_log(start(make_node(), None))
    session_id = await sync_to_async(make_session)()
    backup = await make_backup()
    opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def write() -> None:
        async with log.stream(session_id) as lost:
            opened.set_result(lost.offset)
            await asyncio.Event().wait()

    writing = asyncio.create_task(write())
    offset = await opened
    await restore(backup)
    async with log.stream(session_id) as present:
        assert present.offset == offset
        # It has written nothing, so no commit of its own tells it.
        with pytest.raises(StreamEnded):
            async with asyncio.timeout(scale(10)):
                await writing
        await present.write("of the present log")
    entry = await HistoryEntry.objects.aget(session=session_id)
    assert (entry.state, "of the present log" in entry.data) == ("done", True)


async def test_another_node_gives_the_answer_of_a_dead_one(
    make_node: MakeNode,
) -> None:
    database = DyingDatabase()
    dead = start(make_node(database, **QUICK), Scripted())
    responder = Scripted()
    responder.play("from another node", None)
    async with talk(dead) as alice:
        database.loses_reply = True
        await alice.say({"text": "hi"})
        await alice.receive_type("error")
    await dead.stop()
    start(make_node(**QUICK), responder)
    await wait_for_state(alice.session_id, 2, "done")
    assert [message for message, _ in responder.asked] == [{"text": "hi"}]


class PoisonedDatabase(SwitchableDatabase):
    """A database in which the work of one session cannot be read."""

    poisoned = ""

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if args and getattr(args[0], "session_id", "") == self.poisoned:
            raise KeyError("an error that nobody expected")
        return await super().read(work, *args, **kwargs)


def leave_work(age_seconds: float) -> str:
    """Insert a question whose node died before it answered."""
    session_id = make_session()
    rows = [("done", '"hi"'), ("streaming", '{"text":""}')]
    for offset, (state, data) in enumerate(rows, 1):
        HistoryEntry.objects.create(
            session_id=session_id, offset=offset, sender="x", state=state, data=data
        )
    terms = work.Terms(owner="dead", lease_seconds=-age_seconds, timeout_seconds=60)
    work.add([work.NewWork(session_id, 2, 1, "key")], terms)
    return session_id


async def test_a_work_that_cannot_be_resumed_holds_up_no_other(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither while works are taken over nor while they are compared later."""
    database, responder = PoisonedDatabase(), Scripted()
    database.poisoned = await database.write(leave_work, 9)
    others = [await database.write(leave_work, 5)]
    responder.play("first", None)
    node = start(make_node(database, **QUICK), responder)
    await node.start()
    await wait_for_state(others[0], 2, "done")
    others.append(await database.write(leave_work, 5))
    responder.play("second", None)
    await wait_for_state(others[1], 2, "done")
    assert await read_state(database.poisoned, 2) == "streaming"
    lines = [one.getMessage() for one in caplog.records]
    assert sum("The resumption of work failed" in line for line in lines) == 1


def test_what_was_begun_is_interrupted_and_not_begun_anew() -> None:
    session_id = make_session()
    rows = [("done", '"hi"'), ("streaming", '{"text":"half"}')]
    for offset, (state, data) in enumerate(rows, 1):
        HistoryEntry.objects.create(
            session_id=session_id, offset=offset, sender="x", state=state, data=data
        )
    terms = work.Terms(owner="a", lease_seconds=-1, timeout_seconds=60)
    work.add([work.NewWork(session_id, 2, 1, "key")], terms)
    (taken,) = work.take_over(
        work.Terms(owner="b", lease_seconds=60, timeout_seconds=60)
    )
    assert (taken.offset, taken.attempts, taken.is_late) == (2, 2, False)
    assert work.read_answer(taken) is None
    assert HistoryEntry.objects.get(offset=2).node_id == "b"
    # Nobody takes over what is leased, and the first owner has lost it.
    assert work.take_over(terms) == []
    assert work.renew(terms) == []


def test_the_database_knows_when_time_is_over() -> None:
    session_id = make_session()
    HistoryEntry.objects.create(
        session_id=session_id, offset=1, sender="x", state="streaming"
    )
    terms = work.Terms(owner="a", lease_seconds=60, timeout_seconds=-1)
    work.add([work.NewWork(session_id, 1, None)], terms)
    assert [one.is_late for one in work.renew(terms)] == [True]
    HistoryEntry.objects.update(state="done")
    assert work.renew(terms) == []
    assert not Work.objects.exists()


def test_the_sweeper_ends_what_no_node_takes_over() -> None:
    session_id = make_session()
    minute_ago = timezone.now() - timedelta(minutes=1)
    HistoryEntry.objects.create(
        session_id=session_id, offset=1, sender="x", state="streaming", at=minute_ago
    )
    terms = work.Terms(owner="a", lease_seconds=-10, timeout_seconds=60)
    work.add([work.NewWork(session_id, 1, None)], terms)
    assert interrupt_abandoned(10) == 0
    Work.objects.update(leased_until=minute_ago)
    assert interrupt_abandoned(10) == 1


def test_stopped_answers_at_the_head_hold_up_no_other() -> None:
    """A worker with room for one begins the first that still streams."""
    sessions = [leave_work(20 - number) for number in range(4)]
    stopped = HistoryEntry.objects.filter(session__in=sessions[:3], offset=2)
    stopped.update(state="cancelled")
    terms = work.Terms(owner="w", lease_seconds=60, timeout_seconds=60)
    (taken,) = work.take_over(terms, work.Takes.NEXT, 1)
    assert taken.session_id == sessions[3]
    assert Work.objects.count() == 1


def test_what_a_worker_left_just_now_does_not_wait_for_long() -> None:
    leave_work(5)
    terms = work.Terms(owner="w", lease_seconds=60, timeout_seconds=60)
    assert work.take_over(terms, work.Takes.NEXT)
    work.release("w")
    assert work.count_waiting(terms, 10) == 0
    Work.objects.update(leased_until=timezone.now() - timedelta(seconds=11))
    assert work.count_waiting(terms, 10) == 1


class LosesTakeOver(Database):
    """A database that is away when a node first takes something over."""

    has_failed = False

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is take_over and not self.has_failed:
            self.has_failed = True
            raise DatabaseUnavailable("away")
        return await super().write(work, *args, **kwargs)


async def test_a_take_over_that_failed_is_tried_again_soon(
    make_node: MakeNode,
) -> None:
    """After the patience of three seconds, not after a third of a long lease."""
    database, responder = LosesTakeOver(), Scripted()
    session_id = await database.write(leave_work, 5)
    responder.play("whole", None)
    node = make_node(database, node={"node_timeout_seconds": 600})
    await start(node, responder).start()
    await wait_for_state(session_id, 2, "done")
    assert database.has_failed


async def test_a_silent_answer_stops_when_another_node_cancels(
    make_node: MakeNode,
) -> None:
    responder = Scripted()
    node = start(make_node(), responder)
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: responder.asked)
        await get_log(make_node()).cancel(alice.session_id, 2)
        await wait_until(lambda: responder.closed == 1)
        assert await read_state(alice.session_id, 2) == "cancelled"


class Stubborn:
    """A responder that swallows its cancellation, and yields until it is released."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        yield "before"
        self.has_begun.set()
        while not self.may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.may_end.wait()
        yield "after"


@pytest.fixture
def stubborn() -> Iterator[Stubborn]:
    responder = Stubborn()
    yield responder
    responder.may_end.set()


async def test_an_answer_that_swallows_its_cancellation_ends_by_force(
    make_node: MakeNode, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    node = start(make_node(**QUICK), stubborn)
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        await stubborn.has_begun.wait()
        await alice.send(type="cancel", offset=2)
        state = await alice.receive_type("state")
        assert (state["offset"], state["state"]) == (2, "cancelled")
        assert "The answer of Stubborn swallowed its cancellation" in caplog.text
        # The node stops without the task, whose later output is dropped.
        await node.stop()
        stubborn.may_end.set()
        await asyncio.sleep(0)
        row = await HistoryEntry.objects.aget(session=alice.session_id, offset=2)
        assert (row.state, row.data) == ("cancelled", '{"text":"before"}')


async def test_a_stream_that_another_node_took_over_is_left(
    make_node: MakeNode,
) -> None:
    node = start(make_node(), None)
    async with talk(node) as alice:
        with pytest.raises(StreamEnded):
            async with get_log(node).stream(alice.session_id) as stream:
                await stream.write("text")
                await HistoryEntry.objects.aupdate(node="b")
                await Work.objects.aupdate(owner="b")
                await asyncio.Event().wait()
        assert await read_state(alice.session_id, 1) == "streaming"
