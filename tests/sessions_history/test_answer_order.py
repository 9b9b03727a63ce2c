"""The messages of a session are answered one after the other, on every node."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from connections.node.node import Node
from connections.testing import wait_until
from connections.testing.waiting import scale
from sessions_history import work
from sessions_history.exceptions import StreamEnded
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session, Work
from sessions_history.responders import HistoryMessage
from tests.sessions_history.appends import make_session
from tests.sessions_history.conftest import DyingDatabase, MakeNode
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"node": {"node_timeout_seconds": 1}}


class Ordered:
    """Records which messages begin and end; each waits until it is released."""

    is_concurrent = False

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.histories: list[list[Any]] = []
        self.released: dict[Any, asyncio.Event] = {}

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage]
    ) -> AsyncIterator[str]:
        self.begun.append(message)
        self.histories.append([one.data for one in history])
        await self.released.setdefault(message, asyncio.Event()).wait()
        yield f"answer to {message}"

    def release(self, message: Any) -> None:
        self.released.setdefault(message, asyncio.Event()).set()


def answer_with(node: Node, responder: Any) -> Node:
    get_log(node).responder = responder
    return node


async def wait_for_end(alice: Talk, offset: int) -> str:
    """Return the state in which an entry ends."""
    while True:
        message = await alice.receive_type("state", "entry")
        if message["offset"] == offset and message["state"] != "streaming":
            state: str = message["state"]
            return state


async def wait_for_state(session_id: str, offset: int, state: str) -> None:
    entries = HistoryEntry.objects.filter(session=session_id, offset=offset)
    await wait_until(entries.filter(state=state).aexists)


async def test_the_second_answer_begins_when_the_first_has_ended(
    make_node: MakeNode,
) -> None:
    """Its history has the whole first answer."""
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        for message in ("one", "two", "three"):
            await alice.say_and_wait(message)
        await wait_until(lambda: responder.begun == ["one"])
        for offset, message in ((2, "one"), (4, "two"), (6, "three")):
            assert responder.begun[-1] == message
            responder.release(message)
            assert await wait_for_end(alice, offset) == "done"
            if message != "three":
                await wait_until(lambda: len(responder.begun) * 2 > offset)  # noqa: B023
    assert responder.begun == ["one", "two", "three"]
    assert {"text": "answer to one"} in responder.histories[1]
    assert {"text": "answer to two"} in responder.histories[2]


async def test_a_concurrent_responder_answers_at_once(make_node: MakeNode) -> None:
    responder = Ordered()
    responder.is_concurrent = True
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        for message in ("one", "two"):
            await alice.say_and_wait(message)
        await wait_until(lambda: sorted(responder.begun) == ["one", "two"])
        responder.release("two")
        assert await wait_for_end(alice, 4) == "done"


async def test_answers_of_other_sessions_do_not_wait(make_node: MakeNode) -> None:
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice, talk(node) as other:
        await alice.say_and_wait("one")
        await other.say_and_wait("two")
        await wait_until(lambda: sorted(responder.begun) == ["one", "two"])


async def test_a_stream_of_the_application_holds_up_no_answer(
    make_node: MakeNode,
) -> None:
    responder = Ordered()
    responder.release("one")
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        await get_log(node).append(alice.session_id, "first")
        async with get_log(node).stream(alice.session_id):
            await alice.say_and_wait("one")
            assert await wait_for_end(alice, 4) == "done"


async def test_another_node_waits_for_the_answer_of_this_one(
    make_node: MakeNode,
) -> None:
    first, second = Ordered(), Ordered()
    # A node that the machine kept from beating would lose its answers.
    alive = {"node": {"node_timeout_seconds": scale(5)}}
    node = answer_with(make_node(**alive), first)
    other = answer_with(make_node(**alive), second)
    async with talk(node) as alice:
        await alice.say_and_wait("one")
        async with talk(other, alice.session_id) as returned:
            await returned.say_and_wait("two")
            await alice.say_and_wait("three")
            await wait_until(lambda: first.begun == ["one"])
            assert not second.begun
            first.release("one")
            await wait_until(lambda: second.begun == ["two"])
            assert first.begun == ["one"]
            assert {"text": "answer to one"} in second.histories[0]
            second.release("two")
            await wait_until(lambda: first.begun == ["one", "three"])


async def test_a_waiting_answer_can_be_stopped(make_node: MakeNode) -> None:
    """Neither the answer before nor the one behind it ends."""
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        for message in ("one", "two", "three"):
            await alice.say_and_wait(message)
        await alice.send(type="cancel", offset=4)
        assert await wait_for_end(alice, 4) == "cancelled"
        responder.release("one")
        assert await wait_for_end(alice, 2) == "done"
        responder.release("three")
        assert await wait_for_end(alice, 6) == "done"
    assert responder.begun == ["one", "three"]


async def test_a_waiting_answer_can_be_stopped_on_another_node(
    make_node: MakeNode,
) -> None:
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        for message in ("one", "two"):
            await alice.say_and_wait(message)
        await get_log(make_node()).cancel(alice.session_id, 4)
        responder.release("one")
        await wait_for_state(alice.session_id, 2, "done")
        responder.release("three")
        await alice.say_and_wait("three")
        await wait_for_state(alice.session_id, 6, "done")
    assert responder.begun == ["one", "three"]


async def test_the_next_answer_begins_when_the_one_before_is_stopped(
    make_node: MakeNode,
) -> None:
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        for message in ("one", "two"):
            await alice.say_and_wait(message)
        await wait_until(lambda: responder.begun == ["one"])
        await alice.send(type="cancel", offset=2)
        await wait_until(lambda: responder.begun == ["one", "two"])


async def test_a_waiting_message_that_is_sent_again_is_answered_once(
    make_node: MakeNode,
) -> None:
    responder = Ordered()
    node = answer_with(make_node(), responder)
    async with talk(node) as alice:
        await alice.say_and_wait("one")
        message_id = await alice.say("two")
        for _ in range(2):
            assert (await alice.receive_type("ack"))["offset"] == 3
            await alice.say("two", message_id)
        responder.release("one")
        responder.release("two")
        assert await wait_for_end(alice, 4) == "done"
    assert responder.begun == ["one", "two"]


async def test_waiting_answers_count_as_open_streams(make_node: MakeNode) -> None:
    """One that is stopped leaves its place at once."""
    responder = Ordered()
    sessions = {"max_open_streams": 2, "max_open_streams_per_client": 2}
    node = answer_with(make_node(sessions=sessions), responder)
    async with talk(node) as alice:
        for message in ("one", "two"):
            await alice.say_and_wait(message)
        await alice.say("three")
        assert (await alice.receive_type("error"))["code"] == "rate_limited"
        await alice.send(type="cancel", offset=4)
        assert await wait_for_end(alice, 4) == "cancelled"
        assert await alice.say_and_wait("four") == 5
        responder.release("one")
        await wait_until(lambda: responder.begun == ["one", "four"])


def leave_answer(text: str) -> str:
    """Insert an answer whose node died a moment ago."""
    session_id = make_session()
    rows = [("client", "done", '"one"'), ("server", "streaming", text)]
    for offset, (sender, state, data) in enumerate(rows, 1):
        HistoryEntry.objects.create(
            session_id=session_id, offset=offset, sender=sender, state=state, data=data
        )
    Session.objects.filter(pk=session_id).update(last_offset=2)
    dead = work.Terms(owner="dead", lease_seconds=0.5, timeout_seconds=60)
    work.add([work.NewWork(session_id, 2, 1, "key")], dead)
    return session_id


@pytest.mark.parametrize(
    ("text", "begun"), [('{"text":""}', ["one", "two"]), ('{"text":"half"}', ["two"])]
)
async def test_the_answer_of_a_dead_node_ends_before_the_next_begins(
    make_node: MakeNode, text: str, begun: list[str]
) -> None:
    """An answer without a text is given anew, another one is interrupted."""
    responder = Ordered()
    node = answer_with(make_node(**QUICK), responder)
    session_id = await sync_to_async(leave_answer)(text)
    async with talk(node, session_id) as alice:
        await alice.say_and_wait("two")
        await wait_until(lambda: responder.begun == begun[:1], 20)
        if len(begun) > 1:
            responder.release("one")
            await wait_until(lambda: responder.begun == begun)
        responder.release("two")
        await wait_for_state(session_id, 4, "done")


async def test_a_dead_node_leaves_its_waiting_answers_in_their_order(
    make_node: MakeNode,
) -> None:
    def leave() -> str:
        session_id = leave_answer('{"text":""}')
        rows = [("client", "done", '"two"'), ("server", "streaming", '{"text":""}')]
        for offset, (sender, state, data) in enumerate(rows, 3):
            HistoryEntry.objects.create(
                session_id=session_id,
                offset=offset,
                sender=sender,
                state=state,
                data=data,
            )
        dead = work.Terms(owner="dead", lease_seconds=-1, timeout_seconds=60)
        work.add([work.NewWork(session_id, 4, 3, "other")], dead)
        return session_id

    responder = Ordered()
    node = make_node(**QUICK)
    session_id = await sync_to_async(leave)()
    answer_with(node, responder)
    await wait_until(lambda: responder.begun == ["one"], 20)
    responder.release("one")
    await wait_until(lambda: responder.begun == ["one", "two"], 20)
    responder.release("two")
    await wait_for_state(session_id, 4, "done")


def test_the_time_of_a_waiting_answer_has_not_begun() -> None:
    session_id = leave_answer('{"text":""}')
    HistoryEntry.objects.create(
        session_id=session_id, offset=4, sender="server", state="streaming"
    )
    late = work.Terms(owner="a", lease_seconds=60, timeout_seconds=-1)
    work.add([work.NewWork(session_id, 4, 3, "other")], late)
    terms = work.Terms(owner="a", lease_seconds=60, timeout_seconds=60)
    (waiting,) = work.renew(terms, has_waiting=True)
    assert (waiting.is_blocked, waiting.is_late) == (True, False)
    HistoryEntry.objects.filter(offset=2).update(state="done")
    (free,) = work.renew(late, has_waiting=True)
    assert (free.is_blocked, free.is_late) == (False, False)
    assert not work.is_blocked(session_id, 4)


def leave_two() -> str:
    """Insert an answer whose node died, and one behind it, which has not begun."""
    session_id = leave_answer('{"text":""}')
    HistoryEntry.objects.create(
        session_id=session_id, offset=4, sender="server", state="streaming"
    )
    late = work.Terms(owner="dead", lease_seconds=-1, timeout_seconds=-1)
    work.add([work.NewWork(session_id, 4, 3, "other")], late)
    lately = timezone.now() - timedelta(seconds=0.5)
    Work.objects.filter(offset=2).update(leased_until=lately)
    return session_id


def test_a_takeover_is_no_attempt_of_an_answer_that_has_not_begun() -> None:
    leave_two()
    for number in range(2, 6):
        terms = work.Terms(owner=f"{number}", lease_seconds=-1, timeout_seconds=60)
        begun, waiting = work.take_over(terms, in_turn=True)
        assert (begun.attempts, begun.is_blocked) == (number, False)
        assert (waiting.attempts, waiting.is_blocked) == (1, True)
        assert not waiting.is_late
    HistoryEntry.objects.filter(offset=2).update(state="interrupted")
    terms = work.Terms(owner="last", lease_seconds=-1, timeout_seconds=60)
    (begun,) = work.take_over(terms, in_turn=True)
    assert (begun.offset, begun.attempts) == (4, 2)


def test_a_takeover_is_an_attempt_of_what_does_not_wait_its_turn() -> None:
    leave_two()
    terms = work.Terms(owner="a", lease_seconds=-1, timeout_seconds=60)
    assert [one.attempts for one in work.take_over(terms)] == [2, 2]


async def test_a_stream_has_no_time_limit_while_it_waits(make_node: MakeNode) -> None:
    """Another one that began later has reached its limit meanwhile."""
    # No check of work falls into the wait: the row has a limit of its own.
    node = make_node(DyingDatabase(), sessions={"stream_timeout_seconds": 0.1})
    log = get_log(node)

    async def reach_limit(session_id: str) -> None:
        with pytest.raises(StreamEnded, match="took longer"):
            async with log.stream(session_id):
                await asyncio.Event().wait()

    async with talk(node) as alice:
        await log.append(alice.session_id, "first")
        with pytest.raises(StreamEnded, match="took longer"):
            async with log.stream(alice.session_id) as stream:
                with stream.without_deadline():
                    await asyncio.create_task(reach_limit(alice.session_id))
                    assert not stream.is_cancelled
                await asyncio.Event().wait()
