"""Tool calls that wait for a person: asked, decided, stopped and taken over."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone

from connections.personal_data.person import find_user_person
from connections.personal_data.tables import get_personal_tables
from connections.testing.waiting import scale, wait_until
from sessions_history import approvals
from sessions_history.approval_models import Approval
from sessions_history.approvals import Call
from sessions_history.decisions import Decision
from sessions_history.exceptions import ApprovalDecided, ApprovalNotFound
from sessions_history.log import get_log
from sessions_history.models import EntryChunk, HistoryEntry, Work
from sessions_history.parts import Part
from sessions_history.pruning import interrupt_abandoned
from sessions_history.reads import read_entries_at
from sessions_history.responders import AnswerContext, HistoryMessage
from tests.connections.switchable_database import SwitchableDatabase
from tests.sessions_history.approving import (
    QUICK,
    V2,
    Careful,
    ask_and_leave,
    decide,
    receive_end,
    receive_state,
    set_up,
)
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.members import add_members
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = scale(2)
"""How long an answer may take where a test outlasts it: it may begin slowly."""


@pytest.mark.parametrize(
    ("kind", "state", "outcome"),
    [("approve", "running", "approved"), ("deny", "denied", "denied")],
)
async def test_a_person_decides(
    make_node: MakeNode, kind: str, state: str, outcome: str
) -> None:
    node = make_node()
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        await alice.send(
            type=kind, id="deciding-page-1", offset=2, part="c1", note="a regular"
        )
        author = alice.hello["author"]
        change = await receive_state(alice, state)
        approval = {"state": outcome, "by": author, "note": "a regular"}
        assert change["approval"] == approval
        assert await receive_end(alice) == "done"
    assert responder.decisions == [Decision(state=outcome, by=author, note="a regular")]
    row = await Approval.objects.aget()
    assert (row.state, row.decided_by, row.is_open) == (outcome, author, False)
    entry = await HistoryEntry.objects.aget(offset=2)
    assert f"It is {outcome}." in entry.data
    assert '"by":' in entry.parts


async def test_a_decision_counts_once(make_node: MakeNode) -> None:
    node = make_node()
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        for number in (1, 2, 2):
            reply = await decide(alice, "approve", number)
            assert (reply["type"], reply["offset"]) == ("ack", 2)
        contrary = await decide(alice, "deny", 3)
        assert contrary["code"] == "conflict"
        assert "approved already by guest:" in contrary["message"]
        await wait_until(lambda: len(responder.decisions) == 1)
    assert responder.decisions[0].is_approved


async def test_what_does_not_wait_is_unknown(make_node: MakeNode) -> None:
    node = make_node()
    set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        wrong: list[dict[str, Any]] = [
            {"offset": 1},
            {"part": "c2"},
            {"epoch": "another"},
        ]
        for number, fields in enumerate(wrong):
            reply = await decide(alice, "approve", number, **fields)
            assert reply["code"] == "not_found"
        bad: list[dict[str, Any]] = [
            {"offset": "2"},
            {"part": 3},
            {"part": ""},
            {"note": "x" * 1001},
            {"note": None},
        ]
        for number, fields in enumerate(bad, 10):
            reply = await decide(alice, "deny", number, **fields)
            assert reply["code"] == "invalid_message", fields
        assert (await decide(alice, "approve", 20, epoch=alice.hello["epoch"]))[
            "type"
        ] == "ack"


async def test_writers_decide_and_readers_and_agents_do_not(
    make_node: MakeNode,
) -> None:
    node = make_node()
    responder = set_up(node)
    users: dict[str, User] = {
        role: await User.objects.acreate(username=role)
        for role in ("reader", "agent", "writer")
    }
    session_id = await add_members(**users)
    async with talk(node, session_id, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        for role in ("reader", "agent"):
            async with talk(node, session_id, user=users[role]) as member:
                refused = await decide(member, "approve")
                assert refused["code"] == "forbidden"
                assert f"the role {role}" in refused["message"]
        assert responder.decisions == []
        async with talk(node, session_id, user=users["writer"]) as member:
            assert (await decide(member, "deny"))["type"] == "ack"
        change = await receive_state(alice, "denied")
        assert change["approval"]["by"] == f"user:{users['writer'].pk}"


async def test_the_end_of_an_answer_has_nobody_who_was_forgotten_meanwhile(
    make_node: MakeNode,
) -> None:
    """The node that writes it knows who decided."""
    node = make_node()
    log, released = get_log(node), asyncio.Event()

    class Slow(Careful):
        async def respond(
            self,
            message: Any,
            history: Sequence[HistoryMessage],
            context: AnswerContext,
        ) -> AsyncIterator[str | Part]:
            async for piece in super().respond(message, history, context):
                yield piece
            await released.wait()

    log.responder = Slow()
    bob = await User.objects.acreate(username="bob")
    session_id = await add_members(writer=bob)
    async with talk(node, session_id, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        async with talk(node, session_id, user=bob) as member:
            reply = await decide(member, "approve", note="from bob")
            assert reply["type"] == "ack"
        await receive_state(alice, "done")
        chunks = EntryChunk.objects.filter(text__contains="from bob")
        await wait_until(chunks.aexists)

        def forget() -> int:
            (table,) = [
                one
                for one in get_personal_tables()
                if one.name == "approvals_elsewhere"
            ]
            return table.erase_some(find_user_person(bob), "forgotten:1", 500)

        assert await sync_to_async(forget)() == 1
        released.set()
        assert await receive_end(alice) == "done"
    entry = await HistoryEntry.objects.aget(session=session_id, offset=2)
    assert '"result":{"refunded":7}' in entry.parts
    assert '"approval":{"state":"approved"}' in entry.parts
    assert "bob" not in entry.parts


async def test_a_wait_ends_as_expired(make_node: MakeNode) -> None:
    node = make_node(sessions={"approval_timeout_seconds": 1})
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        change = await receive_state(alice, "denied")
        assert change["approval"] == {"state": "expired"}
        assert await receive_end(alice) == "done"
        late = await decide(alice, "approve")
        assert (late["code"], "expired" in late["message"]) == ("conflict", True)
    assert responder.decisions == [Decision(state="expired")]


async def test_stop_ends_the_wait(make_node: MakeNode) -> None:
    node = make_node()
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        await alice.send(type="cancel", offset=2)
        assert await receive_end(alice) == "cancelled"
        late = await decide(alice, "approve")
        assert late["code"] == "not_found"
    assert responder.decisions == []


async def test_a_wait_is_not_the_time_of_an_answer(make_node: MakeNode) -> None:
    """Neither is it counted for the limits of a client and a node."""
    node = make_node(
        sessions={
            "stream_timeout_seconds": SECONDS,
            "max_open_streams_per_client": 1,
        }
    )
    responder = set_up(node)
    log = get_log(node)
    async with talk(node, subprotocols=V2) as alice, talk(node) as elsewhere:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        begun_at = asyncio.get_running_loop().time()
        loop = asyncio.get_running_loop()
        await wait_until(lambda: loop.time() - begun_at > 1.2 * SECONDS)
        await log.check_work()
        await elsewhere.say({"text": "mine!"})
        await elsewhere.receive_type("ack")
        row = await Work.objects.aget(session=alice.session_id)
        assert row.ends_at > timezone.now()
        assert (await decide(alice, "approve"))["type"] == "ack"
        assert await receive_end(alice) == "done"
    assert len(responder.decisions) == 1


async def test_a_person_on_another_node_decides(make_node: MakeNode) -> None:
    """The nodes share nothing but their database."""
    first, second = make_node(), make_node()
    responder = set_up(first)
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        async with talk(second, alice.session_id) as elsewhere:
            assert (await decide(elsewhere, "approve"))["type"] == "ack"
        await wait_until(lambda: bool(responder.decisions))
        assert await receive_end(alice) == "done"


async def test_another_node_goes_on_when_one_stops(make_node: MakeNode) -> None:
    first = make_node(**QUICK)
    former = set_up(first)
    session_id = await ask_and_leave(first)
    await asyncio.wait_for(get_log(first).drain(), scale(10))
    await first.stop()
    entry = await HistoryEntry.objects.aget(session=session_id, offset=2)
    assert entry.state == "streaming"
    second = make_node(**QUICK)
    responder = set_up(second)
    async with talk(second, session_id, subprotocols=V2) as alice:
        await wait_until(lambda: bool(responder.contexts), 20)
        assert (await decide(alice, "approve"))["type"] == "ack"
        assert await receive_end(alice) == "done"
    (context,) = responder.contexts
    assert [one["id"] for one in context.parts] == ["text", "c1"]
    assert context.text == "I ask. "
    assert (former.decisions, len(responder.decisions)) == ([], 1)
    entry = await HistoryEntry.objects.aget(session=session_id, offset=2)
    assert entry.data == '{"text":"I ask. It is approved."}'
    assert entry.parts.count('"refund"') == 1


async def test_what_is_queued_behind_a_wait_is_answered_by_another_node(
    make_node: MakeNode,
) -> None:
    """It is left to that node, which gives the answer after the decision."""
    first = make_node(**QUICK)
    former = set_up(first)
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        assert await alice.say_and_wait({"text": "and?"}) == 3
        session_id = alice.session_id
    await asyncio.wait_for(get_log(first).drain(), scale(10))
    await first.stop()
    entries = HistoryEntry.objects.filter(session=session_id, offset__in=(2, 4))
    states = entries.values_list("state", flat=True)
    assert [one async for one in states] == ["streaming", "streaming"]
    second = make_node(**QUICK)
    responder = set_up(second)
    async with talk(second, session_id, subprotocols=V2) as alice:
        await wait_until(lambda: bool(responder.contexts), 20)
        assert (await decide(alice, "approve"))["type"] == "ack"
        assert await receive_end(alice) == "done"
        await receive_state(alice, "awaiting_approval")
        assert (await decide(alice, "deny", 2, offset=4))["type"] == "ack"
        assert await receive_end(alice, 4) == "done"
    assert len(former.contexts) == 1
    assert [one.state for one in responder.decisions] == ["approved", "denied"]


async def test_a_decision_while_no_node_waits_is_kept(make_node: MakeNode) -> None:
    first = make_node(**QUICK)
    set_up(first)
    session_id = await ask_and_leave(first)
    await first.stop()
    await sync_to_async(approvals.decide)(
        Call(session_id, 2, "c1"), is_approved=False, by="user:7", note="no"
    )
    responder = set_up(make_node(**QUICK))
    await wait_until(lambda: bool(responder.decisions), 20)
    assert responder.decisions == [Decision(state="denied", by="user:7", note="no")]


async def test_a_responder_that_cannot_go_on_is_interrupted(
    make_node: MakeNode,
) -> None:
    first = make_node(**QUICK)
    set_up(first).is_resumable = False
    session_id = await ask_and_leave(first)
    await asyncio.wait_for(get_log(first).drain(), scale(10))
    await first.stop()
    entry = await HistoryEntry.objects.aget(session=session_id, offset=2)
    assert entry.state == "interrupted"
    with pytest.raises(ApprovalNotFound):
        await get_log(make_node()).answers.decide(
            Call(session_id, 2, "c1"), is_approved=True, by="", note="", epoch=""
        )


async def test_a_sweep_spares_what_waits_until_it_expires(make_node: MakeNode) -> None:
    """What is queued behind it too, but for a stream of the application."""
    first = make_node(**QUICK)
    set_up(first)
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        await alice.say_and_wait({"text": "and?"})
        session_id = alice.session_id
    await first.stop()
    await HistoryEntry.objects.acreate(
        session_id=session_id, offset=5, sender="server", state="streaming"
    )
    long_ago = timezone.now() - timedelta(hours=1)
    await Work.objects.acreate(
        session_id=session_id, offset=5, leased_until=long_ago, ends_at=long_ago
    )
    await Work.objects.aupdate(leased_until=long_ago)
    await HistoryEntry.objects.aupdate(at=long_ago)
    sweep = sync_to_async(interrupt_abandoned)
    assert await sweep(100) == 1
    streaming = HistoryEntry.objects.filter(state="streaming").values_list("offset")
    assert [one async for one in streaming] == [(2,), (4,)]
    # Nobody goes on with what is queued behind an answer that was cancelled.
    asking = HistoryEntry.objects.filter(offset=2)
    await asking.aupdate(state="cancelled")
    assert await sweep(100) == 1
    await HistoryEntry.objects.filter(offset__in=(2, 4)).aupdate(state="streaming")
    await Approval.objects.aupdate(expires_at=long_ago)
    assert await sweep(100) == 2


async def test_a_call_that_differs_is_asked_anew(make_node: MakeNode) -> None:
    """A person approved other arguments than those of a second attempt."""
    node = make_node()
    log = get_log(node)

    class Changing(Careful):
        async def respond(
            self,
            message: Any,
            history: Sequence[HistoryMessage],
            context: AnswerContext,
        ) -> AsyncIterator[str | Part]:
            yield Part("tool_call", id="c1", name="refund", arguments="1")
            self.decisions.append(await context.approval("c1"))
            self.decisions.append(await context.approval("c1"))
            yield Part("tool_call", id="c1", arguments="000")
            self.decisions.append(await context.approval("c1"))

    responder = log.responder = Changing()
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "approve")
        await wait_until(lambda: len(responder.decisions) == 2)
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "deny", 2)
        await wait_until(lambda: len(responder.decisions) == 3)
    assert [one.state for one in responder.decisions] == [
        *("approved", "approved", "denied")
    ]


async def test_only_a_call_of_the_answer_is_asked_about(make_node: MakeNode) -> None:
    node = make_node()
    errors: list[Exception] = []

    class Mistaken(Careful):
        async def respond(
            self,
            message: Any,
            history: Sequence[HistoryMessage],
            context: AnswerContext,
        ) -> AsyncIterator[str | Part]:
            yield Part("reasoning", id="r1", text="hm")
            for part_id, seconds in [("c1", None), ("r1", None), ("r1", 0)]:
                try:
                    await context.approval(part_id, timeout_seconds=seconds)
                except ValueError as exc:
                    errors.append(exc)

    get_log(node).responder = Mistaken()
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        assert await receive_end(alice) == "done"
    texts = [str(one) for one in errors]
    assert "no tool call 'c1'" in texts[0]
    assert "no tool call 'r1'" in texts[1]
    assert "timeout_seconds is above 0" in texts[2]


async def test_two_calls_wait_at_once(make_node: MakeNode) -> None:
    node = make_node(sessions={"stream_timeout_seconds": SECONDS})
    found: list[Decision] = []

    class Both(Careful):
        async def respond(
            self,
            message: Any,
            history: Sequence[HistoryMessage],
            context: AnswerContext,
        ) -> AsyncIterator[str | Part]:
            for part_id in ("c1", "c2"):
                yield Part("tool_call", id=part_id, name="refund")
            found.extend(
                await asyncio.gather(context.approval("c1"), context.approval("c2"))
            )

    get_log(node).responder = Both()
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval", "c2")
        await decide(alice, "deny", 1, part="c2")
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        await wait_until(lambda: loop.time() - begun_at > 1.2 * SECONDS)
        await decide(alice, "approve", 2, part="c1")
        assert await receive_end(alice) == "done"
    assert [one.state for one in found] == ["approved", "denied"]


async def test_of_two_contrary_decisions_one_counts(make_node: MakeNode) -> None:
    first, second = make_node(), make_node()
    responder = set_up(first)
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        call = Call(alice.session_id, 2, "c1")
        results = await asyncio.gather(
            *(
                get_log(node).answers.decide(
                    call, is_approved=is_approved, by=f"user:{n}", note="", epoch=""
                )
                for n, (node, is_approved) in enumerate(
                    [(first, True), (second, False)] * 3
                )
            ),
            return_exceptions=True,
        )
        await wait_until(lambda: bool(responder.decisions))
    lost = [one for one in results if isinstance(one, ApprovalDecided)]
    assert len(lost) == 3
    assert {one.state for one in lost} == {responder.decisions[0].state}


async def test_an_outage_only_delays_the_decision(make_node: MakeNode) -> None:
    database = SwitchableDatabase()
    node = make_node(database)
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        database.is_away = True
        call = Call(alice.session_id, 2, "c1")
        await sync_to_async(approvals.decide)(call, is_approved=True, by="user:7")
        assert (await decide(alice, "deny"))["code"] == "unavailable"
        database.is_away = False
        assert (await decide(alice, "deny", 2))["code"] == "conflict"
        assert await receive_end(alice) == "done"
    assert responder.decisions == [Decision(state="approved", by="user:7")]


async def test_a_wait_that_nobody_decides_outlasts_an_outage(
    make_node: MakeNode,
) -> None:
    database = SwitchableDatabase()
    node = make_node(database)
    responder = set_up(node, timeout_seconds=SECONDS)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        database.is_away = True
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        await wait_until(lambda: loop.time() - begun_at > 1.2 * SECONDS)
        assert responder.decisions == []
        database.is_away = False
        assert await receive_end(alice) == "done"
    assert responder.decisions == [Decision(state="expired")]


async def test_what_was_done_before_the_question_is_committed_first(
    make_node: MakeNode,
) -> None:
    """A node that goes on would do it again; the wait for its commit is no wait."""
    node = make_node()

    class Late(Careful):
        async def respond(
            self,
            message: Any,
            history: Sequence[HistoryMessage],
            context: AnswerContext,
        ) -> AsyncIterator[str | Part]:
            yield Part("tool_call", id="c0", name="search")
            yield Part("tool_call", id="c1", name="refund")
            yield Part("tool_call", id="c0", state="done", result="x" * 1000)
            await context.approval("c1")

    get_log(node).responder = Late()
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await wait_until(Approval.objects.aexists)
        (entry,) = await sync_to_async(read_entries_at)(alice.session_id, [2])
        await alice.send(type="cancel", offset=2)
        await receive_end(alice)
    assert '"result":"xxx' in entry.parts
