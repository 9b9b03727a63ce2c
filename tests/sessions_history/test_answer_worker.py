"""Messages that workers answer: the nodes leave them, and none is forgotten."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections.exceptions import DatabaseUnavailable, InvalidMessage
from connections.models import ErrorEvent
from connections.node.node import Node
from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from sessions_history import work
from sessions_history.answer_worker import answer_messages
from sessions_history.approval_models import Approval
from sessions_history.checks import check_answered_by
from sessions_history.entries import Append, NewEntry
from sessions_history.exceptions import TooManyStreams
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Work
from sessions_history.payloads import dump_claims
from sessions_history.pruning import interrupt_abandoned
from sessions_history.responders import AnyResponder
from sessions_history.work import is_any_due, take_over
from tests.sessions_history.appends import make_session
from tests.sessions_history.approving import V2, Careful, receive_state
from tests.sessions_history.conftest import MakeNode, SwitchableDatabase
from tests.sessions_history.entry_states import read_state, wait_for_state
from tests.sessions_history.responding import Contextual, Reverse, Scripted
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

LEFT: dict[str, dict[str, Any]] = {
    "sessions": {"answered_by": "workers", "position_seconds": 0.05},
    "node": {"node_timeout_seconds": 1},
}


PAST = timezone.now() - timedelta(hours=1)


class AnswersAtOnce(Scripted):
    is_concurrent = True


class CountingReverse(Reverse):
    asked = 0

    def respond(self, message: Any, history: Any) -> AsyncIterator[str]:
        self.asked += 1
        return super().respond(message, history)


class Forbidden:
    """A responder that no node may ask."""

    def respond(self, message: Any, history: Any) -> AsyncIterator[str]:
        raise AssertionError("a node answered")


@pytest.fixture
def make_frontend(make_node: MakeNode) -> Callable[..., Node]:
    """Makes nodes that leave answers to workers."""

    def make(**values: Any) -> Node:
        node = make_node(**{**LEFT, **values})
        get_log(node).responder = Forbidden()
        return node

    return make


@asynccontextmanager
async def working(
    responder: AnyResponder,
    *,
    most: int = 100,
    grace_seconds: float = 0,
    lease_seconds: float = 1,
    stop_seconds: float = scale(20),
    database: Database | None = None,
) -> AsyncIterator[asyncio.Event]:
    """Run a worker within a block; the event ends it."""
    stopping = asyncio.Event()
    running = asyncio.create_task(
        answer_messages(
            make_config(**{**LEFT, "node": {"node_timeout_seconds": lease_seconds}}),
            responder,
            stopping=stopping,
            hurrying=asyncio.Event(),
            most=most,
            grace_seconds=grace_seconds,
            poll_seconds=0.02,
            stop_seconds=stop_seconds,
            database=database,
        )
    )
    try:
        yield stopping
    finally:
        stopping.set()
        await running


# Workers beside each other, whose leases outlast a pause of the machine.
patient = partial(working, lease_seconds=60)


async def test_a_worker_answers_what_a_node_got(
    make_frontend: Callable[..., Node],
) -> None:
    async with talk(make_frontend()) as alice:
        await alice.say({"text": "hello"})
        assert await alice.receive_offsets(2) == [1, 2]
        assert (await read_state(alice.session_id, 2)) == "streaming"
        async with working(Reverse()):
            state = await alice.receive_type("state")
            assert (state["offset"], state["state"]) == (2, "done")
            await wait_until_no_work()
    entry = await HistoryEntry.objects.aget(session=alice.session_id, offset=2)
    assert "olleh" in entry.data


async def wait_until_no_work() -> None:
    async with asyncio.timeout(scale(20)):
        while await Work.objects.aexists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_worker_learns_the_claims_and_the_metadata(
    make_frontend: Callable[..., Node],
) -> None:
    responder = Contextual()
    responder.released.set()
    log = get_log(make_frontend())
    session_id = await sync_to_async(make_session)()
    claims = {"sub": "a", "odd": "\x00\ud800", "number": float("inf")}
    await log.say(
        session_id, "k-1", "hi", "alice", claims=claims, metadata={"model": "large"}
    )
    async with working(responder):
        await wait_for_state(session_id, 2, "done")
    (context,) = responder.contexts
    assert context.claims == claims
    assert context.metadata == {"model": "large"}
    assert (context.message_id, context.client_id) == ("k-1", "alice")


async def test_the_answers_of_a_session_come_one_after_the_other(
    make_frontend: Callable[..., Node],
) -> None:
    """Two workers; an answer behind an open one takes the place of no other."""
    responder = Scripted()
    node = make_frontend()
    async with talk(node) as alice, talk(node, client_id="bob") as bob:
        for number in (1, 2):
            await alice.say_and_wait({"text": f"alice {number}"})
        async with patient(responder, most=2), patient(responder, most=2):
            await wait_until(lambda: len(responder.asked) == 1)
            await bob.say_and_wait({"text": "bob"})
            await wait_until(lambda: len(responder.asked) == 2)
            assert [one["text"] for one, _ in responder.asked] == ["alice 1", "bob"]
            responder.play(None, None)
            await wait_until(lambda: len(responder.asked) == 3)
            message, history = responder.asked[-1]
            assert message["text"] == "alice 2"
            assert [one.state for one in history] == ["done", "done"]
            responder.play(None)
            await wait_for_state(alice.session_id, 4, "done")


async def test_a_worker_takes_no_more_than_it_may(
    make_frontend: Callable[..., Node],
) -> None:
    responder = Scripted()
    log = get_log(make_frontend())
    sessions = [await sync_to_async(make_session)() for _ in range(3)]
    for session_id in sessions:
        await log.say(session_id, "k-1", session_id)
    async with working(responder, most=2):
        await wait_until(lambda: len(responder.asked) == 2)
        await asyncio.sleep(0.2)
        # The first ones came first.
        assert {one for one, _ in responder.asked} == {*sessions[:2]}
        responder.play(None)
        await wait_until(lambda: len(responder.asked) == 3)
        responder.play(None, None)


async def test_a_stopped_answer_is_not_begun(
    make_frontend: Callable[..., Node],
) -> None:
    responder = Scripted()
    async with talk(make_frontend()) as alice:
        await alice.say_and_wait({"text": "hi"})
        await alice.send(type="cancel", offset=2)
        await alice.receive_type("state")
        async with working(responder):
            await wait_until_no_work()
    assert responder.asked == []
    assert await read_state(alice.session_id, 2) == "cancelled"


class Slow(Database):
    """A database whose reply to a take-over is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.has_taken = asyncio.Event()

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        result = await super().write(work, *args, **kwargs)
        if work is take_over:
            self.has_taken.set()
            await asyncio.sleep(0.3)
        return result


async def test_a_worker_that_ends_leaves_what_it_took(
    make_frontend: Callable[..., Node],
) -> None:
    """It was told to end while it took an answer, which another one begins at once."""
    responder, database = Scripted(), Slow()
    session_id = await sync_to_async(make_session)()
    await get_log(make_frontend()).say(session_id, "k-1", "hi")
    async with working(responder, database=database, lease_seconds=60) as stopping:
        await database.has_taken.wait()
        stopping.set()
    assert responder.asked == []
    async with working(responder, lease_seconds=60):
        await wait_until(lambda: bool(responder.asked))
        responder.play(None)
        await wait_for_state(session_id, 2, "done")


async def test_a_worker_that_ends_begins_nothing_beside_its_last_answer(
    make_frontend: Callable[..., Node],
) -> None:
    """What it took meanwhile is begun by another one at once."""
    responder, other, database = Scripted(), Scripted(), Slow()
    log = get_log(make_frontend())
    first, second = [await sync_to_async(make_session)() for _ in range(2)]
    begin = partial(working, database=database, grace_seconds=scale(30))
    async with begin(responder, lease_seconds=60) as stopping:
        await log.say(first, "k-1", "first")
        await wait_until(lambda: len(responder.asked) == 1)
        database.has_taken.clear()
        await log.say(second, "k-1", "second")
        await database.has_taken.wait()
        stopping.set()
        async with working(other, lease_seconds=60):
            await wait_until(lambda: len(other.asked) == 1)
            # Longer than a process waits for a work that it owns and does not do.
            await asyncio.sleep(2.5)
            other.play(None)
            await wait_for_state(second, 2, "done")
        responder.play(None)
    assert len(responder.asked) == 1
    assert await read_state(first, 2) == "done"


async def test_a_stop_reaches_the_worker(make_frontend: Callable[..., Node]) -> None:
    responder = Scripted()
    async with talk(make_frontend()) as alice, working(responder):
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: bool(responder.asked))
        await alice.send(type="cancel", offset=2)
        await wait_until(lambda: responder.closed == 1, 20)


async def test_a_worker_that_ends_lets_its_answers_end(
    make_frontend: Callable[..., Node],
) -> None:
    """It begins no other; without the time for it an answer is interrupted."""
    responder = Scripted()
    log = get_log(make_frontend())
    first, second = [await sync_to_async(make_session)() for _ in range(2)]
    async with working(responder, grace_seconds=scale(20)) as stopping:
        await log.say(first, "k-1", "first")
        await wait_until(lambda: len(responder.asked) == 1)
        stopping.set()
        await log.say(second, "k-1", "second")
        await asyncio.sleep(0.2)
        responder.play("whole", None)
    assert await read_state(first, 2) == "done"
    assert (len(responder.asked), await read_state(second, 2)) == (1, "streaming")
    async with working(responder):
        await wait_until(lambda: len(responder.asked) == 2)
    assert await read_state(second, 2) == "interrupted"


async def test_another_worker_begins_what_a_dead_one_had_not_begun(
    make_frontend: Callable[..., Node],
) -> None:
    log = get_log(make_frontend())
    session_id = await sync_to_async(make_session)()
    await log.say(session_id, "k-1", {"text": "hello"})
    database = Database()
    dead = work.Terms(owner="dead", lease_seconds=0, timeout_seconds=60)
    (taken,) = await database.write(work.take_over, dead, work.Takes.NEXT)
    await database.close()
    assert (taken.attempts, taken.is_late) == (1, False)
    async with working(Reverse()):
        await wait_for_state(session_id, 2, "done")


async def test_nodes_begin_what_waits_when_they_answer_again(
    make_frontend: Callable[..., Node], make_node: MakeNode
) -> None:
    session_id = await sync_to_async(make_session)()
    await get_log(make_frontend()).say(session_id, "k-1", {"text": "hello"})
    node = make_node(node={"node_timeout_seconds": 1})
    get_log(node).responder = Reverse()
    await node.start()
    await wait_for_state(session_id, 2, "done")


async def test_a_node_says_that_answers_wait(
    make_frontend: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    """It neither answers them nor ends them."""
    node = make_frontend()
    log = get_log(node)
    sessions = [await sync_to_async(make_session)() for _ in range(2)]
    for session_id in sessions:
        await log.say(session_id, "k-1", "hi")
        # One that waits for its turn is not counted.
        await log.say(session_id, "k-2", "hi again")

    def find_lines() -> list[str]:
        lines = [one.getMessage() for one in caplog.records]
        return [one for one in lines if "answer_messages" in one]

    await log.check_work()
    assert not find_lines()
    await Work.objects.aupdate(leased_until=timezone.now() + timedelta(seconds=280))
    await wait_until(find_lines)
    for _ in range(3):
        await asyncio.sleep(0.4)
        await log.check_work()
    (line,) = find_lines()
    assert line.startswith("2 answers wait for a worker for more than 10 s")
    assert await read_state(sessions[0], 2) == "streaming"


async def test_the_time_to_take_an_answer_begins_with_its_turn(
    make_frontend: Callable[..., Node],
) -> None:
    """One that nobody takes then is ended by the sweeper."""
    session_id = await sync_to_async(make_session)()
    log = get_log(make_frontend())
    for key in ("k-1", "k-2"):
        await log.say(session_id, key, "hi")
    await Work.objects.aupdate(leased_until=PAST)
    await HistoryEntry.objects.aupdate(at=PAST)
    # The next check gives the second answer time again.
    await asyncio.sleep(0.4)
    await log.check_work()
    assert await sync_to_async(interrupt_abandoned)(10) == 1
    assert await read_state(session_id, 2) == "interrupted"
    assert await read_state(session_id, 4) == "streaming"


async def test_a_turn_that_is_shorter_than_a_lease_does_not_end_before_it_begins(
    make_frontend: Callable[..., Node],
) -> None:
    session_id = await sync_to_async(make_session)()
    sessions = {**LEFT["sessions"], "stream_timeout_seconds": 1}
    node = make_frontend(node={"node_timeout_seconds": 600}, sessions=sessions)
    log = get_log(node)
    for key in ("k-1", "k-2"):
        await log.say(session_id, key, "hi")
    await log.check_work()
    await Work.objects.aupdate(leased_until=PAST)
    await HistoryEntry.objects.aupdate(at=PAST)
    await asyncio.sleep(0.4)
    await log.check_work()
    assert await sync_to_async(interrupt_abandoned)(10) == 1
    assert await read_state(session_id, 4) == "streaming"


async def test_a_worker_does_not_take_what_it_has(
    make_frontend: Callable[..., Node],
) -> None:
    """Its leases end under it, as in an outage that is longer than they are."""
    responder = Scripted()
    async with talk(make_frontend()) as alice, working(responder):
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: len(responder.asked) == 1)
        responder.play("half ")
        for _ in range(5):
            await Work.objects.aupdate(leased_until=PAST)
            await asyncio.sleep(0.1)
        responder.play("whole", None)
        await wait_for_state(alice.session_id, 2, "done")
    assert len(responder.asked) == 1


class FailsOnce(Database):
    """
    A database that is away at the first look for messages.

    All leases are over during the next look, unless that comes late, as after a pause
    of the machine: the database is away once more then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_failed = False
        self.has_looked = asyncio.Event()

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is not is_any_due or self.has_looked.is_set():
            return await super().read(work, *args, **kwargs)
        if not self.has_failed or kwargs["is_left_too"]:
            self.has_failed = True
            raise DatabaseUnavailable("away")
        await Work.objects.aupdate(leased_until=PAST)
        found = await super().read(work, *args, **kwargs)
        later = timezone.now() + timedelta(minutes=1)
        await Work.objects.aupdate(leased_until=later)
        self.has_looked.set()
        return found


async def test_after_an_outage_the_living_renew_first(
    make_frontend: Callable[..., Node],
) -> None:
    """A worker that returned first takes no answer of another one for a while."""
    responder, database = Scripted(), FailsOnce()
    async with talk(make_frontend()) as alice, working(responder, lease_seconds=15):
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: len(responder.asked) == 1)
        responder.play("half ")
        async with working(Forbidden(), database=database, lease_seconds=15):
            await asyncio.wait_for(database.has_looked.wait(), scale(30))
            responder.play("whole", None)
            await wait_for_state(alice.session_id, 2, "done")
    assert len(responder.asked) == 1


class GivenUp(SwitchableDatabase):
    """A database whose threads the test ends, for they have connections."""

    is_given_up = False

    def abandon(self) -> None:
        self.is_given_up = True


async def test_a_worker_ends_while_the_database_is_away(
    make_frontend: Callable[..., Node],
) -> None:
    responder, database = Scripted(), GivenUp()
    async with talk(make_frontend()) as alice:
        await alice.say_and_wait({"text": "hi"})
        async with (
            asyncio.timeout(scale(20)),
            working(responder, database=database, stop_seconds=1) as stopping,
        ):
            await wait_until(lambda: len(responder.asked) == 1)
            database.is_away = True
            stopping.set()
        assert database.is_given_up
        database.is_away = False
        await wait_for_state(alice.session_id, 2, "interrupted")
    await database.close()


async def test_an_answer_that_waits_for_a_person_outlives_its_worker(
    make_frontend: Callable[..., Node],
) -> None:
    """The decision comes while no worker runs; the next one goes on."""
    first, second = Careful(), Careful()
    async with talk(make_frontend(), subprotocols=V2) as alice:
        async with working(first):
            await alice.say({"text": "my money!"})
            await receive_state(alice, "awaiting_approval")
        assert await read_state(alice.session_id, 2) == "streaming"
        await alice.send(
            type="approve", id="abcdefghijkl-9", offset=2, part="c1", note="a regular"
        )
        await alice.receive_type("ack")
        async with working(second):
            await wait_for_state(alice.session_id, 2, "done")
    assert first.decisions == []
    (decision,) = second.decisions
    assert (decision.state, decision.note) == ("approved", "a regular")


async def test_a_concurrent_responder_answers_several_messages_of_a_session(
    make_frontend: Callable[..., Node],
) -> None:
    responder = AnswersAtOnce()
    async with talk(make_frontend()) as alice, working(responder):
        for _ in range(3):
            await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: len(responder.asked) == 3)
        responder.play(None, None, None)


async def test_two_workers_answer_each_message_once(
    make_frontend: Callable[..., Node],
) -> None:
    responder = CountingReverse()
    log = get_log(make_frontend())
    sessions = [await sync_to_async(make_session)(f"c{n}") for n in range(40)]
    for session_id in sessions:
        await log.say(session_id, "k-1", {"text": "hello"})
    async with patient(responder, most=7), patient(responder, most=7):
        for session_id in sessions:
            await wait_for_state(session_id, 2, "done")
    assert not await Work.objects.aexists()
    texts = HistoryEntry.objects.filter(offset=2).values_list("data", flat=True)
    assert {one async for one in texts} == {'{"text":"olleh"}'}
    assert responder.asked == len(sessions)


async def test_staff_see_the_errors_of_a_responder_in_a_worker(
    make_frontend: Callable[..., Node],
) -> None:
    responder = Scripted()
    async with talk(make_frontend()) as alice, working(responder):
        await alice.say_and_wait({"text": "hi"})
        responder.play(KeyError("a tool"))
        await wait_for_state(alice.session_id, 2, "error")
    error = await ErrorEvent.objects.aget()
    assert "KeyError: 'a tool'" in error.traceback


async def test_no_claims_stay_behind(make_frontend: Callable[..., Node]) -> None:
    """A worker ended with its answer, and one was stopped before it began."""
    responder = Scripted()
    log = get_log(make_frontend())
    first, second = [await sync_to_async(make_session)() for _ in range(2)]
    await log.say(first, "k-1", "hi", claims={"sub": "a"})
    async with working(responder):
        await wait_until(lambda: len(responder.asked) == 1)
    assert await read_state(first, 2) == "interrupted"
    assert not await Work.objects.aexists()
    await log.say(second, "k-1", "hi", claims={"sub": "a"})
    await log.cancel(second, 2)
    async with working(responder):
        await wait_until_no_work()


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (None, None),
        ({}, {}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({"id": UUID(int=5)}, {"id": str(UUID(int=5))}),
    ],
)
def test_claims_are_stored_as_json(claims: Any, expected: Any) -> None:
    text = dump_claims(claims)
    assert (json.loads(text) if text else None) == expected


def test_claims_that_are_no_json_are_refused() -> None:
    endless: dict[Any, Any] = {}
    endless["self"] = endless
    keyed: dict[Any, Any] = {(1, 2): 3}
    for claims in (endless, keyed):
        with pytest.raises(InvalidMessage, match="claims"):
            dump_claims(claims)


async def test_the_limit_of_a_client_holds_over_its_sessions_and_nodes(
    make_frontend: Callable[..., Node],
) -> None:
    sessions = {**LEFT["sessions"], "max_open_streams_per_client": 2}
    logs = [get_log(make_frontend(sessions=sessions)) for _ in range(2)]
    own = [await sync_to_async(make_session)("alice") for _ in range(3)]
    other = await sync_to_async(make_session)("bob")
    await logs[0].say(own[0], "k-1", "hi", "alice")
    await logs[1].say(own[1], "k-1", "hi", "alice")
    with pytest.raises(TooManyStreams):
        await logs[0].say(own[2], "k-1", "hi", "alice")
    await logs[0].say(own[2], "k-2", "a note", "alice", wants_answer=False)
    await logs[0].say(other, "k-1", "hi", "bob")
    # One that waits for a person is not counted, and a stream of the application never.
    await Approval.objects.acreate(
        session_id=own[0],
        offset=2,
        part_id="c1",
        expires_at=timezone.now() + timedelta(hours=1),
    )
    # In one commit as well.
    said = [logs[0].say(own[2], f"k-{n}", "hi", "alice") for n in (3, 4)]
    results = await asyncio.gather(*said, return_exceptions=True)
    assert [isinstance(one, TooManyStreams) for one in results] == [False, True]
    stream = Append(session_id=own[2], entries=(NewEntry.stream(),))
    await logs[0].submit(stream)


def test_workers_without_a_responder_are_reported(settings: Any) -> None:
    settings.WEBSOCKET, settings.SESSIONS_RESPONDER = make_config(**LEFT), None
    (found,) = check_answered_by()
    assert found.id == "sessions_history.W001"
    settings.SESSIONS_RESPONDER = "tests.sessions_history.responding.Reverse"
    assert check_answered_by() == []
    settings.WEBSOCKET, settings.SESSIONS_RESPONDER = make_config(), None
    assert check_answered_by() == []


def test_the_command_says_what_is_missing(settings: Any) -> None:
    settings.WEBSOCKET = make_config()
    with pytest.raises(CommandError, match="answered_by is 'nodes': the nodes answer"):
        call_command("answer_messages")
    settings.WEBSOCKET, settings.SESSIONS_RESPONDER = make_config(**LEFT), None
    with pytest.raises(CommandError, match="names no responder"):
        call_command("answer_messages")
    with pytest.raises(CommandError, match="--most 0: expected"):
        call_command("answer_messages", most=0)
