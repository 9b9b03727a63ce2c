"""Code outside of a node waits for a person, in a stream with a key."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from connections.node.node import Node
from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from sessions_history import approvals, writer
from sessions_history.approval_models import Approval
from sessions_history.approvals import Call
from sessions_history.decisions import Decision
from sessions_history.exceptions import StreamEnded
from sessions_history.log import SessionLog
from sessions_history.models import HistoryEntry, Session, Work
from sessions_history.parts import Part
from sessions_history.work import Takes
from sessions_history.writer import open_stream
from tests.integration.redis_process import RedisProcess
from tests.pages import PRODUCE, read_blocks, read_section
from tests.sessions_history.appends import in_thread
from tests.sessions_history.approving import (
    ARGUMENTS,
    V2,
    decide,
    read_first_call,
    receive_end,
    receive_state,
)
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = scale(2)
"""How long a stream may take where its wait outlasts it: it may begin slowly."""

SOON: dict[str, Any] = {"sessions": {"position_seconds": 0.1}}
CALL = Part("tool_call", id="c1", name="refund", arguments=ARGUMENTS)
DONE = Part("tool_call", id="c1", state="done", result={"refunded": 7})


@pytest.fixture(autouse=True)
def writing_process() -> Iterator[None]:
    """The writer of this process, which is no node here."""
    with override_settings(WEBSOCKET=make_config()):
        yield
        writer.close()


async def begin(alice: Talk) -> str:
    """Make a session whose next entry is the second; return it."""
    await alice.say_and_wait({"text": "my money!"})
    return alice.session_id


async def refund(session_id: str) -> Decision:
    """Ask in the way that a task does which may run again."""
    async with open_stream(session_id, key="task") as stream:
        if not stream.parts:
            await stream.write(CALL)
        decision = await stream.approval("c1")
        if decision.is_approved:
            await stream.write(DONE)
        return decision


def refund_sync(session_id: str, timeout_seconds: float | None = None) -> Decision:
    with open_stream(session_id, key="task") as stream:
        stream.write(CALL)
        return stream.approval("c1", timeout_seconds=timeout_seconds)


@pytest.mark.parametrize(
    ("kind", "state"), [("approve", "approved"), ("deny", "denied")]
)
async def test_a_task_waits_for_a_person(
    make_node: MakeNode, kind: str, state: str
) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        working = asyncio.create_task(refund(await begin(alice)))
        await receive_state(alice, "awaiting_approval")
        await decide(alice, kind, note="a regular")
        author = alice.hello["author"]
        assert await working == Decision(state=state, by=author, note="a regular")
        assert await receive_end(alice) == "done"
    row = await Approval.objects.aget()
    assert (row.state, row.is_open) == (state, False)


async def test_synchronous_code_waits_for_a_person(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(in_thread(lambda: refund_sync(session_id)))
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "approve")
        assert (await working).is_approved
        assert await receive_end(alice) == "done"


async def test_a_wait_ends_as_expired(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        decision = await in_thread(lambda: refund_sync(session_id, 0.1))
        assert decision == Decision(state="expired")
        await receive_state(alice, "denied")


async def test_only_a_call_of_the_stream_is_asked_about(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        async with open_stream(await begin(alice)) as stream:
            with pytest.raises(ValueError, match="no tool call 'c1'"):
                await stream.approval("c1")
            await stream.write(CALL)
            with pytest.raises(ValueError, match="above 0, not -1"):
                await stream.approval("c1", timeout_seconds=-1)
        with pytest.raises(StreamEnded, match="its block was left"):
            await stream.approval("c1")


async def test_redis_carries_the_decision(redis_process: RedisProcess) -> None:
    """No check of work runs within the test."""
    config, url = make_config(), redis_process.url
    node = Node(config, database=Database(), redis_url=url)
    database = Database()
    log = SessionLog(
        database, node_id="0" * 32, config=config, redis_url=url, takes=Takes.NONE
    )
    with override_settings(WEBSOCKET=config, REDIS_URL=url):
        await node.start()
        async with (
            talk(node, subprotocols=V2) as alice,
            log.stream(await begin(alice)) as stream,
        ):
            await stream.write(CALL)
            asking = asyncio.ensure_future(log.answers.ask(stream, "c1"))
            await receive_state(alice, "awaiting_approval")
            await decide(alice, "approve")
            async with asyncio.timeout(scale(20)):
                assert (await asking).is_approved
        await log.stop()
        await database.close()
        await node.stop()


async def cancel(working: "asyncio.Task[Decision]") -> None:
    """Cancel a task as a worker that shuts down."""
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_second_attempt_waits_on(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(refund(session_id))
        await receive_state(alice, "awaiting_approval")
        row = await Approval.objects.aget()
        await cancel(working)
        assert await receive_end(alice) == "interrupted"
        assert (await decide(alice, "approve"))["code"] == "not_found"
        working = asyncio.create_task(refund(session_id))
        await wait_until_waiting(session_id)
        await decide(alice, "approve", 2)
        assert (await working).is_approved
    again = await Approval.objects.aget()
    assert (again.pk, again.expires_at) == (row.pk, row.expires_at)
    call = await read_first_call()
    assert (call["arguments"], call["result"]) == (ARGUMENTS, {"refunded": 7})


async def wait_until_waiting(session_id: str) -> None:
    """Wait until the entry streams again, and its call waits for a person."""
    entries = HistoryEntry.objects.filter(session=session_id, offset=2)

    async def is_waiting() -> bool:
        return await entries.filter(state="streaming").aexists()

    await wait_until(is_waiting, 20)


async def test_a_second_attempt_finds_the_decision(make_node: MakeNode) -> None:
    """The first one lost its lease, and gets none."""
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(refund(session_id))
        await receive_state(alice, "awaiting_approval")
        await HistoryEntry.objects.filter(offset=2).aupdate(node="another")
        await Work.objects.aupdate(owner="another", leased_until="2100-01-01T00:00Z")
        await decide(alice, "approve")
        with pytest.raises(StreamEnded):
            await working
        assert (await Approval.objects.aget()).is_open
        await Work.objects.aupdate(leased_until="2020-01-01T00:00Z")
        assert (await refund(session_id)).is_approved
    assert (await read_first_call())["state"] == "done"


async def test_one_attempt_gets_an_approval(make_node: MakeNode) -> None:
    """Whether the tool of a task that failed has run is unknown."""
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)

        async def fail() -> None:
            async with open_stream(session_id, key="task") as stream:
                await stream.write(CALL)
                assert (await stream.approval("c1")).is_approved
                assert (await stream.approval("c1")).is_approved
                raise OSError("the bank is away")

        working = asyncio.create_task(fail())
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "approve")
        with pytest.raises(OSError, match="bank"):
            await working
        author = alice.hello["author"]
        assert await refund(session_id) == Decision(state="interrupted", by=author)
    call = await read_first_call()
    assert (call["state"], "result" in call) == ("error", False)


async def test_a_stop_ends_the_wait(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        after: list[bool] = []

        async def work() -> None:
            async with open_stream(session_id) as stream:
                await stream.write(CALL)
                try:
                    await stream.approval("c1")
                except StreamEnded:
                    # The block is not cancelled: it has learned of the end.
                    await asyncio.to_thread(threading.Event().wait, 0.01)
                    after.append(stream.is_cancelled)

        working = asyncio.create_task(work())
        await receive_state(alice, "awaiting_approval")
        await alice.send(type="cancel", offset=2)
        async with asyncio.timeout(scale(20)):
            await working
        assert (after, await receive_end(alice)) == ([True], "cancelled")
        assert (await decide(alice, "approve"))["code"] == "not_found"


async def test_a_stop_ends_the_wait_of_synchronous_code(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(in_thread(lambda: refund_sync(session_id)))
        await receive_state(alice, "awaiting_approval")
        await alice.send(type="cancel", offset=2)
        with pytest.raises(StreamEnded, match="cancelled"):
            async with asyncio.timeout(scale(20)):
                await working


async def test_the_end_of_the_writer_ends_the_wait(make_node: MakeNode) -> None:
    """As at the exit of a process that closes it."""
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(in_thread(lambda: refund_sync(session_id)))
        await receive_state(alice, "awaiting_approval")
        await asyncio.to_thread(writer.close)
        with pytest.raises(StreamEnded):
            async with asyncio.timeout(scale(20)):
                await working
        assert await receive_end(alice) == "interrupted"


async def test_the_removal_of_the_session_ends_the_wait(make_node: MakeNode) -> None:
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        working = asyncio.create_task(refund(session_id))
        await receive_state(alice, "awaiting_approval")
    await Session.objects.filter(pk=session_id).adelete()
    with pytest.raises(StreamEnded):
        async with asyncio.timeout(scale(20)):
            await working


async def test_a_wait_that_expires_after_the_removal_has_ended(
    make_node: MakeNode,
) -> None:
    """It learns of the removal before the stream does."""
    database = Database()
    log = SessionLog(database, node_id="0" * 32, config=make_config(), takes=Takes.NONE)
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        with pytest.raises(StreamEnded, match="session is deleted"):
            async with log.stream(session_id) as stream:
                await stream.write(CALL)
                asking = log.answers.ask(stream, "c1", timeout_seconds=scale(2))
                waiting = asyncio.ensure_future(asking)
                await receive_state(alice, "awaiting_approval")
                await Session.objects.filter(pk=session_id).adelete()
                await waiting
    await log.stop()
    await database.close()


async def test_a_wait_renews_the_lease_and_has_no_time_limit(
    make_node: MakeNode,
) -> None:
    limits = {"sessions": {"stream_timeout_seconds": SECONDS}}
    with override_settings(WEBSOCKET=make_config(**limits)):
        async with talk(make_node(**SOON), subprotocols=V2) as alice:
            session_id = await begin(alice)
            working = asyncio.create_task(refund(session_id))
            await receive_state(alice, "awaiting_approval")
            first = await Work.objects.aget()

            async def is_renewed() -> bool:
                now: Work = await Work.objects.aget()
                leases = (first.leased_until, now.leased_until)
                return is_twice(*leases) and is_twice(first.ends_at, now.ends_at)

            await wait_until(is_renewed, 20)
            await decide(alice, "approve")
            assert (await working).is_approved
            assert await receive_end(alice) == "done"


def is_twice(before: datetime, now: datetime) -> bool:
    """Return True if a moment has moved by more than the limit of the stream."""
    return (now - before).total_seconds() > 1.2 * SECONDS


async def test_a_wait_that_was_left_can_be_taken_up(make_node: MakeNode) -> None:
    """As by code that does something else now and then."""
    async with (
        talk(make_node(**SOON), subprotocols=V2) as alice,
        open_stream(await begin(alice)) as stream,
    ):
        await stream.write(CALL)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stream.approval("c1")
        await wait_until(lambda: Approval.objects.aexists())
        asking = asyncio.ensure_future(stream.approval("c1"))
        await receive_state(alice, "awaiting_approval")
        call = Call(alice.session_id, 2, "c1")
        await sync_to_async(approvals.decide)(call, is_approved=True, by="user:7")
        async with asyncio.timeout(scale(20)):
            assert (await asking).is_approved


async def test_the_example_of_the_page_runs(make_node: MakeNode) -> None:
    section = read_section(PRODUCE, "Wait for a person")
    (block,) = read_blocks(section, "python")
    names: dict[str, Any] = {}
    exec(compile(block, "example", "exec"), names)
    async with talk(make_node(**SOON), subprotocols=V2) as alice:
        session_id = await begin(alice)
        work = partial(names["pay_back"], session_id, "task", lambda order: -order)
        working = asyncio.create_task(in_thread(work))
        await receive_state(alice, "awaiting_approval")
        await decide(alice, "approve")
        await working
    assert (await read_first_call())["result"] == -7
