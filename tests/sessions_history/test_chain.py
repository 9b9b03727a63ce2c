"""A client that was away learns that the log went back in time meanwhile."""

import json
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from asgiref.sync import sync_to_async

from connections.client.transcript import Transcript
from connections.testing.waiting import scale
from sessions_history.chain import (
    Mark,
    add_link,
    compare,
    find_resumption,
    has_link,
)
from sessions_history.commits import commit
from sessions_history.entries import Committed, Growth, Request, Rewrite
from sessions_history.exceptions import StreamEnded
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session
from tests.node import find_node
from tests.project import ROOT
from tests.sessions_history.appends import LIMITS, make_append, make_session
from tests.sessions_history.backups import Backup, make_backup, restore
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)


def claim_of(client: Talk, message: dict[str, Any], **claim: Any) -> dict[str, Any]:
    """Return the claim of a client whose last message with a chain is this one."""
    return {"epoch": client.hello["epoch"], "chain": message["chain"], **claim}


async def say(client: Talk, text: str) -> dict[str, Any]:
    """Say something; return its entry."""
    await client.say(text)
    return await client.receive_type("entry")


@pytest.mark.parametrize("regrown", [0, 2, 4])
async def test_a_client_that_was_away_gets_a_reset(
    make_node: MakeNode, regrown: int
) -> None:
    """No node has the session in memory, and the log may be longer than before."""
    async with talk(make_node()) as alice:
        await say(alice, "a")
        backup = await make_backup()
        for text in "bc":
            entry = await say(alice, text)
        claim = claim_of(alice, entry, offset=3)
    other = make_append(alice.session_id, data='"other"')
    await restore(backup, *[other] * regrown)
    async with talk(make_node(), alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "reset"
        if regrown:
            assert again.hello["offset"] == 1 + regrown
            shown = [(await again.receive())["data"] for _ in range(1 + regrown)]
            assert shown == ["a"] + ["other"] * regrown


def hold_in_python(messages: list[dict[str, Any]]) -> str:
    """Give messages to the Python client's transcript; return its position."""
    transcript = Transcript(100)
    for message in messages:
        if message["type"] == "hello":
            transcript.begin(message)
        elif message["type"] == "entry":
            transcript.put(message)
        elif message["type"] == "state":
            transcript.settle(message)
    return transcript.position


_HOLD = """
import { Transcript } from "%s";
const transcript = new Transcript(100);
const methods = { hello: "begin", entry: "put", state: "settle" };
for (const message of %s) {
  if (methods[message.type]) transcript[methods[message.type]](message);
}
console.log(transcript.position);
"""


def hold_in_javascript(messages: list[dict[str, Any]]) -> str:
    """Give messages to the browser client's transcript; return its position."""
    module = ROOT / "connections" / "static" / "connections" / "transcript.js"
    program = _HOLD % (module, json.dumps(messages))
    argv = [find_node(), "--input-type=module", "--eval", program]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=scale(30)
    )
    return done.stdout.strip()


@pytest.mark.parametrize("hold", [hold_in_python, hold_in_javascript])
async def test_both_clients_send_what_they_were_told(
    make_node: MakeNode, hold: Callable[[list[dict[str, Any]]], str]
) -> None:
    """An answer ends after a message; the restored log has the message alone."""
    node = make_node()
    messages: list[dict[str, Any]] = []
    async with talk(node) as alice:
        messages.append(alice.hello)
        async with get_log(node).stream(alice.session_id) as stream:
            await stream.write("answer")
            messages.append(await alice.receive_type("entry"))
            messages.append(await say(alice, "b"))
            backup = await make_backup()
        messages.append(await alice.receive_type("state"))
    position: dict[str, Any] = dict(parse_qsl(await sync_to_async(hold)(messages)))
    async with talk(make_node(), alice.session_id, **position) as again:
        assert again.hello["outcome"] == "nothing_missed"
    other = make_append(alice.session_id, data='"other"')
    await restore(backup, other, other)
    async with talk(make_node(), alice.session_id, **position) as again:
        assert again.hello["outcome"] == "reset"


async def test_a_client_that_was_away_resumes_a_log_that_only_grew(
    make_node: MakeNode,
) -> None:
    async with talk(make_node()) as alice:
        entry = await say(alice, "a")
        claim = claim_of(alice, entry, offset=1)
    node = make_node()
    async with talk(node, alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "nothing_missed"
        assert again.hello["chain"] == claim["chain"]
        newest = (await say(again, "b"))["chain"]
    async with talk(node, alice.session_id, **claim) as late:
        assert (late.hello["outcome"], late.hello["chain"]) == ("resumed", newest)
        assert "chain" not in await late.receive()
    unknown = {**claim, "chain": "of another release"}
    async with talk(node, alice.session_id, **unknown) as late:
        assert late.hello["outcome"] == "resumed"


async def test_an_answer_that_ended_meanwhile_is_the_same(
    make_node: MakeNode,
) -> None:
    node = make_node()
    async with talk(node) as alice, get_log(node).stream(alice.session_id):
        entry = await alice.receive_type("entry")
        claim = claim_of(alice, entry, offset=1, open="1")
    async with talk(make_node(), alice.session_id, **claim) as again:
        assert again.hello["outcome"] == "resumed"


async def test_trimmed_entries_are_a_gap(make_node: MakeNode) -> None:
    """Nothing can tell any more whether they were the same."""
    node = make_node(max_session_history=2)
    async with talk(node) as alice:
        entry = await say(alice, "a")
        claim = claim_of(alice, entry, offset=1)
        for text in "bcd":
            await say(alice, text)
    async with talk(make_node(), alice.session_id, **claim) as again:
        assert (again.hello["outcome"], again.hello["gap"]) == ("gap", [2, 2])


@pytest.mark.parametrize("regrown", [0, 2, 4])
async def test_a_node_notices_though_the_log_has_grown_past_it(
    make_node: MakeNode, regrown: int
) -> None:
    """The offsets alone do not show it."""
    node = make_node(sessions={"position_seconds": 0.05})
    async with talk(node) as alice:
        await say(alice, "a")
        backup = await make_backup()
        for text in "bc":
            await say(alice, text)
        other = make_append(alice.session_id, data='"other"')
        await restore(backup, *[other] * regrown)
        assert (await alice.receive_type("bye"))["code"] == 4202
    session = await Session.objects.aget()
    assert session.epoch != alice.hello["epoch"]


def commit_one(request: Request) -> Committed | type[object]:
    (result,) = commit([request], LIMITS)
    return result if isinstance(result, Committed) else type(result)


def test_a_stream_writes_into_no_other_entry_at_its_offset() -> None:
    """The log was restored, and the same node streams another answer there."""
    session_id = make_session()
    backup = Backup()
    begin = make_append(session_id, data='{"text":""}', state="streaming")
    (lost,) = commit([begin], LIMITS)
    assert isinstance(lost, Committed)
    backup.restore(begin)
    chain = lost.entries[0].chain
    growth = Growth(
        session_id=session_id, offset=1, sequence=1, text="lost", chain=chain
    )
    end = Rewrite(
        session_id=session_id,
        offset=1,
        state="done",
        data='{"text":"lost"}',
        chain=chain,
    )
    assert [commit_one(growth), commit_one(end)] == [StreamEnded] * 2
    entry = HistoryEntry.objects.get()
    assert (entry.state, entry.data) == ("streaming", '{"text":""}')
    own = Rewrite(session_id=session_id, offset=1, state="done", chain=entry.chain)
    assert isinstance(commit_one(own), Committed)
    first, second = HistoryEntry.objects.get().chain.split(" ")
    assert first == entry.chain != second


def test_each_commit_of_a_session_has_a_number() -> None:
    session_id, other = make_session(), make_session()
    commit([make_append(one) for one in (session_id, session_id, other)], LIMITS)
    commit([make_append(session_id)], LIMITS)
    entries = HistoryEntry.objects.filter(session=session_id).order_by("offset")
    numbers = [entry.chain.partition("-")[0] for entry in entries]
    assert numbers == ["1", "1", "2"]
    newest = Mark.parse(Session.objects.get(pk=session_id).chain)
    assert newest == Mark.of_entry(3, entries[2].chain)
    assert Mark.parse(str(newest)) == newest


def test_marks_are_compared_without_a_read_where_they_can_be() -> None:
    mark, same, newer = Mark(2, 1, "a"), Mark(2, 3, "a"), Mark(3, 4, "b")
    assert compare(None, None) is compare(None, mark) is compare(mark, same) is True
    assert compare(mark, None) is compare(newer, mark) is False
    assert compare(mark, Mark(2, 1, "b")) is False
    assert compare(mark, newer) is None
    assert Mark.parse("") is Mark.of_entry(1, "") is None


def test_a_chain_keeps_its_first_and_its_last_two_links() -> None:
    """A client that knows a commit between them is told of no loss."""
    chain = ""
    for number in range(1, 7):
        chain = add_link(chain, f"{number}-{'a' * 12}")
    assert [link.partition("-")[0] for link in chain.split()] == ["1", "5", "6"]
    kept, dropped, foreign = Mark(5, 1, "a" * 12), Mark(3, 1, "b" * 12), Mark(5, 1, "c")
    assert [has_link(chain, mark) for mark in (kept, dropped, foreign)] == [
        True,
        True,
        False,
    ]


def test_a_resumption_is_told_from_an_end() -> None:
    assert find_resumption("3-a", is_streaming=True) == 0
    assert find_resumption("3-a 4-b", is_streaming=False) == 0
    assert find_resumption("3-a 4-b", is_streaming=True) == 4
    assert find_resumption("3-a 5-c 6-d", is_streaming=False) == 5
