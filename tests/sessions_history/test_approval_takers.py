"""An approved tool runs at most once, whichever nodes go on with its answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from connections.exceptions import DatabaseUnavailable
from connections.storage.database import Database
from connections.testing.waiting import wait_until
from sessions_history import approvals
from sessions_history.approval_models import Approval
from sessions_history.approvals import Call
from sessions_history.decisions import Decision
from sessions_history.exceptions import StreamEnded
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Work
from sessions_history.parts import Part
from sessions_history.reads import read_entries_at
from sessions_history.responders import AnswerContext, HistoryMessage
from sessions_history.work import renew
from tests.sessions_history.approving import (
    QUICK,
    V2,
    Careful,
    ask_and_leave,
    decide,
    read_first_call,
    receive_end,
    receive_state,
    set_up,
)
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)


class Both(Careful):
    """Asks about two calls at once."""

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str | Part]:
        if not context.parts:
            for part_id in ("c1", "c2"):
                yield Part("tool_call", id=part_id, name="refund")
        await asyncio.gather(self._ask(context, "c1"), self._ask(context, "c2"))

    async def _ask(self, context: AnswerContext, part_id: str) -> None:
        self.decisions.append(await context.approval(part_id))


@pytest.mark.parametrize(
    ("kind", "decided", "found", "state"),
    [
        ("approve", "approved", "interrupted", "error"),
        ("deny", "denied", "denied", "denied"),
    ],
)
async def test_a_decision_that_another_node_took_allows_nothing(
    make_node: MakeNode, kind: str, decided: str, found: str, state: str
) -> None:
    first = make_node(**QUICK)
    former = get_log(first).responder = Both()
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval", "c2")
        await decide(alice, kind)
        await wait_until(lambda: bool(former.decisions))
        author = alice.hello["author"]
    await first.stop()
    second = make_node(**QUICK)
    responder = get_log(second).responder = Both()
    async with talk(second, alice.session_id, subprotocols=V2) as alice:
        await wait_until(lambda: bool(responder.decisions), 20)
        await decide(alice, "approve", 2, part="c2")
        assert await receive_end(alice) == "done"
    assert former.decisions == [Decision(state=decided, by=author)]
    assert responder.decisions == [
        Decision(state=found, by=author),
        Decision(state="approved", by=author),
    ]
    call = await read_first_call()
    assert call["state"] == state
    assert call["approval"] == {"state": decided, "by": author}


class Unrenewed(Database):
    """The database of a node that pauses for longer than its lease."""

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is renew:
            raise DatabaseUnavailable("paused")
        return await super().write(work, *args, **kwargs)


async def test_a_node_that_was_paused_gets_no_decision(make_node: MakeNode) -> None:
    paused = make_node(Unrenewed(), **QUICK)
    former = set_up(paused)
    session_id = await ask_and_leave(paused)
    other = make_node(**QUICK)
    responder = set_up(other)
    await wait_until(lambda: bool(responder.contexts), 20)
    call = Call(session_id, 2, "c1")
    decision: dict[str, Any] = {"is_approved": True, "by": "user:7", "note": ""}
    await get_log(other).answers.decide(call, epoch="", **decision)
    await wait_until(lambda: bool(responder.decisions))
    # The same decision again wakes the paused node.
    await get_log(paused).answers.decide(call, epoch="", **decision)
    await wait_until(lambda: former.has_left)
    assert (former.decisions, len(responder.decisions)) == ([], 1)


class Observed(Database):
    """A database that shows what is committed when a decision is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is not approvals.take:
            return await super().write(work, *args, **kwargs)
        (entry,) = await self.read(read_entries_at, args[0].session_id, [2])
        self.parts.append(entry.parts)
        taken: Any = await super().write(work, *args, **kwargs)
        if len(self.parts) == 1:
            raise DatabaseUnavailable("the reply to COMMIT is lost")
        return taken


async def test_a_decision_is_taken_after_its_outcome_is_committed(
    make_node: MakeNode,
) -> None:
    """And once, though the reply to the commit is lost."""
    database = Observed()
    node = make_node(database)
    responder = set_up(node)
    async with talk(node, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "approve")
        assert await receive_end(alice) == "done"
    assert len(database.parts) == 2
    assert '"state":"running","approval":{"state":"approved"' in database.parts[0]
    assert [one.state for one in responder.decisions] == ["approved"]


async def test_one_attempt_of_the_owner_takes_a_decision(make_node: MakeNode) -> None:
    node = make_node()
    set_up(node)
    session_id = await ask_and_leave(node)
    call, take = Call(session_id, 2, "c1"), sync_to_async(approvals.take)
    owner = await Work.objects.values_list("owner", flat=True).aget()
    with pytest.raises(StreamEnded):
        await take(call, "another node", "1-a")
    row = await Approval.objects.aget()
    assert (row.is_open, row.taken_by) == (True, "")
    for _ in range(2):
        await take(call, owner, "1-a")
    with pytest.raises(StreamEnded):
        await take(call, owner, "1-a 2-b")
    row = await Approval.objects.aget()
    assert (row.is_open, row.taken_by) == (False, "1-a")


async def test_the_previous_release_took_decisions_for_good(
    make_node: MakeNode,
) -> None:
    """It named no attempt, and could leave the call as one that waits."""
    first = make_node(**QUICK)
    get_log(first).responder = Both()
    async with talk(first, subprotocols=V2) as alice:
        await alice.say({"text": "my money!"})
        await receive_state(alice, "awaiting_approval", "c2")
    await first.stop()
    rows = Approval.objects.filter(part_id="c1")
    await rows.aupdate(state="denied", is_open=False)
    responder = get_log(make_node(**QUICK)).responder = Both()
    await wait_until(lambda: bool(responder.decisions), 20)
    assert responder.decisions == [Decision(state="denied")]
    call = Call(alice.session_id, 2, "c2")
    await sync_to_async(approvals.decide)(call, is_approved=False, by="user:7")

    async def has_ended() -> bool:
        entries = HistoryEntry.objects.filter(offset=2, state="done")
        return await entries.aexists()

    await wait_until(has_ended, 20)
    first_call = await read_first_call()
    assert first_call["state"] == "denied"
    assert first_call["approval"] == {"state": "denied"}
